"""A Sphinx extension: what a reader, or a screen reader, stumbles over in others' templates."""

import re
from pathlib import Path

from sphinx.application import Sphinx

_MENDS = (
    # The button that unfolds a part of the contents is an icon: give it a name.
    (r"<summary>(?=<span class=\"toctree-toggle\")", '<summary aria-label="its pages">'),
    # What is folded has a name that says what it is.
    ("Show code cell source", "Show the code"),
    ("Hide code cell source", "Hide the code"),
    ("Show code cell content", "Show the solution"),
    ("Hide code cell content", "Hide the solution"),
    # On a narrow screen a figure scrolls, and must do so by keyboard too.
    (r'<figure class="align-default" id=', '<figure tabindex="0" class="align-default" id='),
    # A list of citations, whose entries have a role of their own, is no list of list items.
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
)
_SIGNATURE = re.compile(r"<dt class=\"sig .*?</dt>", re.DOTALL)
# A signature over several lines is a list of definitions without a term.
_LIST = re.compile(r"</d[ld]>|<dl>|<dd>")
_SPANS = {"<dl>": '<span class="sig-lines">', "<dd>": '<span class="sig-line">'}


def mended(page: str) -> str:
    """Return a page with the mends above."""
    for pattern, text in _MENDS:
        page = re.sub(pattern, text, page)
    return _SIGNATURE.sub(
        lambda found: _LIST.sub(lambda tag: _SPANS.get(tag[0], "</span>"), found[0]), page
    )


def _mend(app: Sphinx, failure: Exception | None) -> None:
    if failure is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if (new := mended(text)) != text:
            path.write_text(new, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
