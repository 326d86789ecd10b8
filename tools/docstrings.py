"""A Sphinx extension: docstrings are plain text, and become reStructuredText here.

In them a formula is a block that is indented after an empty line, and a bar belongs to an absolute
value. Sphinx alone would run the lines of a formula together, and take the bars for its own.
"""

import re
from typing import Any

from sphinx.application import Sphinx

_VERBATIM = re.compile(r"(:[a-z]+:`[^`]*`|``.*?``)", re.DOTALL)
_BAR = re.compile(r"(?<!\\)\|")
_FORMULA = [".. code-block:: text", "    :class: formula"]
_RESULT = re.compile(r"^((?:Returns|Yields):\n +)(?=\S)", re.MULTILINE)


def marked_up(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with formulas and examples as literal blocks."""
    found: list[str] = []
    text: list[str] = []  # not in a block, and not yet in what is found
    outer = block = 0  # indentation of the last line of text, and of the block if in one
    after_gap = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip():
            if indent < block:
                block = 0
            if not block and after_gap and indent > outer and not line.lstrip().startswith("- "):
                example = line.lstrip().startswith(">>>")
                head = [".. code-block:: pycon"] if example else _FORMULA
                found += [*_escaped(text), *(f"{' ' * outer}{part}" for part in head), ""]
                text, block = [], indent
            if not block:
                outer = indent
        after_gap = not line.strip()
        (found if block else text).append(line)
    return found + _escaped(text)


def _escaped(lines: list[str]) -> list[str]:
    """Return lines of text with bars that are bars, and results that are no types.

    A colon in the first line of "Returns:" would set a type apart; one before it sets none.
    """
    parts = _VERBATIM.split("\n".join(lines))
    parts[::2] = [_BAR.sub(r"\\|", part) for part in parts[::2]]
    return _RESULT.sub(r"\1: ", "".join(parts)).split("\n") if lines else []


def _mark_up(
    app: Sphinx, what: str, name: str, documented: object, options: object, lines: list[str]
) -> None:
    lines[:] = marked_up(lines)
    if what in ("attribute", "property"):
        lines[0] = f": {lines[0]}"  # what stands before another colon would be its type


def _plain_signature(
    app: Sphinx, what: str, name: str, documented: object, *rest: Any
) -> tuple[str | None, str | None]:
    """Leave out what Python has made up: the arguments of protocols, the names of factories."""
    _, signature, returned = rest
    if getattr(documented, "_is_protocol", False):
        return "", None
    return signature and signature.replace("<factory>", "..."), returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", _mark_up, priority=400)
    app.connect("autodoc-process-signature", _plain_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
