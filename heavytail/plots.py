"""One look for all figures: colours that survive colour blindness and print, quiet axes."""

import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.config import InlineBackend
from torch import Tensor

from heavytail.laws.tails import HillCurve
from heavytail.noise import NUMERALS

# Okabe and Ito's palette, one colour and one dash pattern for each kind of noise, so that a
# figure reads without colour too.
KIND_STYLES: dict[str, dict[str, Any]] = {
    "none": {"color": "#000000", "linestyle": "-"},
    "shared": {"color": "#D55E00", "linestyle": "--"},
    "independent": {"color": "#0072B2", "linestyle": "-."},
    "isotropic": {"color": "#009E73", "linestyle": (0, (1, 1))},
}
KIND_LABELS = {
    "none": "no noise",
    **{kind: f"{numeral}, {kind}" for kind, numeral in NUMERALS.items()},
}


# Nothing in a picture that changes from one run to the next.
_SALT = "heavytail"
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_PLAIN: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def use_style() -> None:
    """Set matplotlib's defaults to the look of the book; notebooks get vector figures."""
    plt.rcParams.update(
        {
            "figure.figsize": (7.0, 3.4),
            "figure.dpi": 160,
            "figure.facecolor": "white",  # dark pages keep the figure readable
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.6,
            "legend.frameon": False,
            "svg.hashsalt": _SALT,
            "axes.prop_cycle": f"cycler('color', {list(_CYCLE)})",
        }
    )
    shell = get_ipython()
    if shell is not None:
        backend = InlineBackend.instance(parent=shell)
        backend.figure_formats = {"svg"}
        drawn: dict[str, Any] = {"metadata": _PLAIN}
        backend.print_figure_kwargs = drawn


def sorted_columns(ax: Axes, norms: Tensor, **line: Any) -> None:
    """Draw column norms, largest first, against their rank, both on logarithmic axes.

    A power law P(norm > r) ~ r^-alpha is a line of slope -1/alpha there.

    Args:
        ax: where to draw.
        norms: shape (n,), positive; norms of the columns of a weight.
        line: passed on to ``Axes.loglog``.
    """
    ordered = np.sort(norms.detach().cpu().numpy())[::-1]
    ax.loglog(np.arange(1, len(ordered) + 1), ordered, **line)
    ax.set_xlabel("rank of the column")
    ax.set_ylabel("norm of the column")


def hill_plot(ax: Axes, curve: HillCurve, **line: Any) -> None:
    """Draw Hill's estimate of the tail index against k, with two standard errors either side.

    Args:
        ax: where to draw; k on a logarithmic axis.
        curve: what :func:`heavytail.hill_curve` returns.
        line: passed on to ``Axes.semilogx``; the band takes its color.
    """
    k, alpha, stderr = (v.numpy() for v in (curve.k, curve.alpha, curve.stderr))
    order = np.argsort(k)
    k, alpha, stderr = k[order], alpha[order], stderr[order]
    (drawn,) = ax.semilogx(k, alpha, **line)
    band: dict[str, Any] = {"color": drawn.get_color(), "alpha": 0.15, "linewidth": 0}
    ax.fill_between(k, alpha - 2 * stderr, alpha + 2 * stderr, **band)
    ax.set_xlabel("k, upper order statistics used")
    ax.set_ylabel("estimate of α")


_NUMBER = re.compile(  # with a unit or an error
    r"∞|nan|inf|([<>≤≥] )?[-−+]?(10\^)?-?(\d[\d,]*\.?\d*|\.\d+)(e[-+]\d+)?"
    r"( ?(%|×|x|[mµμn]?s|[kKMG]i?B))?( ± [\d.]+)?"
)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table under its column titles; entries are Markdown, without a vertical bar.

    A hyphen before a digit is shown as a minus sign, ``10^x`` and ``1e+06`` as powers of ten. A
    column of numbers, all or nearly all of it, stands to the right, as numbers are read.

    Raises:
        ValueError: if a row has another number of entries than there are titles.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row must have {len(columns)} entries, got {row!r}")
    shown = [[typeset(cell) for cell in row] for row in (columns, *rows)]
    by_column = [[row[k] for row in rows] for k in range(len(columns))]
    rule = ["---:" if _is_numeric(cells) else "---" for cells in by_column]
    lines = [shown[0], rule, *shown[1:]]
    display(Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines)))


