"""Pruning: what to cut (criterion), the cut (action), and what it cost (report).

A column is a hidden unit's incoming weights: a row of a linear layer's weight, a filter of a
convolution. Only columns cut make a network smaller (:func:`heavytail.compact`).

Two numbers describe a pruning. ``keep`` is the fraction of columns kept. ``error`` is the relative
error eps = ||W - W_kept||_F / ||W||_F: the norm, *not* its square. Where the literature bounds the
squared error by 0.1, ``error`` is 0.1**0.5. *Ratio* is the fraction removed, 1 - ``keep``. An
argument outside the set that its line names is a TypeError or a ValueError.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from heavytail import _check
from heavytail import layers as _layers
from heavytail.compression.function import outgoing_norms

_SLACK = 1e-12  # float64 sums of up to some million squares differ by less, whatever their order


def column_norms(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each column of a weight: shape (n,), float64.

    ``weight`` has shape (n, ...), floating point; a column is ``weight[i]``. One that holds nan has
    the norm nan. The square of a heavy-tailed float32 weight may not fit float32.
    """
    return _column_norms("weight", weight)


def finite_norms(name: str, weight: Tensor) -> Tensor:
    """Return the column norms of a weight that must be finite and not empty."""
    norms = _column_norms(name, weight)
    if not weight.numel() or not torch.isfinite(norms).all():
        raise ValueError(f"{name} must be finite, not empty, got shape {tuple(weight.shape)}")
    return norms


def removable(squares: Tensor, error: float) -> Tensor:
    """Return how many of the first units can go while eps^2 = (sum dropped) / (sum of all) allows.

    ``squares`` are the units' squared norms, shape (..., n), in the order in which they go; where
    all of them are 0, nothing is lost.
    """
    dropped = squares.cumsum(-1)
    everything = dropped[..., -1:]
    errors = torch.where(everything > 0, dropped / everything, 0.0)
    return (errors <= (1 + _SLACK) * error**2).sum(-1)


def relative_error(weight: Tensor, kept: Tensor) -> float:
    """Return ||W - W_kept||_F / ||W||_F, in [0, 1]; 0 for a weight that is all zero.

    Args:
        weight: W, shape (n, ...), finite, not empty; W_kept has its other columns set to zero.
        kept: the columns kept: a boolean mask of shape (n,), or integer indices of shape (k,).
    """
    norms = finite_norms("weight", weight)
    n = len(norms)
    # uint8 could be meant as either.
    if not isinstance(kept, Tensor) or kept.dtype not in (torch.bool, torch.int32, torch.int64):
        got = kept.dtype if isinstance(kept, Tensor) else repr(kept)
        raise TypeError(f"kept must be a boolean mask or integer indices, got {got}")
    if kept.dtype == torch.bool and kept.shape != (n,):
        raise ValueError(f"the mask kept must have shape ({n},), got {tuple(kept.shape)}")
    if kept.dtype != torch.bool and not ((kept >= 0) & (kept < n)).all():
        raise ValueError(f"an index in kept must be in [0, {n}), got {kept.tolist()}")
    mask = torch.zeros(n, dtype=torch.bool, device=norms.device)
    mask[kept.to(norms.device)] = True
    return _error(norms, mask)


def kept_columns(
    weight: Tensor, *, keep: float | None = None, error: float | None = None
) -> Tensor:
    """Return which columns to keep, those of largest norm: a boolean mask of shape (n,).

    Just one of ``keep`` and ``error`` is given. Between equal norms the earlier column goes first.

    Args:
        weight: shape (n, ...), floating point, finite, not empty.
        keep: in [0, 1]; keep round(keep * n) columns, but one at least unless ``keep`` is 0.
        error: in [0, 1]; keep the fewest columns for which the relative error (the norm, not its
            square) stays at most ``error``, up to a part in 1e12 for rounding.
    """
    _one_criterion(keep, error)
    return _kept(finite_norms("weight", weight), keep, error)


