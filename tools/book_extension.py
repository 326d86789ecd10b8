"""A Sphinx extension: what the book's build needs beyond Jupyter Book.

Executed notebooks are cached by what they depend on, not only by their own cells; the page's
mathematics is set by a MathJax that lies beside it, not on another host; figures with a slider are
numbered like the others; no line begins with the mark that ends a formula; and each page says which
version it is.
"""

import hashlib
import html
import importlib.util
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform

from heavytail import __version__

_MATHJAX = "tex-chtml-full.js"  # holds every TeX extension: the others load theirs on demand


def fingerprint(root: Path) -> str:
    """Return a digest of all that a page's outputs depend on beside its own cells."""
    digest = hashlib.sha256()
    sources = [root / name for name in ("requirements.txt", "book/helpers.py", "book/rates.py")]
    sources += [*(root / "heavytail").rglob("*.py"), *(root / "book" / "results").rglob("*.json")]
    for path in sorted(sources):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _configure(app: Sphinx, config: Config) -> None:
    """Keep executed pages in a folder named by the fingerprint, and drop those of other states.

    The path of the cache is part of Sphinx's environment: when it changes, all pages are read
    anew, and a page that is not in the cache is executed; where BOOK_OUTPUTS is "stored", none is.
    """
    if os.environ.get("BOOK_OUTPUTS") == "stored":
        config.nb_execution_mode = "off"
    caches = Path(app.outdir).parent / ".jupyter_cache"
    config.nb_execution_cache_path = str(caches / fingerprint(Path(app.srcdir)))
    for stale in caches.glob("*"):
        if str(stale) != config.nb_execution_cache_path:
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    config.mathjax_path = f"mathjax/{_MATHJAX}"
    line = footer(Path(app.srcdir))
    config.html_theme_options = {**config.html_theme_options, "extra_footer": line}


def last_change(root: Path) -> str | None:
    """Return the day of the last commit, in UTC; None outside a clone.

    SOURCE_DATE_EPOCH, where it is set, stands in for the commit.
    """
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    # A folder above may be a clone of something else.
    if not seconds and (root / ".git").exists() and shutil.which("git"):
        log = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
        seconds = subprocess.run(log, capture_output=True, text=True, check=False).stdout
    return datetime.fromtimestamp(int(seconds), UTC).date().isoformat() if seconds else None


def footer(root: Path) -> str:
    """Return what stands below every page: the version, and the day of the last change."""
    day = last_change(root)
    changed = f', last changed on <time datetime="{day}">{day}</time>' if day else ""
    return f"<p>heavytail {__version__}{changed}</p>"


def _copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
    """Copy MathJax and its fonts into the built site: 3 of the package's 23 MB."""
    if failure is not None or app.builder.format != "html":
        return
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package sphinx-mathjax-offline is not installed")
    source = Path(spec.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output", "chtml", "fonts")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copy(source / _MATHJAX, target / _MATHJAX)


class NumberSliders(SphinxTransform):
    """Make figures of the HTML that the pages' ``slider`` shows: numbered, with a name."""

    default_priority = 300  # before labels are collected

    _FIGURE = re.compile(
        r'<figure class="(?P<kind>\w+)" id="(?P<name>[\w-]+)">(?P<content>.*)'
        r"<figcaption><p>(?P<caption>.*)</p></figcaption></figure>",
        re.DOTALL,
    )

    def apply(self, **options: Any) -> None:
        """Replace that HTML by figures."""
        for shown in list(self.document.findall(nodes.raw)):
            found = self._FIGURE.fullmatch(shown.astext().strip())
            if found is None:
                continue
            figure = nodes.figure(classes=["align-default", found["kind"]], names=[found["name"]])
            figure += nodes.raw("", found["content"], format="html")
            figure += nodes.caption("", html.unescape(found["caption"]))
            self.document.note_explicit_target(figure)
            shown.parent.replace(shown, figure)


class KeepPunctuation(SphinxTransform):
    """Keep a formula and the marks after it on one line: browsers would break between the two."""

    default_priority = 900

    _MARKS = re.compile(r"[.,;:!?)\]’”]+")

    def apply(self, **options: Any) -> None:
        """Put them into one element, which look.css does not break."""
        for formula in list(self.document.findall(nodes.math)):
            line, place = formula.parent, formula.parent.index(formula)
            after = formula.next_node(descend=False, siblings=True)
            marks = self._MARKS.match(after) if isinstance(after, nodes.Text) else None
            if marks is not None:
                together = nodes.inline("", "", formula, nodes.Text(marks[0]), classes=["together"])
                # By place: another text of the line may be equal to this one.
                line[place : place + 2] = [together, nodes.Text(after[marks.end() :])]


def _drop_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Leave out the scripts of thebe, unused here: they stand twice, which is an error."""
    if "script_files" in context:
        scripts = context["script_files"]
        named = (f"{each}{getattr(each, 'attributes', '')}".lower() for each in scripts)
        context["script_files"] = [
            each for each, name in zip(scripts, named, strict=True) if "thebe" not in name
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", _configure)
    app.connect("html-page-context", _drop_thebe, priority=900)
    app.connect("build-finished", _copy_mathjax)
    app.add_transform(NumberSliders)
    app.add_transform(KeepPunctuation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
