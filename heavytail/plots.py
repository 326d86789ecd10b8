"""One look for all figures: colours that survive colour blindness and print, quiet axes."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from matplotlib.axes import Axes
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
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# With these two, nothing in an SVG changes from one run to the next.
SALT = "heavytail"
SVG_OPTIONS: dict[str, Any] = {"metadata": dict.fromkeys(("Date", "Creator", "Format", "Type"))}


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
            "svg.hashsalt": SALT,
            "axes.prop_cycle": f"cycler('color', {list(_CYCLE)})",
        }
    )
    shell = get_ipython()
    if shell is not None:
        backend = InlineBackend.instance(parent=shell)
        backend.figure_formats = {"svg"}
        backend.print_figure_kwargs = SVG_OPTIONS


def sorted_columns(ax: Axes, norms: Tensor, **line: Any) -> None:
    """Draw column norms, largest first, against their rank, both on logarithmic axes.

    A power law P(norm > r) ~ r^-alpha is a line of slope -1/alpha there. ``norms`` has shape (n,)
    and is positive; ``line`` goes to ``Axes.loglog``.
    """
    ordered = np.sort(norms.detach().cpu().numpy())[::-1]
    ax.loglog(np.arange(1, len(ordered) + 1), ordered, **line)
    ax.set_xlabel("rank of the column")
    ax.set_ylabel("norm of the column")


def hill_plot(ax: Axes, curve: HillCurve, **line: Any) -> None:
    """Draw Hill's estimate of the tail index against k, with two standard errors either side.

    ``curve`` is what :func:`heavytail.hill_curve` returns, ``line`` goes to ``Axes.semilogx``.
    """
    k, alpha, stderr = (v.numpy() for v in (curve.k, curve.alpha, curve.stderr))
    order = np.argsort(k)
    k, alpha, stderr = k[order], alpha[order], stderr[order]
    (drawn,) = ax.semilogx(k, alpha, **line)
    band: dict[str, Any] = {"color": drawn.get_color(), "alpha": 0.15, "linewidth": 0}
    ax.fill_between(k, alpha - 2 * stderr, alpha + 2 * stderr, **band)
    ax.set_xlabel("k, upper order statistics used")
    ax.set_ylabel("estimate of α")