def _is_numeric(cells: Sequence[str]) -> bool:
    """Return whether most cells that hold something hold a number, or one with its range."""
    filled = [cell for cell in cells if cell.strip("–−- ")]
    numbers = [cell for cell in filled if _NUMBER.fullmatch(re.sub(r" \[[^\]]*\]$", "", cell))]
    return 3 * len(numbers) > 2 * len(filled)


def typeset(text: str) -> str:
    """Return Markdown with its numbers as a reader writes them: minus signs, powers of ten."""
    text = re.sub(r"(?<![\w.$^{])-(?=\d)", "−", text)
    text = re.sub(r"(?<![$\w])10\^(-?[\d.]+)", r"$10^{\1}$", text)
    return re.sub(r"\b(\d[\d.]*)e([+-]\d+)\b", _power, text)


def _power(number: re.Match[str]) -> str:
    exponent = f"10^{{{int(number[2])}}}"
    return f"${exponent}$" if float(number[1]) == 1 else f"${number[1]} \\cdot {exponent}$"


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
    """Return figures under a slider that shows one of them; without scripts, the first shown.

    The page holds each part of the pictures once, however many share it, and needs no server.

    Args:
        figures: drawn alike, of one size, at least one; each is closed before the next is drawn.
        labels: one for each figure, what the slider says beside it.
        moves: what the slider moves.
        name: by which a page refers to the figure; small letters, digits and hyphens.
        caption: of all of them.
        alt: the alternative text.
        start: place of the figure shown first.
    """
    parts: dict[str, int] = {}
    frames = []
    for figure in figures:
        frame = [parts.setdefault(part, len(parts)) for part in _parts(figure)]
        frames.append(frame)
        plt.close(figure)
    content = list(parts)
    shown = "".join(content[part] for part in frames[start])
    data = json.dumps({"parts": content, "frames": frames, "labels": list(labels)})
    data = data.replace("</", "<\\/")  # else it would end the script that holds it
    show = (
        "const f = this.closest('figure'), n = +this.value;"
        "const d = this.data ??= JSON.parse(f.querySelector('script').textContent);"
        "f.querySelector('[role=img]').innerHTML = d.frames[n].map(i => d.parts[i]).join('');"
        "f.querySelector('output').value = d.labels[n];"
        "this.setAttribute('aria-valuetext', d.labels[n]);"
    )
    label = html.escape(labels[start])
    return HTML(
        f'<figure class="slider" id="{html.escape(name)}">'
        f'<div role="img" tabindex="0" aria-label="{html.escape(alt)}">'
        f'{shown}</div><label>{html.escape(moves)} <input type="range" min="0" '
        f'max="{len(frames) - 1}" value="{start}" aria-valuetext="{label}" oninput="{show}"> '
        f'<output>{label}</output></label><script type="application/json">{data}</script>'
        f"<figcaption><p>{html.escape(caption)}</p></figcaption></figure>"
    )


def _parts(figure: Figure) -> list[str]:
    """Return a figure as SVG, tag by tag, without what no eye sees."""
    with io.StringIO() as file, plt.rc_context({"svg.hashsalt": _SALT}):
        figure.savefig(file, format="svg", metadata=_PLAIN)
        picture = file.getvalue()
    picture = picture[picture.index("<svg") :]
    picture = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", picture, flags=re.DOTALL)
    picture = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", picture, flags=re.DOTALL)
    picture = picture.replace(
        "<svg", '<svg style="max-width: 100%; height: auto; stroke-linejoin: round"', 1
    )
    picture = re.sub(r'<g id="[\w.]+">', "<g>", picture)  # names that several figures would share
    picture = re.sub(r' d="[^"]*"', _rounded, picture)
    return re.split(r"(?<=>)\s*(?=<)", re.sub(r"\s+", " ", picture).strip())


def _rounded(path: re.Match[str]) -> str:
    """Return a path to a tenth of a point."""
    return re.sub(r"(\d\.\d)\d+", r"\1", path[0])
