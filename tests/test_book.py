"""The book: pages and their pairs, the address stamped into them, what the build adds."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml
from docutils import nodes
from docutils.utils import new_document

import heavytail
from tools import accessible, book_extension, docstrings, notebooks, stamp

ROOT = Path(__file__).parents[1]
PAGES = notebooks.pages()
NOTEBOOKS = [page.with_suffix(".ipynb") for page in PAGES]
TEXTS = sorted((ROOT / "book").rglob("*.md"))

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


@cache
def stored(path):
    """Return the notebook of a page."""
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


# Pages and pairs.


@each_page
def test_pairs_are_in_sync(path):
    assert notebooks.percent(path.with_suffix(".ipynb")) == path.read_text(), "run: make notebooks"


@each_page
def test_a_stored_page_was_executed_in_order_without_error(path):
    code = [cell for cell in stored(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    # Nor does it hold a timing, which would change with each execution.
    assert "version" not in stored(path).metadata.get("language_info", {})
    assert not [cell for cell in code if "execution" in cell["metadata"]]
    assert "assert " in path.read_text()


@each_page
def test_figures_are_light_vectors_with_a_caption_and_an_alternative_text(path):
    for cell in stored(path).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert "image/png" not in data
            if picture := data.get("image/svg+xml"):
                assert len(picture) < 400_000  # else: rasterized=True
                assert cell.metadata["mystnb"]["figure"]["caption"]
                assert cell.metadata["mystnb"]["image"]["alt"]


@pytest.mark.parametrize("path", PAGES[:-1], ids=lambda path: path.stem)  # the last sums up
def test_every_chapter_has_its_parts(path):
    """A question, a takeaway, exercises with folded solutions, the way to the reference."""
    text = path.read_text()
    assert re.search(r"^# # .*\n#\n# \*[A-Z]", text, re.MULTILINE)
    parts = ["\n# ## Takeaway\n", "> **Takeaway.**", "\n# ## Exercises\n", "\n# **1. ", "\n# **2. "]
    places = [text.index(part) for part in [*parts, "\n# *Reference:* [](api/"]]
    assert places == sorted(places)
    solutions = text[places[2] :].count('tags=["hide-cell"')
    assert solutions >= len(re.findall(r"\n# \*\*[1-9]\. ", text[places[2] :]))


def test_figures_shown_elsewhere_are_the_pages_own():
    shown = {}
    for page in PAGES:
        shown |= notebooks.shown_elsewhere(stored(page))
    assert set(shown) == set(notebooks.SHOWN_ELSEWHERE)
    for name, picture in shown.items():
        assert (notebooks.IMAGES / f"{name}.svg").read_text() == picture


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text())
    files = [str(path.relative_to(ROOT).with_suffix("")) for path in [*PAGES, *TEXTS]]
    assert sorted(listed) == sorted(files)


# The address.


@pytest.mark.parametrize("path", stamp.targets(), ids=lambda path: path.name)
def test_an_address_comes_and_goes(path, tmp_path):
    assert stamp.stamped(path, stamp.repository()) == path.read_text(), "run: make stamp"
    address = "https://example.org/someone/heavytail"
    copy = tmp_path / path.name
    copy.write_text(stamp.stamped(path, address))
    assert address in copy.read_text()
    assert stamp.stamped(copy, stamp.repository()) == path.read_text()


@pytest.mark.parametrize("owner", ["a", "an-organisation-of-some-length"])
@pytest.mark.parametrize("check", ["format --check", "check"])
def test_a_stamped_page_keeps_the_houses_format(owner, check):
    ruff = [str(Path(sys.executable).with_name("ruff")), *check.split()]
    for path in (PAGES[0], NOTEBOOKS[0]):
        stamped = stamp.stamped(path, f"https://github.com/{owner}/heavytail")
        named = [*ruff, "--stdin-filename", str(path), "-"]
        subprocess.run(named, input=stamped, text=True, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def origin(tmp_path):
    """A git repository with two commits and a folder ``book``."""
    folder = tmp_path / "origin"
    (folder / "book" / "results").mkdir(parents=True)
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    git = ["git", "-C", str(folder), *who]
    subprocess.run([*git, "init", "-q"], check=True)
    for day in (1, 2):
        (folder / "book" / "results" / "day.txt").write_text(f"{day}")
        subprocess.run([*git, "add", "."], check=True)
        date = f"2026-03-0{day}T23:30:00-02:00"  # in UTC a day later
        dated = {**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        subprocess.run([*git, "commit", "-q", "-m", f"day {day}"], check=True, env=dated)
    return folder


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The commands that a cell starts, in a home of its own; pip is only written down."""
    commands, run = [], subprocess.run

    def note(command, **options):
        commands.append([str(part) for part in command])
        return None if "pip" in commands[-1] else run(command, **options)

    monkeypatch.setattr(subprocess, "run", note)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return commands


