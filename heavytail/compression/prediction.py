r"""The pruning ratio before training: start plus noise alone.

After K steps a column of a noisy layer is

    W_i = (start) + (gradient part) + s xi_i in law,   s = (sum_k scale_k^alpha lr_k)^{1/alpha},

since stable increments add up exactly. If the gradient part moves the norms little, they are those
of start plus noise,

    |w + s xi|^2 = |w|^2 + 2 s <w, xi> + s^2 |xi|^2,

and all that pruning by norm will do follows without data or gradient. Where the gradient part is
not small beside the start, the prediction fails, and nothing here can know: measure it.

An argument outside the set that its line names is a TypeError or a ValueError. Source: ours; Wan,
Barsbey, Zaidi and Simsekli 2024 (arXiv 2306.08125) for the algorithm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from heavytail import _check
from heavytail.compression.pruning import finite_norms, removable
from heavytail.layers import COLUMNS, Layers, as_columns, hidden_weights, home_of, movable
from heavytail.noise import KINDS, noise_blocks

_Terms = tuple[Tensor, Tensor, Tensor]  # |w|^2: (n,), <w, xi> and |xi|^2: (draws, n)
_Law = tuple[str, float, torch.Generator | None]  # kind, alpha, generator
Schedule = float | Sequence[float] | Tensor | npt.NDArray[np.floating]


@dataclass(frozen=True)
class Prediction:
    """The law of the pruning ratio of start plus noise, by simulation; printed, five quantiles."""

    ratios: Tensor  #: fraction of columns that can go, of each draw: (draws,), float64, ascending
    noise: float  #: s, the scale of the accumulated noise, in the unit of the weights

    def quantile(self, p: float) -> float:
        """Return the p-quantile of the ratio, p in [0, 1]."""
        return float(self.ratios.quantile(_check.number("p", p, "[0, 1]")))

    def __str__(self) -> str:
        row = "  ".join(f"{p} %: {self.quantile(p / 100):.3f}" for p in (5, 10, 50, 90, 95))
        return f"pruning ratio  {row}  (start plus noise of scale {self.noise:.3g})"


def predict_pruning(
    model: nn.Module | Tensor,
    *,
    alpha: float,
    scale: Schedule,
    kind: str = "shared",
    lr: Schedule,
    steps: int,
    error: float,
    weight_decay: float = 0.0,
    column: str = "filter",
    exclude: Layers | None = None,
    draws: int = 200,
    generator: torch.Generator | None = None,
) -> Prediction:
    """Predict, before training, which fraction of the columns pruning will be able to remove.

    It is that of all columns of :func:`heavytail.hidden_weights`, each weight pruned by itself.

    Args:
        model: the model at its start; or one weight, shape (n, ...), n columns. Finite, no masks.
        alpha: stability index in (0, 2].
        scale: sigma >= 0; one for all steps, or a schedule of ``steps`` entries.
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        lr: learning rate >= 0; one for all steps, or a schedule of ``steps`` entries.
        steps: number of steps, >= 0.
        error: in [0, 1], the relative error allowed in each layer: the norm, not its square.
        weight_decay: lambda >= 0, if it multiplies a weight by 1 - lr lambda each step, as that of
            SGD without momentum and of AdamW does.
        column: what has a noise vector of its own, as for :class:`heavytail.StableNoise`; what is
            pruned is a filter in either case.
        exclude: as for :func:`heavytail.hidden_weights`; None for a single weight.
        draws: independent repetitions, >= 1; more for quantiles beyond 5 and 95 %.
        generator: source of the random bits, on the weights' device; None is the global one.
    """
    error = _check.number("error", error, "[0, 1]")
    s, left = _accumulated(alpha, scale, lr, steps, weight_decay)
    law = (kind, alpha, generator)
    weights = _weights(model, exclude, column, draws, law)
    drawn = _drawn(weights, column, draws, left, law)
    return Prediction(_ratios(drawn, s, error).sort().values, s)


def plan_scale(
    model: nn.Module | Tensor,
    *,
    alpha: float,
    kind: str = "shared",
    lr: Schedule,
    steps: int,
    error: float,
    ratio: float,
    weight_decay: float = 0.0,
    column: str = "filter",
    exclude: Layers | None = None,
    draws: int = 200,
    generator: torch.Generator | None = None,
) -> float:
    """Return the least sigma at which the median of :func:`heavytail.predict_pruning` is a ratio.

    It is so up to a factor 1 + 1e-6; the median moves in steps of a column. The arguments are those
    of ``predict_pruning``, with some noise in all (``steps`` and ``lr`` not 0); ``ratio`` is a
    fraction of columns removed, between the medians of the start alone and of the noise alone. If
    it is refused, the generator is as it was, or torch's global one of the CPU.
    """
    error, ratio = _check.number("error", error, "[0, 1]"), _check.number("ratio", ratio, "[0, 1]")
    unit, left = _accumulated(alpha, 1.0, lr, steps, weight_decay)
    if unit == 0:
        raise ValueError("lr and steps must leave room for noise, got none at all")
    law = (kind, alpha, generator)
    weights = _weights(model, exclude, column, draws, law)
    source = torch.default_generator if generator is None else generator
    before = source.get_state()
    drawn = _drawn(weights, column, draws, left, law)

    def median(s: float) -> float:
        return float(_ratios(drawn, s, error).quantile(0.5))

    size = math.sqrt(max(float(start.max()) for start, *_ in drawn)) or 1.0
    low, high = 1e-9 * size, 1e9 * size
    least, most = median(low), median(high)
    if not least < ratio <= most:
        source.set_state(before)
        allowed = f"({least:.4g}, {most:.4g}], the medians for the start and for the noise alone"
        raise ValueError(f"ratio must be in {allowed}, got {ratio:g}")
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = (middle, high) if median(middle) < ratio else (low, middle)
    return high / unit


def accumulated_scale(
    alpha: float, scale: Schedule, lr: Schedule, steps: int, *, weight_decay: float = 0.0
) -> float:
    """Return s such that all the noise of a training adds up to s xi in law.

        s^alpha = sum_k scale_k^alpha lr_k prod_{j > k} (1 - lr_j weight_decay)^alpha

    The arguments are those of :func:`heavytail.predict_pruning`.
    """
    return _accumulated(alpha, scale, lr, steps, weight_decay)[0]


def _accumulated(
    alpha: float, scale: Schedule, lr: Schedule, steps: int, weight_decay: float
) -> tuple[float, float]:
    """Return s, and the factor that weight decay leaves of the start."""
    alpha, steps = _check.number("alpha", alpha, "(0, 2]"), _check.count("steps", steps)
    sigma, eta = _schedule("scale", scale, steps), _schedule("lr", lr, steps)
    factors = 1 - eta * _check.number("weight_decay", weight_decay, _check.NONNEGATIVE)
    left = torch.cat([factors, factors.new_ones(1)]).flip(0).cumprod(0).flip(0)
    if not left.isfinite().all():
        raise ValueError(f"weight_decay must leave finite weights after {steps} steps")
    sizes = sigma * left[1:].abs()
    # Relative to the largest, or 1: a power of a small scale may leave the floats.
    largest = sizes.max() if sizes.any() else 1.0
    s = float(largest * ((sizes / largest) ** alpha * eta).sum() ** (1 / alpha))
    if not math.isfinite(s * s):
        raise ValueError(f"scale and lr must add up to noise of finite square, got scale {s:g}")
    return s, float(left[0])


def _schedule(name: str, value: object, steps: int) -> Tensor:
    """Return one number for each step, float64, shape (steps,)."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        entries = [_check.number(f"each entry of {name}", x, _check.NONNEGATIVE) for x in value]
        value = torch.tensor(entries, dtype=torch.float64)
    numbers = _check.numbers(name, value, _check.NONNEGATIVE)
    numbers = torch.as_tensor(numbers, dtype=torch.float64, device="cpu")
    if numbers.shape in ((), (steps,)):
        return numbers.expand(steps)
    got = tuple(numbers.shape)
    raise ValueError(f"a schedule of {name} must have shape ({steps},), got {got}")