@dataclass(frozen=True)
class LayerReport:
    """What pruning did to one weight W."""

    name: str  #: its layer in the model, the first of those that share the weight
    units: int  #: number of columns (kernels, single weights), those of earlier masks among them
    kept: int  #: number of them left
    parameters: int  #: number of weights, likewise
    kept_parameters: int  #: number of weights that may be nonzero after
    error: float  #: relative error (not squared), W being what earlier masks left

    @property
    def ratio(self) -> float:
        """Fraction of columns (kernels, single weights) removed: the pruning ratio."""
        return 1 - self.kept / self.units


@dataclass(frozen=True)
class PruneReport(LayerReport):
    """What pruning did to a model: the fields of :class:`LayerReport` over all pruned weights.

    ``print`` shows a table. The parameters are those of the pruned weights alone: once the network
    is smaller (:func:`heavytail.compact`), the layers behind them shrink as well.
    """

    layers: tuple[LayerReport, ...]  #: of the pruned weights, in the model's order
    unit: str  #: ``"column"``, ``"kernel"`` or ``"weight"``: what was counted and cut
    protected: tuple[str, ...]  #: the other layers with weights: not pruned

    def __str__(self) -> str:
        rows = [("layer", f"{self.unit}s kept", "ratio", "parameters kept", "error")]
        for part in (*self.layers, self):
            units = f"{part.kept:,} of {part.units:,}"
            parameters = f"{part.kept_parameters:,} of {part.parameters:,}"
            numbers = units, f"{part.ratio:.3f}", parameters, f"{part.error:.3f}"
            rows.append((part.name or "(model)", *numbers))
        first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
        if self.protected:
            lines.append(f"protected: {', '.join(self.protected)}")
        return "\n".join(lines)


def prune(
    model: nn.Module,
    *,
    keep: float | None = None,
    error: float | None = None,
    layers: _layers.Layers | None = None,
    unit: str = "column",
    scope: str = "layer",
    score: str | Callable[[nn.Module], Tensor] = "norm",
) -> PruneReport:
    r"""Prune a model in place by masks of ``torch.nn.utils.prune``, the smallest units first.

    The masks multiply the weights at each forward pass. ``torch.nn.utils.prune.remove(layer,
    "weight")`` makes them permanent; copy a model before it is pruned or after that, since torch
    cannot copy a masked one. A layer that is pruned already is pruned further: ``keep`` is a part
    of all its units, ``error`` that of the weights still there. Layers that share a weight are
    pruned as one. A weight that is all zero loses nothing: at any ``error``, 0 too, all of it is
    masked, for good. If an argument is refused, the model is as it was.

    Args:
        model: any module; its chosen layers need a parameter ``weight`` of dimension >= 2, finite.
        keep: as for :func:`kept_columns`, a fraction of the units.
        error: as for :func:`kept_columns`: that of the matrix, not of the outputs.
        layers: what to prune, as modules or names, with all inside them that has columns, as for
            :func:`heavytail.hidden_weights`; never the weights of an ``nn.MultiheadAttention`` or
            a recurrent layer, and no parametrized one. An embedding must be named itself. None is
            all outside ``model.head``, which must be there.
        unit: ``"column"`` cuts columns by norm, ``"kernel"`` a convolution's kernels and a linear
            layer's columns, ``"weight"`` single weights by magnitude.
        scope: ``"layer"`` applies the criterion in each weight by itself, ``"global"`` to the
            units of all together.
        score: which columns go first, those of least score: their ``"norm"``; their ``"path"``
            norm, \|W_i\| \|a_i\| with a_i all weights that read unit i, which unlike the norm does
            not change as ReLU lets (W_i, a_i) become (c W_i, a_i / c), c > 0 (batch-norm, sigmoids
            and the like do not let it); or a function of a layer, which returns a finite number
            for each of its columns, shape (n,). ``"path"`` traces the model as
            :func:`heavytail.compact` does.
    """
    _one_criterion(keep, error)
    _check.one_of("unit", unit, ("column", "kernel", "weight"))
    _check.one_of("scope", scope, ("layer", "global"))
    # What cannot be pruned is refused before a mask is set.
    weights = [_Weight(*each, unit) for each in _chosen(model, layers).items()]
    if score != "norm":
        if unit != "column":
            raise ValueError(f"score must be 'norm' where unit is {unit!r}, got {score!r}")
        _score(model, weights, score)
    kept: list[Tensor] = []
    for group in [[weight] for weight in weights] if scope == "layer" else [weights]:
        sizes, scores = (
            [getattr(weight, what) for weight in group] for what in ("sizes", "scores")
        )
        kept += _kept(torch.cat(sizes), keep, error, torch.cat(scores)).split(list(map(len, sizes)))
    reports = tuple(weight.prune(units) for weight, units in zip(weights, kept, strict=True))
    counts = [(part.units, part.kept, part.parameters, part.kept_parameters) for part in reports]
    units, left, before, after = map(sum, zip(*counts, strict=True))
    whole = _error(torch.cat([weight.sizes for weight in weights]), torch.cat(kept))
    pruned = {name for weight in weights for name in weight.layers}
    protected = tuple(name for name in _layers.weighted(model) if name not in pruned)
    return PruneReport("total", units, left, before, after, whole, reports, unit, protected)