def test_on_colab_the_cell_clones_installs_and_goes_to_the_book(
    origin, calls, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    clone = tmp_path / "heavytail"
    git = ["git", "clone", "-q", "--depth", "1", origin.as_uri(), str(clone)]
    pip = [sys.executable, "-m", "pip", "install", "-q", f"{clone}[experiments]"]
    for expected in ([git, pip], [pip]):  # run again, it clones no more
        calls.clear()
        exec(stamp.install_cell(origin.as_uri()), {})
        assert calls == expected
        assert str(Path.cwd()) == sys.path[0] == str(clone / "book")
        assert Path("results/day.txt").read_text() == "2"
    assert (clone / ".git" / "shallow").exists()


def test_elsewhere_the_cell_does_nothing(origin, calls, tmp_path):
    cell = stamp.install_cell(origin.as_uri())
    exec(cell, {})
    assert calls == []
    assert Path.cwd() == tmp_path
    assert not (tmp_path / "heavytail").exists()
    wide = stamp.install_cell("https://github.com/someone/heavytail").splitlines()
    assert max(map(len, wide)) <= 72  # the printed column


def test_an_address_comes_into_the_readme_the_citation_and_the_buttons():
    here, elsewhere = "https://github.com/someone/heavytail", "https://example.org/heavytail"
    said = stamp.stamped(ROOT / "README.md", here)
    assert "The book: <https://someone.github.io/heavytail/>." in said
    assert f"`git clone {here}`" in said
    assert "github.io" not in stamp.stamped(ROOT / "README.md", elsewhere)
    assert "no public address yet" in stamp.stamped(ROOT / "README.md", None)
    cited = (stamp.stamped(ROOT / "CITATION.cff", address) for address in (here, None))
    assert [yaml.safe_load(text).get("repository-code") for text in cited] == [here, None]
    config = yaml.safe_load(stamp.stamped(ROOT / "_config.yml", here))
    assert config["repository"]["url"] == here
    assert "colab_url" in config["launch_buttons"]


@pytest.mark.parametrize("name", ["page.py", "README.md"])
def test_a_file_without_a_place_for_it_is_refused(name, tmp_path):
    (tmp_path / name).write_text("# %%\nprint(1)\n")
    with pytest.raises(ValueError, match="one place for the address, found 0"):
        stamp.stamped(tmp_path / name, None)


# What the build adds.


def test_a_page_says_the_day_of_the_last_commit(origin, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert '<time datetime="2026-03-03">' in book_extension.footer(origin)
    # Outside a clone there is none, nor in a folder within a clone of something else.
    nameless = f"<p>heavytail {heavytail.__version__}</p>"
    assert book_extension.footer(origin / "book") == nameless
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert book_extension.last_change(origin) == "1970-01-02"


def test_a_change_of_what_pages_rest_on_is_a_new_cache(tmp_path):
    shutil.copytree(ROOT / "heavytail", tmp_path / "heavytail")
    shutil.copytree(ROOT / "book" / "results", tmp_path / "book" / "results")
    for name in ("requirements.txt", "book/helpers.py", "book/rates.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    found = {book_extension.fingerprint(ROOT)}
    (tmp_path / "unrelated.txt").write_text("x")
    assert book_extension.fingerprint(tmp_path) in found
    for name in ("heavytail/noise.py", "book/helpers.py", "book/results/rates.json"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
        found.add(book_extension.fingerprint(tmp_path))
    assert len(found) == 4


def test_formulas_of_a_docstring_stand_apart_and_bars_are_bars():
    lines = ["With |x| < 1 and ``|y|``", "", "    |x|", "    + 1,", "", "and so on.", ""]
    lines += ["Args:", "    x: |x| is", "", "        - a list", ""]
    formula = [".. code-block:: text", "    :class: formula", ""]
    assert docstrings.marked_up(lines) == [
        *("With \\|x\\| < 1 and ``|y|``", ""),
        *(*formula, "    |x|", "    + 1,", "", "and so on.", ""),
        *("Args:", "    x: \\|x\\| is", "", "        - a list", ""),
    ]
    # A colon in a result sets no type apart.
    result = docstrings.marked_up(["Returns:", "    A pair: x, y."])
    assert result == ["Returns:", "    : A pair: x, y."]


def test_a_signature_is_mended_and_no_other_list():
    fields = "<dl><dt>alpha</dt><dd>an index</dd></dl>"
    signature = '<dt class="sig sig-object py">f(<dl><dd>x,</dd><dd>y</dd></dl>)</dt>'
    found = accessible.mended(f"{signature}<dd>{fields}</dd>")
    assert found.endswith(f"<dd>{fields}</dd>")
    lines = '<span class="sig-line">x,</span><span class="sig-line">y</span>'
    assert f'f(<span class="sig-lines">{lines}</span>)</dt>' in found
    assert accessible.mended(found) == found


def test_a_mark_stays_with_its_formula():
    """And no other text is touched, though it be equal."""
    document = new_document("page")
    line = nodes.paragraph()
    document += line
    line += [nodes.emphasis("", "x"), nodes.Text(", "), nodes.math("", "a"), nodes.Text(", ")]
    line += [nodes.math("", "b"), nodes.Text(" and "), nodes.math("", "c")]
    text = line.astext()
    book_extension.KeepPunctuation(document).apply()
    assert line.astext() == text == "x, a, b and c"
    assert [part.astext() for part in line.findall(nodes.inline)] == ["a,"]
