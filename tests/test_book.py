"""The book: pages and their pairs, the address stamped into them, the built HTML."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document

import heavytail
from tools import accessible, book_extension, docstrings, notebooks, stamp

ROOT = Path(__file__).parents[1]
PAGES = notebooks.pages()
NOTEBOOKS = [page.with_suffix(".ipynb") for page in PAGES]


def by_name(path):
    return path.stem


# Pages and pairs.


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_pairs_are_in_sync(page):
    assert notebooks.percent(page.with_suffix(".ipynb")) == page.read_text(), "run: make notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_every_cell_was_executed_in_order_without_error(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_every_figure_has_a_caption_and_an_alternative_text(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if any("image/svg+xml" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert cell.metadata["mystnb"]["figure"]["caption"]
            assert cell.metadata["mystnb"]["image"]["alt"]


@pytest.mark.parametrize("page", PAGES[:-1], ids=by_name)  # the last sums the others up
def test_every_chapter_has_its_parts(page):
    """A question, a takeaway, exercises with folded solutions, the way to the reference."""
    text = page.read_text()
    assert re.search(r"^# # .*\n#\n# \*[A-Z]", text, re.MULTILINE)
    parts = ["\n# ## Takeaway\n", "> **Takeaway.**", "\n# ## Exercises\n", "\n# **1. ", "\n# **2. "]
    places = [text.index(part) for part in [*parts, "\n# *Reference:* [](api/"]]
    assert places == sorted(places)
    solutions = text[places[2] :].count('tags=["hide-cell"')
    assert solutions >= len(re.findall(r"\n# \*\*[1-9]\. ", text[places[2] :]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_figures_are_vectors_and_light(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert "image/png" not in data
            assert len(data.get("image/svg+xml", "")) < 400_000  # else: rasterized=True


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_every_page_asserts(path):
    assert "assert " in path.with_suffix(".py").read_text()


def test_figures_shown_elsewhere_are_the_pages_own():
    shown = {}
    for path in NOTEBOOKS:
        shown |= notebooks.shown_elsewhere(nbformat.read(path, as_version=4))
    assert set(shown) == set(notebooks.SHOWN_ELSEWHERE)
    for name, picture in shown.items():
        assert (notebooks.IMAGES / f"{name}.svg").read_text() == picture


def test_every_page_is_in_the_table_of_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [contents["root"], *files_in(contents["parts"])]
    files = [*PAGES, *(ROOT / "book").rglob("*.md")]
    assert sorted(listed) == sorted(str(f.relative_to(ROOT).with_suffix("")) for f in files)


def files_in(entries):
    """Yield the files of a part of the table of contents, with those below them."""
    for entry in entries:
        yield from [entry["file"]] if "file" in entry else []
        yield from files_in([*entry.get("chapters", []), *entry.get("sections", [])])


# The address.


@pytest.mark.parametrize("path", stamp.targets(), ids=lambda path: path.name)
def test_the_address_is_that_of_pyproject(path):
    assert stamp.stamped(path, stamp.repository()) == path.read_text(), "run: make stamp"


@pytest.mark.parametrize("path", stamp.targets(), ids=lambda path: path.name)
def test_an_address_comes_and_goes(path, tmp_path):
    address = "https://example.org/someone/heavytail"
    copy = tmp_path / path.name
    copy.write_text(stamp.stamped(path, address))
    assert address in copy.read_text()
    assert stamp.stamped(copy, stamp.repository()) == path.read_text()


@pytest.mark.parametrize("owner", ["a", "someone", "an-organisation-of-some-length"])
@pytest.mark.parametrize("check", ["format --check", "check"])
def test_a_stamped_page_keeps_the_houses_format(owner, check):
    ruff = [str(Path(sys.executable).with_name("ruff")), *check.split()]
    for path in (PAGES[0], NOTEBOOKS[0]):
        stamped = stamp.stamped(path, f"https://github.com/{owner}/heavytail")
        named = [*ruff, "--stdin-filename", str(path), "-"]
        subprocess.run(named, input=stamped, text=True, check=True, stdout=subprocess.DEVNULL)


def test_the_install_cell_is_as_wide_as_the_printed_column():
    cell = stamp.install_cell("https://github.com/someone/heavytail")
    assert [line for line in cell.splitlines() if len(line) > 72] == []


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
        assert Path.cwd() == clone / "book"
        assert Path("results/day.txt").read_text() == "2"
    assert (clone / ".git" / "shallow").exists()


def test_elsewhere_the_cell_does_nothing(origin, calls, tmp_path):
    exec(stamp.install_cell(origin.as_uri()), {})
    assert calls == []
    assert Path.cwd() == tmp_path
    assert not (tmp_path / "heavytail").exists()


def test_an_address_brings_the_buttons():
    text = stamp.stamped(ROOT / "_config.yml", "https://example.org/someone/heavytail")
    config = yaml.safe_load(text)
    assert config["repository"]["url"] == "https://example.org/someone/heavytail"
    assert "colab_url" in config["launch_buttons"]


def test_an_address_comes_into_the_readme_and_the_citation():
    here, elsewhere = "https://github.com/someone/heavytail", "https://example.org/heavytail"
    readme, citation = ROOT / "README.md", ROOT / "CITATION.cff"
    said = stamp.stamped(readme, here)
    assert "The book: <https://someone.github.io/heavytail/>." in said
    assert f"`git clone {here}`" in said
    assert "github.io" not in stamp.stamped(readme, elsewhere)  # only GitHub's Pages are known
    assert "no public address yet" in stamp.stamped(readme, None)
    assert yaml.safe_load(stamp.stamped(citation, here))["repository-code"] == here
    assert "repository-code" not in yaml.safe_load(stamp.stamped(citation, None))


@pytest.mark.parametrize("name", ["page.py", "README.md"])
def test_a_file_without_a_place_for_it_is_refused(name, tmp_path):
    (tmp_path / name).write_text("# %%\nprint(1)\n")
    with pytest.raises(ValueError, match="one place for the address, found 0"):
        stamp.stamped(tmp_path / name, None)


# The version that a page says it is.


def test_the_last_change_is_that_of_the_last_commit(origin, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert book_extension.last_change(origin) == "2026-03-03"
    assert '<time datetime="2026-03-03">' in book_extension.footer(origin)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert book_extension.last_change(origin) == "1970-01-02"


def test_outside_a_clone_there_is_no_date(origin, monkeypatch):
    """Nor in a folder that is only unpacked within a clone of something else."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert book_extension.last_change(origin / "book") is None
    assert book_extension.footer(origin / "book") == f"<p>heavytail {heavytail.__version__}</p>"