def _chosen(
    model: nn.Module, layers: _layers.Layers | None
) -> dict[nn.Parameter, dict[str, nn.Module]]:
    """Return the weights that ``layers`` means, each with its layers by name."""
    named, pool = [], _layers.weighted(model)
    if layers is None:
        pool = _layers.hidden(model, None)
    elif not (named := _layers.find("layers", model, layers)):
        raise ValueError("layers must name at least one layer, got none")
    for layer in named:
        if set(layer.modules()).isdisjoint(pool.values()):
            raise ValueError(f"layers must hold weights of dimension >= 2, got {layer}")
    inside = {part for layer in named or [model] for part in layer.modules()}
    uncalled = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    chosen: dict[nn.Parameter, dict[str, nn.Module]] = {}
    for part, module in pool.items():
        name, owner = _layers.owner_of(model, part)
        weight = module._parameters.get("weight_orig", module._parameters.get("weight"))
        some = weight if weight is not None else next(module.parameters(recurse=False))
        kind, meant, reason = _layers.kind_of(owner, some), owner in named, ""
        if owner in uncalled:
            reason = "is never called: its nn.MultiheadAttention reads the weight itself"
        elif kind is None:
            reason = "is of a kind whose columns are not known"
        elif parametrize.is_parametrized(owner):
            reason, meant = "is parametrized: call parametrize.remove_parametrizations first", True
        elif weight is None or not weight.numel():
            reason, meant = "has no parameter 'weight'", meant or "weight" in vars(module)
        elif module in inside and (meant or not kind.inputs):
            _layers.meet(weight, kind, module)
            chosen.setdefault(weight, {})[name] = module
        if reason and meant and module in inside:
            raise ValueError(f"{_layers.listed({name: owner})} {reason}")
    if not chosen:
        raise ValueError(f"layers must hold columns to prune, got {_layers.listed(pool)}")
    return chosen


