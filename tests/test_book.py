"""The book: pages and their pairs, the address stamped into them, the built HTML."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from tools import book_extension, notebooks, stamp

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
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert cell.metadata["mystnb"]["figure"]["caption"]
            assert cell.metadata["mystnb"]["image"]["alt"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_every_page_asserts(path):
    assert "assert " in path.with_suffix(".py").read_text()


def test_figures_shown_elsewhere_are_the_pages_own():
    shown = {}
    for path in NOTEBOOKS:
        shown |= notebooks.shown_elsewhere(nbformat.read(path, as_version=4))
    assert set(shown) == set(notebooks.SHOWN_ELSEWHERE)
    for name, picture in shown.items():
        assert (notebooks.IMAGES / f"{name}.png").read_bytes() == picture


def test_every_page_is_in_the_table_of_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = {contents["root"], *(chapter["file"] for chapter in contents["chapters"])}
    files = {*(f"book/{page.stem}" for page in PAGES)}
    files |= {f"book/{page.stem}" for page in (ROOT / "book").glob("*.md")}
    assert listed == files


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
def test_a_stamped_page_keeps_the_houses_format(owner, tmp_path):
    for path in (PAGES[0], NOTEBOOKS[0]):
        stamped = stamp.stamped(path, f"https://github.com/{owner}/heavytail")
        ruff = [str(Path(sys.executable).with_name("ruff")), "format", "--check"]
        config = ["--config", str(ROOT / "book" / "ruff.toml")]
        (tmp_path / path.name).write_text(stamped)
        subprocess.run([*ruff, *config, str(tmp_path / path.name)], check=True)


def test_an_address_brings_the_buttons():
    text = stamp.stamped(ROOT / "_config.yml", "https://example.org/someone/heavytail")
    config = yaml.safe_load(text)
    assert config["repository"]["url"] == "https://example.org/someone/heavytail"
    assert "colab_url" in config["launch_buttons"]


def test_a_file_without_a_place_for_it_is_refused(tmp_path):
    (tmp_path / "page.py").write_text("# %%\nprint(1)\n")
    with pytest.raises(ValueError, match="one place for the address, found 0"):
        stamp.stamped(tmp_path / "page.py", None)


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


# The built pages, from the stored outputs.


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Build the book with warnings as errors; the folder of its HTML."""
    folder = tmp_path_factory.mktemp("book")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["execute"]["execute_notebooks"] = "off"
    config["sphinx"]["local_extensions"]["book_extension"] = str(ROOT / "tools")
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


def test_nothing_is_loaded_from_elsewhere(site):
    for path in pages_of(site):
        soup = BeautifulSoup(path.read_text(), "html.parser")
        loaded = [element["src"] for element in soup.find_all(src=True)]
        loaded += [link["href"] for link in soup.find_all("link") if "stylesheet" in link["rel"]]
        assert not [source for source in loaded if urlsplit(source).netloc]


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


@pytest.mark.parametrize("width", [375, 1440])
def test_pages_in_a_browser_without_a_network(site, browser, width):
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    formulas = 0
    for path in pages_of(site):
        page = context.new_page()
        problems = problems_of(page)
        page.goto(path.as_uri(), wait_until="networkidle")
        page.evaluate("window.MathJax?.startup?.promise")
        assert not problems, path.name
        assert page.locator("mjx-merror").count() == 0, path.name
        # TeX that MathJax has not replaced still stands in its element.
        assert page.locator(".math:not(:has(mjx-container))").count() == 0, path.name
        formulas += page.locator("mjx-container").count()
        empty = "images => images.filter(i => i.complete && !i.naturalWidth).length"
        assert page.locator("article img").evaluate_all(empty) == 0, path.name
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0, path.name
        page.close()
    context.close()
    assert formulas > 20


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
