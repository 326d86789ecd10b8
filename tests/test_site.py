"""The built pages: their links, and what a browser makes of them without a network."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

import heavytail
from tools import book_extension, notebooks

ROOT = Path(__file__).parents[1]
CHAPTERS = [page.stem for page in notebooks.pages()]
TEXTS = [str(path.relative_to(ROOT).with_suffix("")) for path in (ROOT / "book").rglob("*.md")]
SLIDERS = {
    "02_heavy_tails": "stability index",
    "05_propagation_of_chaos": "time",
    "09_how_wide_is_wide_enough": "fraction of columns kept",
    "10_pruning_in_practice": "columns removed",
}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Build the book with warnings as errors; the folder of its HTML."""
    folder = tmp_path_factory.mktemp("book")
    build = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "-n"]
    run = subprocess.run(
        [*build, "--keep-going", "--path-output", str(folder)],
        cwd=ROOT,
        env={**os.environ, "BOOK_OUTPUTS": "stored"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def soups(site):
    """The pages, parsed, by their paths."""
    found = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    assert len(found) >= len(CHAPTERS) + len(TEXTS)
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in found}


@pytest.fixture(scope="session")
def reference(soups):
    """The pages of the package, parsed, by name."""
    pages = {path.stem: soup for path, soup in soups.items() if path.parent.name == "api"}
    assert {f"book/api/{name}" for name in pages} == {name for name in TEXTS if "/api/" in name}
    return pages


def test_links_and_anchors(soups):
    anchors = {path: {e["id"] for e in soup.find_all(id=True)} for path, soup in soups.items()}
    broken = []
    for path, soup in soups.items():
        for element in soup.select("a[href], img[src], script[src], link[href]"):
            link = element.get("href") or element.get("src")
            target = urlsplit(link)
            if target.scheme in ("http", "https", "mailto", "data") or not any(target):
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            anchor = unquote(target.fragment)
            if not file.exists() or (anchor and anchor not in anchors.get(file, [anchor])):
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_every_public_name_has_an_anchor_in_the_api(reference):
    """One anchor each, and a row of the index that leads there; a module has its own prefix."""
    anchors = [element["id"] for page in reference.values() for element in page.find_all(id=True)]
    links = reference["index"].select("table.autosummary a[href]")
    rows = [link["href"].split("#")[-1] for link in links]
    for name in heavytail.__all__:
        public = getattr(heavytail, name)
        module = inspect.ismodule(public)
        anchor = f"module-{public.__name__}" if module else f"heavytail.{name}"
        assert anchors.count(anchor) == 1, name
        assert anchor in rows, name


def test_every_module_of_the_package_is_in_the_api(reference):
    """Its docstring stands on a page: those of :mod:`heavytail` and below that are not private."""
    said = words(" ".join(page.find("article").get_text(" ") for page in reference.values()))
    for path in (ROOT / "heavytail").rglob("[!_]*.py"):
        if path.name != "layers.py":  # only serves others
            line = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
            assert words(line) in said, path


def words(text):
    """Return the words of a text alone: quotes, dashes and links are set otherwise on a page."""
    return " ".join(re.findall(r"\w+", re.sub(r":\w+:`", "", text)))


def test_every_page_of_the_api_links_to_a_chapter(reference):
    chapters = {f"../{name}.html" for name in CHAPTERS}
    for name, page in reference.items():
        links = {link["href"].split("#")[0] for link in page.select("article a[href]")}
        assert links & chapters, name


def test_every_page_says_its_version_and_loads_nothing_from_elsewhere(site, soups):
    line = BeautifulSoup(book_extension.footer(ROOT), "html.parser").get_text()
    assert heavytail.__version__ in line
    for path, soup in soups.items():
        if path != site / "index.html":  # only leads to the introduction
            (footer,) = soup.select("footer .extra_footer")
            assert footer.get_text().strip() == line, path
        loaded = [element["src"] for element in soup.find_all(src=True)]
        loaded += [link["href"] for link in soup.find_all("link") if "stylesheet" in link["rel"]]
        assert not [source for source in loaded if urlsplit(source).netloc]
        # A table that the reader's Markdown does not know stands as a paragraph of bars.
        assert not [p for p in soup.find_all("p") if p.get_text().lstrip().startswith("|")], path
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 25e6


def test_every_figure_has_a_number_and_a_name(soups):
    found = [figure for soup in soups.values() for figure in soup("figure")]
    numbers = {figure.find(class_="caption-number").get_text() for figure in found}
    assert numbers == {f"Fig. {k} " for k in range(1, len(found) + 1)}
    assert all(figure["id"].startswith("fig-") for figure in found)
    assert sum("slider" in figure["class"] for figure in found) == len(SLIDERS)


# In a browser.


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


@pytest.fixture
def page(browser):
    """Give an empty page without a network, on which nothing may go wrong."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    page = context.new_page()
    problems = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on("request", lambda r: problems.append(r.url) if r.url.startswith("http") else None)
    yield page
    assert not problems
    context.close()


def faults(page, *, of, code=True):
    """Return what axe-core finds serious, contrast among it, and headings out of order.

    Formulas are left out: there are thousands of elements in them, and they are MathJax's.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text())
    left_out = {"exclude": ["mjx-container", *([] if code else [".highlight pre"])]}
    options = {"preload": False, "resultTypes": ["violations"], "runOnly": of}
    found = page.evaluate("options => axe.run(...options)", [left_out, options])
    return [
        (finding["id"], [(node["target"], node["failureSummary"]) for node in finding["nodes"]][:3])
        for finding in found["violations"]
        if finding["impact"] in ("serious", "critical") or finding["id"] == "heading-order"
    ]


ALL = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
OF_A_LOOK = ["color-contrast", "scrollable-region-focusable"]
WIDTHS = (320, 375, 600, 768, 900, 1024, 1280, 1440)
# What WCAG 2.1 (1.4.12) asks a page to bear; letters as wide as those of any font.
SPACED = "body { letter-spacing: 0.12em !important; word-spacing: 0.16em !important }"


def too_wide(page):
    """Return the widths of the window at which a page is wider than it, in pixels; without and
    with letters spaced.
    """
    style = page.evaluate_handle("document.head.appendChild(document.createElement('style'))")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    found = {}
    for rules, widths in (("", WIDTHS), (SPACED, WIDTHS[::2])):
        style.evaluate("(style, rules) => { style.textContent = rules }", rules)
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            if (excess := page.evaluate(wide)) > 0:
                found[width, bool(rules)] = excess
    return found


@pytest.mark.parametrize("name", ["search", *(f"book/{name}" for name in CHAPTERS), *TEXTS])
def test_a_page_can_be_read(site, page, name):
    """Its formulas are set, it is accessible, and nothing on it is cut off."""
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 375, "height": 900})
    page.goto((site / f"{name}.html").as_uri())
    page.evaluate("window.MathJax?.startup?.promise")
    assert page.locator("mjx-merror").count() == 0
    # TeX that MathJax has not replaced still stands in its element.
    assert page.locator(".math:not(:has(mjx-container))").count() == 0
    empty = "images => images.filter(i => i.complete && !i.naturalWidth).length"
    assert page.locator("article img").evaluate_all(empty) == 0
    code = name.endswith(CHAPTERS[0])  # its colours are the same on every page
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert not faults(page, of=OF_A_LOOK, code=code)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_function("document.documentElement.dataset.theme == 'light'")
    assert not faults(page, of=ALL, code=code)
    page.locator("article details").evaluate_all("folded => folded.forEach(d => d.open = true)")
    assert not too_wide(page)
    if name not in TEXTS:  # lines of code are as wide as the column, from this width on
        page.evaluate("document.head.lastChild.remove()")
        page.set_viewport_size({"width": 1280, "height": 900})
        cut = "cells => cells.filter(c => c.scrollWidth > c.clientWidth).map(c => c.innerText)"
        assert not page.locator("article pre").evaluate_all(cut)


def test_what_is_wrong_is_found(page):
    """Negative control: grey on grey, a picture without words, a heading left out, a long word."""
    page.set_content(
        '<html lang="en"><title>t</title><main><h1>a</h1><h3>b</h3>'
        '<p style="color: #999; background: #888">grey words</p><img src="data:,">'
        f'<p style="font: 16px monospace">{"m" * 60}</p></main></html>'
    )
    found = {name for name, _ in faults(page, of=ALL)}
    assert {"color-contrast", "heading-order", "image-alt"} <= found
    assert set(too_wide(page)) == {(320, False), (375, False), (320, True), (600, True)}


@pytest.mark.parametrize("name", SLIDERS)
def test_a_figure_moves_by_keyboard(site, page, name):
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


@pytest.mark.parametrize("name", SLIDERS)
def test_a_figure_stands_without_scripts(site, browser, name):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "book" / f"{name}.html").as_uri())
    assert page.locator("figure.slider svg").bounding_box()["height"] > 100
    context.close()


def test_search_finds(site, browser):
    page = browser.new_page()
    page.goto((site / "search.html").as_uri() + "?q=invisible+noise")
    page.wait_for_selector("#search-results li a")
    hits = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")
    assert any("12_experiments" in hit for hit in hits)
    page.close()