class _Weight:
    """A weight to prune: its layers, and the sizes of its units as earlier masks leave them."""

    def __init__(self, whole: nn.Parameter, layers: dict[str, nn.Module], unit: str) -> None:
        self.layers, self._kind = layers, _layers.home_of(whole).kind
        self._alive = torch.ones_like(whole, dtype=torch.bool)
        for layer in layers.values():
            if "weight_mask" in layer._buffers:
                self._alive &= layer.get_buffer("weight_mask").bool()
        visible = _layers.units_first(torch.where(self._alive, whole, 0), self._kind)
        axes = {"column": 2, "kernel": 2 + self._kind.kernels, "weight": visible.dim()}[unit]
        self._shape = (*visible.shape[:axes], *(1,) * (visible.dim() - axes))
        units = visible.reshape(math.prod(self._shape), -1)
        # On the CPU, since layers may lie on several devices.
        sizes = finite_norms(f"model's weight {next(iter(layers))!r}", units).cpu()
        self.sizes = self.scores = sizes

    def prune(self, kept: Tensor) -> LayerReport:
        mask = self._alive.clone()
        units = _layers.units_first(mask, self._kind)  # a view
        units &= kept.view(self._shape).to(mask.device)
        for layer in self.layers.values():
            torch_prune.custom_from_mask(layer, "weight", mask)
        left = units.reshape(len(kept), -1).any(1)
        counts = len(kept), int(left.sum()), mask.numel(), int(mask.sum())
        return LayerReport(next(iter(self.layers)), *counts, _error(self.sizes, kept))


def _score(
    model: nn.Module, weights: list[_Weight], score: str | Callable[[nn.Module], Tensor]
) -> None:
    """Give each weight its scores; what is zero already goes first in any case."""
    if not callable(score):
        _check.one_of("score", score, ("norm", "path"))
    behind = {} if callable(score) else outgoing_norms(model)
    for weight in weights:
        (name, layer), n = next(iter(weight.layers.items())), len(weight.sizes)
        if callable(score):
            scores = _check.tensor("what score returns", score(layer)).detach().double().cpu()
        elif name in behind:
            scores = weight.sizes * behind[name]
        else:
            raise ValueError(f"score must not be 'path': no weights that read {name} were found")
        _check.numbers(f"the scores of {name}", scores)
        if scores.shape != (n,):
            got = tuple(scores.shape)
            raise ValueError(f"the scores of {name} must have shape ({n},), got {got}")
        weight.scores = scores.masked_fill(weight.sizes == 0, -math.inf)


def _column_norms(name: str, weight: Tensor) -> Tensor:
    if _check.tensor(name, weight).dim() < 2:
        raise ValueError(f"{name} must have shape (n, ...), n columns, got {tuple(weight.shape)}")
    return _norms(weight.detach().flatten(1))


def _norms(rows: Tensor) -> Tensor:
    """Return the norm of each row (n, d) in float64, relative to its largest entry meanwhile."""
    if not rows.numel():
        return rows.new_zeros(len(rows), dtype=torch.float64)
    rows = rows.to(torch.float64)
    largest = rows.abs().amax(1, keepdim=True)
    largest = torch.where((largest > 0) & (largest < math.inf), largest, 1.0)
    norms: Tensor = torch.linalg.vector_norm(rows / largest, dim=1)
    return norms * largest.squeeze(1)


def _one_criterion(keep: float | None, error: float | None) -> None:
    if (keep is None) == (error is None):
        raise ValueError(f"give one of keep and error, got keep={keep} and error={error}")
    name, value = ("keep", keep) if error is None else ("error", error)
    _check.number(name, value, "[0, 1]")


def _error(sizes: Tensor, kept: Tensor) -> float:
    """Return ||W - W_kept|| / ||W||, of the norms of the units."""
    lost, whole = (float(_norms(part[None])) for part in (sizes[~kept], sizes))
    return min(lost / whole, 1.0) if whole else 0.0


def _kept(
    sizes: Tensor, keep: float | None, error: float | None, scores: Tensor | None = None
) -> Tensor:
    """Choose the units to keep, (units,), those of largest score, or size; by one criterion."""
    n, order = len(sizes), (sizes if scores is None else scores).argsort(stable=True)
    if error is not None:
        largest = float(sizes.max()) or 1.0  # relative to it no square overflows
        cut = int(removable((sizes[order] / largest).square(), error))
    else:
        cut = n - (min(n, max(1, round(keep * n))) if keep else 0)
    kept = torch.ones(n, dtype=torch.bool, device=sizes.device)
    kept[order[:cut]] = False
    return kept