# The cache of executed pages.


def test_a_change_of_the_package_is_a_new_cache(tmp_path):
    for part in ("heavytail", "book/results"):
        shutil.copytree(ROOT / part, tmp_path / part, dirs_exist_ok=True)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    before = book_extension.fingerprint(tmp_path)
    assert before == book_extension.fingerprint(ROOT)
    (tmp_path / "unrelated.txt").write_text("x")
    assert book_extension.fingerprint(tmp_path) == before
    module = tmp_path / "heavytail" / "stable.py"
    module.write_text(module.read_text() + "\n")
    assert book_extension.fingerprint(tmp_path) != before


# Docstrings.


def test_formulas_of_a_docstring_stand_apart_and_bars_are_bars():
    lines = ["With |x| < 1 and ``|y|``", "", "    |x|", "    + 1,", "", "and so on.", ""]
    lines += ["Args:", "    x: |x| is", "", "        - a list", ""]
    formula = [".. code-block:: text", "    :class: formula", ""]
    assert docstrings.marked_up(lines) == [
        *("With \\|x\\| < 1 and ``|y|``", ""),
        *(*formula, "    |x|", "    + 1,", "", "and so on.", ""),
        *("Args:", "    x: \\|x\\| is", "", "        - a list", ""),
    ]


def test_a_colon_in_a_result_sets_no_type_apart():
    assert docstrings.marked_up(["Returns:", "    A pair: x, y."]) == [
        "Returns:",
        "    : A pair: x, y.",
    ]


