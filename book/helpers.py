"""What several pages use: seeds, records, tables, figures that move."""

import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure
from torch import nn

from heavytail import plots
from heavytail.experiments import records, results, tables


def seeded(seed: int) -> torch.Generator:
    """Return a generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def size_of(model: nn.Module) -> int:
    """Return how many numbers a model has learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def read_record(name: str) -> dict[str, Any]:
    """Return what results/NAME.json holds."""
    content: dict[str, Any] = json.loads(_path(name).read_text())
    return content


def recorded(name: str) -> list[tables.Row]:
    """Return the rows of a table, empty where nothing is recorded."""
    found = records.read(_path(name), results.decode)
    return tables.rows(tables.TABLES[name].paper, found)


def _path(name: str) -> Path:
    return Path(__file__).parent / "results" / f"{name}.json"


_NUMBER = re.compile(  # with a unit or an error
    r"∞|nan|inf|"
    r"([<>≤≥] )?[-−+]?(10\^)?-?(\d[\d,]*\.?\d*|\.\d+)(e[-+]\d+)?"
    r"( ?(%|×|x|[mµμn]?s|[kKMG]i?B))?( ± [\d.]+)?"
)


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Show a table under its column titles.

    Entries are Markdown without a vertical bar, typeset. A column of
    numbers, all or nearly all of it, stands to the right.

    Raises:
        ValueError: if a row has another number of entries than there
            are titles.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"a row must have {len(columns)} entries, got {row!r}"
            )
    shown = [
        [typeset(cell) for cell in row] for row in (columns, *rows)
    ]
    by_column = [[row[k] for row in rows] for k in range(len(columns))]
    rule = [
        "---:" if _is_numeric(cells) else "---" for cells in by_column
    ]
    lines = [shown[0], rule, *shown[1:]]
    bars = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    display(Markdown(bars))


def _is_numeric(cells: Sequence[str]) -> bool:
    """Return whether most cells that hold something hold a number.

    Or a number and its range in brackets.
    """
    filled = [cell for cell in cells if cell.strip("–−- ")]
    bare = (re.sub(r" \[[^\]]*\]$", "", cell) for cell in filled)
    numbers = sum(_NUMBER.fullmatch(cell) is not None for cell in bare)
    return 3 * numbers > 2 * len(filled)


def typeset(text: str) -> str:
    """Return Markdown with its numbers as a reader writes them.

    A hyphen before a digit becomes a minus sign, ``10^x`` and ``1e+06``
    powers of ten.
    """
    text = re.sub(r"(?<![\w.$^{])-(?=\d)", "−", text)
    text = re.sub(r"(?<![$\w])10\^(-?[\d.]+)", r"$10^{\1}$", text)
    return re.sub(r"\b(\d[\d.]*)e([+-]\d+)\b", _power, text)


def _power(number: re.Match[str]) -> str:
    power = f"10^{{{int(number[2])}}}"
    factor = "" if float(number[1]) == 1 else f"{number[1]} \\cdot "
    return f"${factor}{power}$"


_SHOW = (
    "const f = this.closest('figure'), n = +this.value;"
    "const d = this.data ??= JSON.parse(f.querySelector('script').textContent);"
    "f.querySelector('[role=img]').innerHTML = d.frames[n].map(i => d.parts[i]).join('');"
    "f.querySelector('output').value = d.labels[n];"
    "this.setAttribute('aria-valuetext', d.labels[n]);"
)


def slider(
    figures: Iterable[Figure],
    labels: Sequence[str],
    *,
    moves: str,
    name: str,
    caption: str,
    alt: str,
    start: int = 0,
) -> HTML:
    """Return figures under a slider that shows one of them.

    Without scripts, the first shown. The page holds each part of the
    pictures once, however many share it, and needs no server.

    Args:
        figures: drawn alike, of one size, at least one; each is closed
            before the next is drawn.
        labels: one for each figure, what the slider says beside it.
        moves: what the slider moves.
        name: by which a page refers to the figure; small letters,
            digits and hyphens.
        caption: of all of them.
        alt: the alternative text.
        start: place of the figure shown first.
    """
    parts: dict[str, int] = {}
    frames = []
    for figure in figures:
        tags = _tags(figure)
        frames.append(
            [parts.setdefault(tag, len(parts)) for tag in tags]
        )
        plt.close(figure)
    content = list(parts)
    shown = "".join(content[part] for part in frames[start])
    data = json.dumps(
        {"parts": content, "frames": frames, "labels": list(labels)}
    )
    data = data.replace("</", "<\\/")  # else it would end its script
    label = html.escape(labels[start])
    return HTML(
        f'<figure class="slider" id="{html.escape(name)}">'
        f'<div role="img" tabindex="0" aria-label="{html.escape(alt)}">'
        f"{shown}</div><label>{html.escape(moves)} "
        f'<input type="range" min="0" max="{len(frames) - 1}" '
        f'value="{start}" aria-valuetext="{label}" oninput="{_SHOW}"> '
        f"<output>{label}</output></label>"
        f'<script type="application/json">{data}</script>'
        f"<figcaption><p>{html.escape(caption)}</p></figcaption></figure>"
    )


def _tags(figure: Figure) -> list[str]:
    """Return a figure as SVG, tag by tag, without what no eye sees."""
    with io.StringIO() as file:
        with plt.rc_context({"svg.hashsalt": plots.SALT}):
            figure.savefig(file, format="svg", **plots.SVG_OPTIONS)
        picture = file.getvalue()
    picture = picture[picture.index("<svg") :]
    for unseen in (
        r"<!--.*?-->|<metadata>.*?</metadata>",
        r"<defs>\s*<style.*?</style>\s*</defs>",
    ):
        picture = re.sub(unseen, "", picture, flags=re.DOTALL)
    style = "max-width: 100%; height: auto; stroke-linejoin: round"
    picture = picture.replace("<svg", f'<svg style="{style}"', 1)
    # Names of groups would stand twice on a page with two figures.
    picture = re.sub(r'<g id="[\w.]+">', "<g>", picture)
    # A tenth of a point is enough for a path.
    picture = re.sub(
        r' d="[^"]*"',
        lambda path: re.sub(r"(\d\.\d)\d+", r"\1", path[0]),
        picture,
    )
    return re.split(
        r"(?<=>)\s*(?=<)", re.sub(r"\s+", " ", picture).strip()
    )