def squared_norms(start: Tensor, along: Tensor, size: Tensor, s: float) -> Tensor:
    """Return |w + s xi|^2, of |w|^2, <w, xi> and |xi|^2: inf where the noise leaves the floats."""
    if s == 0:
        return start.expand_as(size)
    squares = start + s * (2 * along + s * size)
    # Rounding may leave a column that the noise has cancelled just below 0.
    return squares.clamp_min(0).nan_to_num(nan=math.inf, posinf=math.inf)


def noise_terms(columns: Tensor, total: int, at_once: int, *law: *_Law) -> tuple[Tensor, Tensor]:
    """Return <w, xi> and |xi|^2, each (total,), for noise drawn ``at_once`` columns at a time.

    The columns w, shape (n, d), are taken in turn.
    """
    (n, d), (kind, alpha, generator) = columns.shape, law
    along, size = columns.new_empty(2, total)
    for first in range(0, total, at_once):
        count = min(at_once, total - first)
        blocks = noise_blocks(kind, alpha, count, d, generator, columns.device, columns.dtype)
        for rows, xi, factors in blocks:
            if factors is not None:
                xi.mul_(factors)
            here = slice(first + rows.start, first + rows.stop)
            turn = torch.arange(here.start, here.stop, device=columns.device) % n
            w = columns[rows if at_once == n else turn]  # a view is cheaper
            # xi is one number for all coordinates, (rows, 1), if it is shared.
            along[here] = torch.linalg.vecdot(w, xi)
            size[here] = xi.square().mean(1) * d
    return along, size