# The built pages, from the stored outputs.


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Build the book with warnings as errors; the folder of its HTML."""
    folder = tmp_path_factory.mktemp("book")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["execute"]["execute_notebooks"] = "off"
    extensions = config["sphinx"]["local_extensions"]
    config["sphinx"]["local_extensions"] = {
        name: str(ROOT / tools) for name, tools in extensions.items()
    }
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    build = [jupyter_book, "build", ".", "-W", "-n", "--keep-going"]
    run = subprocess.run(
        [*build, "--config", str(folder / "_config.yml"), "--path-output", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "_build" / "html"


def pages_of(site):
    found = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    assert len(found) >= len(PAGES) + 2
    return found


def test_links_and_anchors(site):
    soups = {path: BeautifulSoup(path.read_text(), "html.parser") for path in pages_of(site)}
    broken = []
    for path, soup in soups.items():
        for tag, attribute in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
            for element in soup.find_all(tag):
                target = urlsplit(element.get(attribute) or "")
                if target.scheme in ("http", "https", "mailto", "data") or not any(target):
                    continue
                file = (path.parent / unquote(target.path)).resolve() if target.path else path
                anchor = unquote(target.fragment)
                if not file.exists():
                    broken.append(f"{path.name}: {element[attribute]}")
                elif anchor and file in soups and not soups[file].find(id=anchor):
                    broken.append(f"{path.name}: no anchor {element[attribute]}")
    assert not broken


def api_pages(site):
    """Return the pages of the package, parsed, by name."""
    pages = sorted((site / "book" / "api").glob("*.html"))
    assert len(pages) == len(list((ROOT / "book" / "api").glob("*.md")))
    return {path.stem: BeautifulSoup(path.read_text(), "html.parser") for path in pages}


def test_every_public_name_has_an_anchor_in_the_api(site):
    """One anchor each, and a row of the index that leads there; a module has its own prefix."""
    pages = api_pages(site)
    anchors = [element["id"] for page in pages.values() for element in page.find_all(id=True)]
    rows = [
        link["href"].split("#")[-1] for link in pages["index"].select("table.autosummary a[href]")
    ]
    for name in heavytail.__all__:
        module = inspect.ismodule(getattr(heavytail, name))
        anchor = f"module-heavytail.{name}" if module else f"heavytail.{name}"
        assert anchors.count(anchor) == 1, name
        assert anchor in rows, name


def test_every_module_of_the_package_is_in_the_api(site):
    """Its docstring stands on a page: those of :mod:`heavytail` and below that are not private."""
    said = " ".join(page.find("article").get_text(" ") for page in api_pages(site).values())
    for path in (ROOT / "heavytail").rglob("[!_]*.py"):
        line = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
        assert words(line) in words(said), path


def words(text):
    """Return the words of a text alone: quotes, dashes and links are set otherwise on a page."""
    return " ".join(re.findall(r"\w+", re.sub(r":\w+:`", "", text)))


def test_every_page_of_the_api_links_to_a_chapter(site):
    chapters = {f"../{page.stem}.html" for page in PAGES}
    for name, page in api_pages(site).items():
        links = {link["href"].split("#")[0] for link in page.select("article a[href]")}
        assert links & chapters, name


def test_nothing_is_loaded_from_elsewhere(site):
    for path in pages_of(site):
        soup = BeautifulSoup(path.read_text(), "html.parser")
        loaded = [element["src"] for element in soup.find_all(src=True)]
        loaded += [link["href"] for link in soup.find_all("link") if "stylesheet" in link["rel"]]
        assert not [source for source in loaded if urlsplit(source).netloc]


def test_every_page_says_its_version_and_its_date(site):
    line = BeautifulSoup(book_extension.footer(ROOT), "html.parser").get_text()
    assert heavytail.__version__ in line
    for path in pages_of(site):
        if path == site / "index.html":  # only leads to the introduction
            continue
        (footer,) = BeautifulSoup(path.read_text(), "html.parser").select("footer .extra_footer")
        assert footer.get_text().strip() == line, path


def test_tables_are_tables(site):
    """A table that the reader's Markdown does not know stands as a paragraph of bars."""
    for path in pages_of(site):
        soup = BeautifulSoup(path.read_text(), "html.parser")
        assert not [p for p in soup.find_all("p") if p.get_text().lstrip().startswith("|")], path


def test_the_site_is_small(site):
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert size < 25e6


