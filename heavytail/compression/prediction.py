r"""The pruning ratio before training: init plus noise alone.

After K steps a column of a noisy layer is

    W_i = (start) + (gradient part) + s xi_i in law,   s = (sum_k scale_k^alpha lr_k)^{1/alpha},

since stable increments add up exactly. If the gradient part moves the norms little, they are those
of start plus noise, and all that pruning by norm will do follows before a single step is taken: no
data, no gradient.

That condition is the whole of it. Where the gradient part is not small beside the start, the
prediction fails, and nothing here can know: measure it.

Source: ours; Wan, Barsbey, Zaidi and Simsekli 2024 (arXiv 2306.08125) for the algorithm.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from heavytail import _check
from heavytail import layers as _layers
from heavytail.compression.pruning import column_norms, removable
from heavytail.noise import COLUMNS, KINDS, as_columns, hidden_weights, noise_blocks

Schedule = float | Sequence[float] | Tensor | npt.NDArray[np.floating]

_PERCENT = (5, 10, 50, 90, 95)


@dataclass(frozen=True)
class Prediction:
    """The law of the pruning ratio of start plus noise, by simulation.

    Attributes:
        ratios: shape (draws,), float64, ascending: the fraction of columns that can go, in [0, 1],
            for each independent draw of the noise.
        noise: s, the scale of the accumulated noise, in the unit of the weights.
    """

    ratios: Tensor
    noise: float

    def quantile(self, p: float) -> float:
        """Return the p-quantile of the ratio, p in [0, 1]."""
        return float(self.ratios.quantile(_check.fraction("p", p)))

    def __str__(self) -> str:
        """Return the 5, 10, 50, 90 and 95 % quantiles in a line."""
        row = "  ".join(f"{p} %: {self.quantile(p / 100):.3f}" for p in _PERCENT)
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
    exclude: _layers.Layer | Iterable[_layers.Layer] | None = None,
    draws: int = 200,
    generator: torch.Generator | None = None,
) -> Prediction:
    r"""Predict, before training, which fraction of the columns pruning will be able to remove.

    Draws the noise of all steps at once, adds it to the start as it stands in the model, and
    counts the columns of smallest norm that can go at the given error; the gradient is left out.
    With w the start of a column, the squared norms are

        |w + s xi|^2 = |w|^2 + 2 s <w, xi> + s^2 |xi|^2.

    Args:
        model: the model at its start; or one weight, shape (n, ...), n columns.
        alpha: stability index in (0, 2].
        scale: sigma >= 0; one for all steps, or a schedule of ``steps`` entries.
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        lr: learning rate >= 0; one for all steps, or a schedule of ``steps`` entries.
        steps: number of steps, >= 0.
        error: in [0, 1], the relative error allowed in each layer: the norm, not its square.
        weight_decay: lambda >= 0, if it multiplies a weight by 1 - lr lambda each step, as that of
            SGD without momentum and of AdamW does.
        column: what has a noise vector of its own in a convolution, ``"filter"`` or ``"kernel"``,
            as for :class:`heavytail.StableNoise`. What is pruned is a filter in either case.
        exclude: layers without noise and pruning, as for :func:`heavytail.hidden_weights`; None
            for a single weight.
        draws: independent repetitions, >= 1. Beyond the 5 and 95 % quantiles ask for more. Each
            costs as much as a step's noise in double precision.
        generator: source of the random bits, on the weights' device; None is the global one.

    Returns:
        The ratios: of all columns of the hidden weights, each weight pruned by itself. For linear
        and convolution layers that share no weight these are the ratios of
        :func:`heavytail.prune`.

    Raises:
        TypeError, ValueError: on an argument outside the sets above, or weights that are not
            finite.

    Source: ours, see the top of this module.
    """
    error = _check.fraction("error", error)
    decay = _decay(lr, steps, weight_decay)
    s = accumulated_scale(alpha, scale, lr, steps, weight_decay=weight_decay)
    layers = _simulated(model, kind, column, alpha, exclude, draws, generator)
    return Prediction(_ratios(layers, s, error, decay).sort().values, s)


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
    exclude: _layers.Layer | Iterable[_layers.Layer] | None = None,
    draws: int = 200,
    generator: torch.Generator | None = None,
) -> float:
    r"""Return the sigma at which the median of :func:`predict_pruning` is a wanted ratio.

    Args:
        model: the model at its start; or one weight, shape (n, ...), n columns.
        alpha: stability index in (0, 2].
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        lr: learning rate >= 0; one for all steps, or a schedule of ``steps`` entries; not all 0.
        steps: number of steps, >= 1.
        error: in [0, 1], the relative error allowed in each layer: the norm, not its square.
        ratio: the wanted median of the fraction of columns removed. It must lie between that of
            the start alone and that of the noise alone.
        weight_decay: as for :func:`predict_pruning`.
        column: as for :func:`predict_pruning`.
        exclude: as for :func:`predict_pruning`.
        draws: independent repetitions, >= 1.
        generator: source of the random bits, on the weights' device; None is the global one.

    Returns:
        sigma > 0, up to a factor 1 + 1e-6 the smallest at which the median reaches the ratio: it
        moves in steps of a column. The same draws serve all trial values; with others the median
        moves by what ``draws`` leaves open.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.
    """
    error, ratio = _check.fraction("error", error), _check.fraction("ratio", ratio)
    decay = _decay(lr, steps, weight_decay)
    unit = accumulated_scale(alpha, 1.0, lr, steps, weight_decay=weight_decay)
    if unit == 0:
        raise ValueError("lr and steps must leave room for noise, got none at all")
    layers = _simulated(model, kind, column, alpha, exclude, draws, generator)

    def median(s: float) -> float:
        return float(_ratios(layers, s, error, decay).quantile(0.5))

    size = math.sqrt(max(float(layer.start.max()) for layer in layers)) or 1.0
    low, high = 1e-9 * size, 1e9 * size
    if ratio <= median(low):
        raise ValueError(f"ratio must be above the start's own, {median(low):.4g}, got {ratio:g}")
    if ratio > median(high):
        raise ValueError(f"ratio must be at most the noise's, {median(high):.4g}, got {ratio:g}")
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if median(middle) < ratio else (low, middle)
    return high / unit


def accumulated_scale(
    alpha: float, scale: Schedule, lr: Schedule, steps: int, *, weight_decay: float = 0.0
) -> float:
    r"""Return s such that all the noise of a training adds up to s xi in law.

        s^alpha = sum_k scale_k^alpha lr_k prod_{j > k} (1 - lr_j weight_decay)^alpha.

    Args:
        alpha: stability index in (0, 2].
        scale: sigma >= 0; one for all steps, or a schedule of ``steps`` entries.
        lr: learning rate >= 0; one for all steps, or a schedule of ``steps`` entries.
        steps: number of steps, >= 0.
        weight_decay: of SGD, >= 0.

    Returns:
        s >= 0, in the unit of ``scale`` times that of ``lr`` to the power 1/alpha.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.
    """
    alpha = _check.index("alpha", alpha, 2)
    steps = _check.count("steps", steps)
    sigma, eta = _schedule("scale", scale, steps), _schedule("lr", lr, steps)
    shrink = (1 - eta * _check.nonnegative("weight_decay", weight_decay)).abs()
    later = torch.cat([shrink[1:], shrink.new_ones(min(steps, 1))])
    size = sigma * later.flip(0).cumprod(0).flip(0)
    largest = float(size.max()) if steps else 0.0
    if largest == 0:
        return 0.0
    # Relative to the largest: a power of a small scale may leave the floats.
    total = float(((size / largest) ** alpha * eta).sum())
    return largest * math.pow(total, 1 / alpha)


@dataclass(frozen=True)
class _Layer:
    """The squared norms of start plus s times noise are start + 2 s along + s^2 size."""

    start: Tensor  # (n,): |w|^2
    along: Tensor  # (draws, n): <w, xi>
    size: Tensor  # (draws, n): |xi|^2


def _simulated(
    model: nn.Module | Tensor,
    kind: str,
    column: str,
    alpha: float,
    exclude: _layers.Layer | Iterable[_layers.Layer] | None,
    draws: int,
    generator: torch.Generator | None,
) -> list[_Layer]:
    draws = _check.count("draws", draws, least=1)
    _check.one_of("kind", kind, KINDS)
    _check.one_of("column", column, COLUMNS)
    alpha = _check.index("alpha", alpha, 2)
    if isinstance(model, Tensor):
        column_norms(model)  # refuses what has no columns
        if exclude is not None:
            raise ValueError(f"exclude must be None for a single weight, got {exclude!r}")
        weights = [model]
    else:
        weights = list(hidden_weights(model, exclude=exclude))
    layers = []
    for weight in weights:
        n = len(weight)
        W = as_columns(weight.detach().double(), column)
        if not W.numel():
            raise ValueError(f"a weight must not be empty, got shape {tuple(weight.shape)}")
        if not bool(torch.isfinite(W).all()):
            raise ValueError("the weights must be finite, got inf or nan among them")
        along, size = W.new_empty(draws, len(W)), W.new_empty(draws, len(W))
        for i in range(draws):
            blocks = noise_blocks(kind, alpha, len(W), W.shape[1], generator, W.device, W.dtype)
            for rows, xi, factors in blocks:
                if factors is not None:
                    xi.mul_(factors)
                # xi is one number for all coordinates, (rows, 1), if it is shared.
                along[i, rows] = (W[rows] * xi).sum(1)
                size[i, rows] = xi.square().mean(1) * W.shape[1]
        start, along, size = (  # a filter's is the sum of its kernels'
            squares.unflatten(-1, (n, -1)).sum(-1) for squares in (W.square().sum(1), along, size)
        )
        layers.append(_Layer(start, along, size))
    return layers


def _ratios(layers: list[_Layer], s: float, error: float, decay: float = 1.0) -> Tensor:
    """Return the fraction of all columns that can go, for each draw: (draws,)."""
    removed = []
    for layer in layers:
        squares = decay**2 * layer.start + 2 * s * decay * layer.along + s**2 * layer.size
        # Rounding may leave a column that the noise has cancelled just below 0.
        removed.append(removable(squares.clamp_min(0), error).double().cpu())
    return torch.stack(removed).sum(0) / sum(len(layer.start) for layer in layers)


def _decay(lr: Schedule, steps: int, weight_decay: float) -> float:
    """Return what weight decay leaves of the start."""
    eta = _schedule("lr", lr, _check.count("steps", steps))
    return float((1 - eta * _check.nonnegative("weight_decay", weight_decay)).prod())


def _schedule(name: str, value: Schedule, steps: int) -> Tensor:
    """Return one number for each step, float64, shape (steps,)."""
    if isinstance(value, Tensor) and value.dim() == 0:
        value = float(value)
    if isinstance(value, Tensor | Sequence | np.ndarray):
        numbers = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
        if numbers.shape != (steps,):
            raise ValueError(
                f"a schedule of {name} must have shape ({steps},), got {tuple(numbers.shape)}"
            )
        _check.nonnegative_or_tensor(name, numbers)
        return numbers
    return torch.full((steps,), _check.nonnegative(name, value), dtype=torch.float64)