def _weights(
    model: nn.Module | Tensor, exclude: Layers | None, column: str, draws: int, law: _Law
) -> Sequence[Tensor]:
    """Return the weights; what cannot be drawn for is refused here, before any noise is."""
    _check.count("draws", draws, least=1)
    _check.one_of("kind", law[0], KINDS)
    _check.one_of("column", column, COLUMNS)
    if isinstance(model, Tensor) and exclude is not None:
        raise ValueError(f"exclude must be None for a single weight, got {exclude!r}")
    weights: Sequence[Tensor]
    weights = [model] if isinstance(model, Tensor) else hidden_weights(model, exclude=exclude)
    for weight in weights:
        finite_norms("a weight of model", weight)
        _check.place(law[-1], weight.device, torch.float64)
        if movable(weight) is not None:
            raise ValueError(f"model must have no mask, got one of shape {tuple(weight.shape)}")
    return weights


def _drawn(
    weights: Sequence[Tensor], column: str, draws: int, left: float, law: _Law
) -> list[_Terms]:
    """Return each weight's terms, with the part of the start that weight decay left."""
    drawn = []
    for weight in weights:
        kind, W = home_of(weight).kind, weight.detach().double()
        units, W = len(as_columns(W, "filter", kind)), as_columns(W, column, kind) * left
        terms = noise_terms(W, draws * len(W), len(W), *law)
        # The terms of a filter are the sums of its kernels'.
        along, size = (term.view(draws, units, -1).sum(-1) for term in terms)
        drawn.append((W.view(units, -1).square().sum(1), along, size))
    return drawn


def _ratios(weights: list[_Terms], s: float, error: float) -> Tensor:
    """Return the fraction of all columns that can go, for each draw: (draws,)."""
    removed = [removable(squared_norms(*w, s).sort(-1).values, error).double() for w in weights]
    return torch.stack([n.cpu() for n in removed]).sum(0) / sum(len(start) for start, *_ in weights)