@pytest.fixture(scope="session")
def browser():
    """Give headless Chromium, which must be there in CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        reason = f"none of {names} is installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=executable, args=[*flags, "--no-first-run"]
        )
        yield chromium
        chromium.close()


def problems_of(page):
    """Collect what goes wrong on a page: console errors, exceptions, requests to other hosts."""
    problems = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on("request", lambda r: problems.append(r.url) if r.url.startswith("http") else None)
    return problems


# Formulas are left out: there are thousands of elements in them, and they are MathJax's.
AXE = """() => axe.run({exclude: ["mjx-container"]}, {
    resultTypes: ["violations"],
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
})"""


def serious(page):
    """Return what axe-core finds serious, contrast among it, and headings out of order."""
    page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text())
    return [
        (finding["id"], [(node["target"], node["failureSummary"]) for node in finding["nodes"]][:3])
        for finding in page.evaluate(AXE)["violations"]
        if finding["impact"] in ("serious", "critical") or finding["id"] == "heading-order"
    ]


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (768, "dark"), (1440, "light")])
def test_pages_in_a_browser_without_a_network(site, browser, width, scheme):
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    formulas = 0
    for path in pages_of(site):
        page = context.new_page()
        problems = problems_of(page)
        page.goto(path.as_uri(), wait_until="networkidle")
        page.evaluate("window.MathJax?.startup?.promise")
        assert not problems, path.name
        assert page.locator("html").get_attribute("data-theme") == scheme, path.name
        assert page.locator("mjx-merror").count() == 0, path.name
        # TeX that MathJax has not replaced still stands in its element.
        assert page.locator(".math:not(:has(mjx-container))").count() == 0, path.name
        formulas += page.locator("mjx-container").count()
        empty = "images => images.filter(i => i.complete && !i.naturalWidth).length"
        assert page.locator("article img").evaluate_all(empty) == 0, path.name
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0, path.name
        if width != 768:
            assert not serious(page), path.name
        page.close()
    context.close()
    assert formulas > 20


def test_axe_finds_what_is_wrong(browser):
    """Negative control: grey on grey, a picture without words, a heading left out."""
    page = browser.new_page()
    page.set_content(
        '<html lang="en"><title>t</title><main><h1>a</h1><h3>b</h3>'
        '<p style="color: #999; background: #888">grey words</p><img src="data:,"></main></html>'
    )
    assert {"color-contrast", "heading-order", "image-alt"} <= {name for name, _ in serious(page)}
    page.close()


def test_a_signature_is_mended_and_no_other_list():
    fields = "<dl><dt>alpha</dt><dd>an index</dd></dl>"
    signature = '<dt class="sig sig-object py">f(<dl><dd>x,</dd><dd>y</dd></dl>)</dt>'
    found = accessible.mended(f"{signature}<dd>{fields}</dd>")
    assert found.endswith(f"<dd>{fields}</dd>")
    lines = '<span class="sig-line">x,</span><span class="sig-line">y</span>'
    assert f'f(<span class="sig-lines">{lines}</span>)</dt>' in found
    assert accessible.mended(found) == found


SLIDERS = {
    "02_heavy_tails": "stability index",
    "05_propagation_of_chaos": "time",
    "09_how_wide_is_wide_enough": "fraction of columns kept",
    "10_pruning_in_practice": "columns removed",
}


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


def test_every_figure_has_a_number_and_a_name(site):
    found = [
        figure
        for page in sorted((site / "book").glob("*.html"))
        for figure in BeautifulSoup(page.read_text(), "html.parser")("figure")
    ]
    numbers = {figure.find(class_="caption-number").get_text() for figure in found}
    assert numbers == {f"Fig. {k} " for k in range(1, len(found) + 1)}
    assert all(figure["id"].startswith("fig-") for figure in found)
    assert sum("slider" in figure["class"] for figure in found) == len(SLIDERS)


@pytest.mark.parametrize("name", SLIDERS)
def test_a_figure_moves_by_keyboard(site, browser, name):
    page = browser.new_page()
    page.context.set_offline(True)
    problems = problems_of(page)
    page.goto((site / "book" / f"{name}.html").as_uri())
    slider = page.get_by_label(SLIDERS[name])
    figure = page.locator("figure.slider")
    picture, label = figure.locator("[role=img]"), figure.locator("output")
    before = picture.inner_html(), label.inner_text()
    assert before[0].lstrip().startswith("<svg")
    slider.focus()
    page.keyboard.press("ArrowRight")
    after = picture.inner_html(), label.inner_text()
    assert before[0] != after[0]
    assert before[1] != after[1] == slider.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    assert (picture.inner_html(), label.inner_text()) == before
    assert picture.get_attribute("aria-label")
    assert not problems
    page.close()


@pytest.mark.parametrize("name", SLIDERS)
def test_a_figure_stands_without_scripts(site, browser, name):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "book" / f"{name}.html").as_uri())
    assert page.locator("figure.slider svg").bounding_box()["height"] > 100
    context.close()


def test_search_finds(site, browser):
    page = browser.new_page()
    page.context.set_offline(True)
    page.goto((site / "search.html").as_uri() + "?q=invisible+noise")
    page.wait_for_selector("#search-results li a")
    hits = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")
    assert any("12_experiments" in hit for hit in hits)
    page.close()


@pytest.mark.parametrize("width", [1280, 1440])
def test_no_line_of_code_is_cut_off(site, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    for path in NOTEBOOKS:
        page.goto((site / "book" / f"{path.stem}.html").as_uri())
        page.locator("article details").evaluate_all("folded => folded.forEach(d => d.open = true)")
        overflowing = page.locator("article pre").evaluate_all(
            "cells => cells.filter(c => c.scrollWidth > c.clientWidth).map(c => c.innerText)"
        )
        assert not overflowing
    page.close()


def test_stored_notebooks_hold_no_timings():
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text())
        assert "version" not in notebook["metadata"].get("language_info", {})
        assert not [cell for cell in notebook["cells"] if "execution" in cell["metadata"]]
