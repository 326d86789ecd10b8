"""What several pages use: sliders, tables, records."""

import json
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from bs4 import BeautifulSoup

import helpers

mpl.use("Agg")


def drawn(height):
    """Return a figure with one line, from 0 to a height."""
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, height])
    ax.set(ylim=(0, 10))
    return fig


def slider(n=3, **changes):
    options = {"moves": "the height", "name": "fig-line", "caption": "A line.", "alt": "rising"}
    labels = changes.pop("labels", [f"h = {h}" for h in range(n)])
    shown = helpers.slider((drawn(h) for h in range(n)), labels, **options | changes)
    return BeautifulSoup(shown.data, "html.parser")


def test_a_slider_shows_one_picture_and_holds_all():
    before = plt.get_fignums()
    soup = slider(start=1)
    assert plt.get_fignums() == before
    data = json.loads(soup.find("script").string)
    assert data["labels"] == ["h = 0", "h = 1", "h = 2"]
    pictures = ["".join(data["parts"][i] for i in frame) for frame in data["frames"]]
    assert len(set(pictures)) == 3
    shown = soup.find(attrs={"role": "img"})
    assert shown.find("path")
    middle = BeautifulSoup(pictures[1], "html.parser")
    assert middle == BeautifulSoup(shown.decode_contents(), "html.parser")
    assert soup.find("output").string == "h = 1"
    assert (soup.find("input")["value"], soup.find("input")["max"]) == ("1", "2")
    # Axes and letters are held once: ten pictures take less than four times the room of one.
    one, ten = (len(slider(n).find("script").string) for n in (1, 10))
    assert ten < 4 * one


def test_what_a_slider_says_is_text():
    hostile = "</script><b>"
    said = {"moves": "<a & b>", "alt": '"quoted" <b>', "caption": "a < b"}
    soup = slider(1, **said, labels=[hostile])
    assert soup.find("figcaption").get_text() == "a < b"
    assert soup.find(attrs={"role": "img"})["aria-label"] == '"quoted" <b>'
    assert soup.find("label").get_text().startswith("<a & b>")
    assert json.loads(soup.find("script").string)["labels"] == [hostile]
    assert not soup.find("b")


def test_the_same_figure_is_the_same_picture():
    """Without numbers that no eye sees, and none of a scale rounded away."""
    assert helpers._tags(drawn(3)) == helpers._tags(drawn(3)) != helpers._tags(drawn(4))
    text = "".join(helpers._tags(drawn(3)))
    plt.close("all")
    assert re.search(r"scale\(0\.1 -0\.1\)", text)
    assert "scale(0.0)" not in text


NUMBERS = ["3", "∞", "0.2 [0.1, 0.3]", "-0.5", "12,345.6", ".05", "1e-06", "10^-3.5", "98 %", "–"]
NUMBERS += ["0.5 ± 0.02", "3.2 ms"]
WORDS = [
    "type I",
    "0.2 to 0.3",
    "5000 × 784",
    "1-2",
    "not yet",
    "2 layers",
    "a",
    "",
    "–",
    "b",
    "c",
    "d",
]


def test_numbers_stand_to_the_right(monkeypatch):
    shown = []
    monkeypatch.setattr(helpers, "display", lambda table: shown.append(table.data.splitlines()))
    rows = [[number, text, "1"] for number, text in zip(NUMBERS, WORDS, strict=True)]
    helpers.show_table(["number", "text", "one"], [*rows, ["", "", "not run"]])
    helpers.show_table(["a", "b"], [])
    assert [table[1] for table in shown] == ["| ---: | --- | ---: |", "| --- | --- |"]
    assert shown[0][2] == "| 3 | type I | 1 |"
    for text in WORDS:
        helpers.show_table(["a"], [[text]])
        assert shown[-1][1] == "| --- |", text
    with pytest.raises(ValueError, match=r"a row must have 2 entries, got \['1'\]"):
        helpers.show_table(["a", "b"], [["1", "2"], ["1"]])


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
    assert helpers.typeset(text) == shown


def test_records_are_those_beside_the_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert helpers.read_record("compaction")["kinds"]
    assert helpers.recorded("ecg5000-table")[0].finished


def test_a_seed_and_a_size_are_what_they_say():
    assert torch.equal(*(torch.rand(3, generator=helpers.seeded(1)) for _ in range(2)))
    assert helpers.size_of(torch.nn.Linear(4, 3)) == 15
