"""One look for all figures: colours that survive colour blindness and print, quiet axes."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from heavytail.tails import HillCurve

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
    "shared": "I, shared",
    "independent": "II, independent",
    "isotropic": "III, isotropic",
}


def use_style() -> None:
    """Set matplotlib's defaults to the look of the book."""
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
        }
    )


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


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table under its column titles; entries are Markdown, without a vertical bar."""
    lines = [columns, ["---"] * len(columns), *rows]
    display(Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines)))


def slider(figures: Sequence[Figure], labels: Sequence[str], *, caption: str, alt: str) -> HTML:
    """Return figures under a slider, the first one shown; without scripts it stays.

    Args:
        figures: drawn alike, of one size, at least one; they are closed.
        labels: one for each figure, what the slider says beside it.
        caption: of all of them.
        alt: the alternative text.
    """
    pictures = []
    for figure in figures:
        with io.BytesIO() as file:
            figure.savefig(file, format="png", dpi=110)
            pictures.append(base64.b64encode(file.getvalue()).decode())
        plt.close(figure)
    shown = (f'<img src="data:image/png;base64,{p}" alt="{alt}"' for p in pictures)
    images = "".join(
        f"{tag}{' hidden' if i else ''} style='max-width: 100%'>" for i, tag in enumerate(shown)
    )
    show = (
        "const f = this.closest('figure'), n = +this.value;"
        "f.querySelectorAll('img').forEach((m, i) => { m.hidden = i !== n; });"
        "f.querySelectorAll('output').forEach((o, i) => { o.hidden = i !== n; });"
    )
    texts = "".join(
        f"<output{' hidden' if i else ''}> {label}</output>" for i, label in enumerate(labels)
    )
    return HTML(
        f'<figure class="align-default">{images}<div><input type="range" min="0" value="0" '
        f'max="{len(figures) - 1}" aria-label="which picture" oninput="{show}">{texts}</div>'
        f"<figcaption><p>{caption}</p></figcaption></figure>"
    )
