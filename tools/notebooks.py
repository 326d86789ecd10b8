"""Execute the book's pages and store them as notebooks with outputs.

A page is written as ``book/NN_name.py`` (Jupytext percent format); its pair ``NN_name.ipynb`` is
made from it here and never edited. ``python -m tools.notebooks [NN_name ...]`` executes the named
pages, or all of them.
"""

import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

BOOK = Path(__file__).parents[1] / "book"
IMAGES = BOOK / "images"

# Figures shown outside their page, by the name in the cell's mystnb metadata.
SHOWN_ELSEWHERE = ("fig-sorted-columns", "fig-accuracy-pruned")


def pages() -> list[Path]:
    """Return the book's pages in their percent form, in order."""
    return sorted(BOOK.glob("[0-9][0-9]_*.py"))


def percent(notebook: Path) -> str:
    """Return the percent form of a stored notebook; equal to its pair if the two are in sync."""
    text: str = jupytext.writes(jupytext.read(notebook), fmt="py:percent", config=_config())
    return text


def execute(page: Path) -> None:
    """Run a page in the book's folder and store the notebook, with outputs but no timings."""
    notebook = jupytext.read(page, config=_config())
    for position, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{position:02d}"  # random ones would change with each execution
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(BOOK)}},
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    stored = page.with_suffix(".ipynb")
    jupytext.write(notebook, stored, config=_config())
    page.write_text(percent(stored))  # the same cells, with Jupytext's own header
    for name, picture in shown_elsewhere(notebook).items():
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"{name}.svg").write_text(picture)


def shown_elsewhere(notebook: NotebookNode) -> dict[str, str]:
    """Return the stored pictures of the figures that stand outside their page too, by name."""
    pictures = {}
    for cell in notebook.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for output in cell.get("outputs", []):
            if name in SHOWN_ELSEWHERE and "image/svg+xml" in output.get("data", {}):
                pictures[name] = output["data"]["image/svg+xml"]
    return pictures


def _config() -> object:
    return jupytext.config.load_jupytext_config(str(BOOK))


def main(names: list[str]) -> None:
    """Execute the named pages, or all."""
    known = {page.stem: page for page in pages()}
    if unknown := set(names) - set(known):
        raise SystemExit(f"no page named {sorted(unknown)}; the pages are {list(known)}")
    for name in names or known:
        print(f"executing {name}", flush=True)
        execute(known[name])


if __name__ == "__main__":
    main(sys.argv[1:])
