import json
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

import heavytail
from heavytail import plots

mpl.use("Agg")


def drawn(height):
    """Return a figure with one line, from 0 to a height."""
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, height])
    ax.set(ylim=(0, 10))
    return fig


PLAIN = {"moves": "m", "name": "n", "caption": "c", "alt": "a"}


def slider(n=3, **changes):
    options = {"moves": "the height", "name": "fig-line", "caption": "A line.", "alt": "rising"}
    options |= changes
    labels = [f"h = {h}" for h in range(n)]
    shown = plots.slider((drawn(h) for h in range(n)), labels, **options)
    return BeautifulSoup(shown.data, "html.parser")


def test_a_slider_shows_one_picture_and_holds_all():
    soup = slider(start=1)
    data = json.loads(soup.find("script").string)
    assert data["labels"] == ["h = 0", "h = 1", "h = 2"]
    pictures = ["".join(data["parts"][i] for i in frame) for frame in data["frames"]]
    assert len(set(pictures)) == 3
    shown = soup.find(attrs={"role": "img"})
    assert shown.find("path")
    assert BeautifulSoup(pictures[1], "html.parser") == BeautifulSoup(
        shown.decode_contents(), "html.parser"
    )
    assert soup.find("output").string == "h = 1"
    assert soup.find("input")["value"] == "1"
    assert soup.find("input")["max"] == "2"


def test_pictures_share_their_parts():
    """Axes and letters are held once: ten pictures take less than four times the room of one."""
    one, ten = (len(slider(n).find("script").string) for n in (1, 10))
    assert ten < 4 * one


def test_what_a_slider_says_is_text():
    soup = slider(1, moves="<a & b>", alt='"quoted" <b>', caption="a < b")
    assert soup.find("figcaption").get_text() == "a < b"
    assert soup.find(attrs={"role": "img"})["aria-label"] == '"quoted" <b>'
    assert soup.find("label").get_text().startswith("<a & b>")
    hostile = plots.slider([drawn(1)], ["</script><b>"], **PLAIN)
    soup = BeautifulSoup(hostile.data, "html.parser")
    assert json.loads(soup.find("script").string)["labels"] == ["</script><b>"]
    assert not soup.find("b")


def test_figures_of_a_slider_are_closed_one_by_one():
    before = len(plt.get_fignums())

    def counted():
        for height in range(30):
            assert len(plt.get_fignums()) == before
            yield drawn(height)

    labels = [str(height) for height in range(30)]
    plots.slider(counted(), labels, **PLAIN)
    assert len(plt.get_fignums()) == before


def test_the_same_figure_is_the_same_picture():
    assert plots._parts(drawn(3)) == plots._parts(drawn(3)) != plots._parts(drawn(4))
    plt.close("all")


def test_no_number_of_a_scale_is_rounded_away():
    text = "".join(plots._parts(drawn(3)))
    plt.close("all")
    assert re.search(r"scale\(0\.1 -0\.1\)", text)
    assert "scale(0.0)" not in text


def test_sorted_columns_of_a_power_law_have_its_slope():
    norms = torch.arange(1, 1001, dtype=torch.float64) ** (-1 / 1.5)
    _, ax = plt.subplots()
    plots.sorted_columns(
        ax, norms[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    )
    x, y = ax.lines[0].get_data()
    assert np.polyfit(np.log(x), np.log(y), 1)[0] == pytest.approx(-1 / 1.5, abs=1e-9)
    plt.close("all")


def test_a_hill_plot_is_drawn_in_the_order_of_k(generator):
    x = torch.rand(1000, generator=generator, dtype=torch.float64) ** (-1 / 1.5)
    curve = heavytail.hill_curve(x, [200, 10, 50])
    _, ax = plt.subplots()
    plots.hill_plot(ax, curve)
    k, alpha = ax.lines[0].get_data()
    assert list(k) == [10, 50, 200]
    assert alpha[-1] == pytest.approx(heavytail.hill(x, 200).alpha)
    plt.close("all")


def test_a_table_is_markdown(capsys):
    plots.show_table(["a", "b"], [["1", "2"]])
    assert "Markdown" in capsys.readouterr().out


NUMBERS = [
    "3",
    "∞",
    "0.2 [0.1, 0.3]",
    "-0.5",
    "12,345.6",
    ".05",
    "1e-06",
    "10^-3.5",
    "0.5 ± 0.02",
    "98 %",
    "–",
    "3.2 ms",
]


def test_numbers_stand_to_the_right(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", shown.append)
    texts = ["type I", "0.2 to 0.3", "5000 × 784", "1-2", "not yet", "2 layers", "a", "b", "c"]
    texts += ["d"] * (len(NUMBERS) - len(texts))
    rows = [[number, text, "1"] for number, text in zip(NUMBERS, texts, strict=True)]
    plots.show_table(["number", "text", "one"], [*rows, ["", "", "not run"]])
    plots.show_table(["a", "b"], [])
    rules = [table.data.splitlines()[1] for table in shown]
    assert rules == ["| ---: | --- | ---: |", "| --- | --- |"]
    for text in (*texts, "", "–"):
        plots.show_table(["a"], [[text]])
        assert shown[-1].data.splitlines()[1] == "| --- |", text


def test_a_row_has_an_entry_for_each_title():
    with pytest.raises(ValueError, match=r"a row must have 2 entries, got \['1'\]"):
        plots.show_table(["a", "b"], [["1", "2"], ["1"]])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-0.5 ± 0.1", "−0.5 ± 0.1"),
        ("1-2", "1-2"),
        ("VGG-11", "VGG-11"),
        ("[-1, 2]", "[−1, 2]"),
        ("10^14.3", "$10^{14.3}$"),
        ("1e+06", "$10^{6}$"),
        ("3.2e-04", "$3.2 \\cdot 10^{-4}$"),
        ("$n^{-1/2}$", "$n^{-1/2}$"),
        ("`b0363c1`", "`b0363c1`"),
    ],
)
def test_numbers_are_typeset(text, shown):
    assert plots.typeset(text) == shown
