"""Pruning: what to cut (criterion), the cut (action), and what it cost (report).

Heavy-tailed columns make a weight matrix compressible: the few columns of largest norm carry
nearly all of its Frobenius norm, and the others can go. A column is a hidden unit's incoming
weights, index i of the first dimension of a weight: a filter of a convolution. Smaller units can
be cut too, a convolution's kernels W[i, j] and single weights; but only columns make a network
smaller (:func:`heavytail.compact`).

Two numbers describe a pruning. ``keep`` is the fraction of columns kept. ``error`` is the
relative error ||W - W_kept||_F / ||W||_F: the norm, *not* its square. Where the literature bounds
the squared error by 0.1, ``error`` is 0.1**0.5. *Ratio* is the fraction removed, 1 - ``keep``.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from heavytail import _check
from heavytail import layers as _layers

UNITS = ("column", "kernel", "weight")
SCOPES = ("layer", "global")

_MASKS = (torch.bool, torch.int64, torch.int32)
_SLACK = 1e-12  # float64 sums of up to some million squares differ by less, whatever their order


def column_norms(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each column of a weight.

    Args:
        weight: shape (n, ...), floating point, n columns; a column is ``weight[i]``.

    Returns:
        Shape (n,), float64: the square of a heavy-tailed float32 weight may not fit float32.

    Raises:
        TypeError: if ``weight`` is no floating-point tensor.
        ValueError: if it has fewer than two dimensions.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise TypeError(f"weight must be a floating-point tensor, got {_described(weight)}")
    if weight.dim() < 2:
        raise ValueError(
            f"weight must have shape (n, ...) with n columns, got {_described(weight)}"
        )
    columns = weight.detach().flatten(1).to(torch.float64)
    if weight.dtype == torch.float64 and columns.numel():  # its squares may leave the floats too
        largest = columns.abs().amax(1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
    else:
        largest = columns.new_ones(len(columns), 1)
    norms: Tensor = torch.linalg.vector_norm(columns / largest, dim=1)
    return norms * largest.squeeze(1)


def relative_error(weight: Tensor, kept: Tensor) -> float:
    """Return ||W - W_kept||_F / ||W||_F, W_kept being W with the other columns set to zero.

    Args:
        weight: shape (n, ...), floating point.
        kept: the columns kept: a boolean mask of shape (n,), or integer indices of shape (k,).

    Returns:
        A number in [0, 1]; the norm, not its square. 0 for a weight that is all zero.

    Raises:
        TypeError: if a tensor is of another type.
        ValueError: if the mask has another length, an index is out of range, or a weight is not
            finite.
    """
    norms = _finite(column_norms(weight))
    n = len(norms)
    if not isinstance(kept, Tensor) or kept.dtype not in _MASKS:  # uint8 could be meant as either
        raise TypeError(f"kept must be a boolean mask or integer indices, got {_described(kept)}")
    dropped = torch.ones(n, dtype=torch.bool, device=norms.device)
    if kept.dtype == torch.bool:
        if kept.shape != (n,):
            raise ValueError(f"the mask kept must have shape ({n},), got {tuple(kept.shape)}")
        dropped = ~kept.to(norms.device)
    else:
        if kept.numel() and not (int(kept.min()) >= 0 and int(kept.max()) < n):
            raise ValueError(f"an index in kept must be in [0, {n}), got {kept.tolist()}")
        dropped[kept.to(norms.device).long()] = False
    return _relative(norms, dropped, 0.0)


def kept_columns(
    weight: Tensor, *, keep: float | None = None, error: float | None = None
) -> Tensor:
    """Choose the columns to keep: those of largest norm.

    Args:
        weight: shape (n, ...), floating point.
        keep: in [0, 1]; keep the round(keep * n) columns of largest norm.
        error: in [0, 1]; keep the fewest columns for which the relative error (the norm, not its
            square) stays at most ``error``, up to a part in 1e12 for rounding. Just one of
            ``keep`` and ``error`` is given.

    Returns:
        Boolean mask of shape (n,). Between equal norms the earlier column goes first.

    Raises:
        TypeError, ValueError: on an argument outside the sets above, or norms that are not finite.
    """
    _one_criterion(keep, error)
    return _kept(_finite(column_norms(weight)), 0.0, keep, error)


@dataclass(frozen=True)
class LayerReport:
    """What pruning did to one layer.

    Attributes:
        name: of the layer in the model.
        units: number of columns (kernels, single weights) before.
        kept: number of them left.
        parameters: number of weights before.
        kept_parameters: number of weights that may be nonzero after.
        error: relative error ||W - W_kept||_F / ||W||_F; the norm, not its square. W is the weight
            without masks, so that those of an earlier pruning count.
        itemsize: bytes a weight.
        positions: how often an example meets each weight: 1 in a linear layer, the number of
            output positions in a convolution; None if not known.
    """

    name: str
    units: int
    kept: int
    parameters: int
    kept_parameters: int
    error: float
    itemsize: int = 4
    positions: float | None = None

    @property
    def ratio(self) -> float:
        """Fraction of columns (kernels, single weights) removed."""
        return 1 - self.kept / self.units

    @property
    def bytes(self) -> int:
        """Size of the weights before."""
        return self.parameters * self.itemsize

    @property
    def kept_bytes(self) -> int:
        """Size of the weights that may be nonzero after, without the indices that say where."""
        return self.kept_parameters * self.itemsize

    @property
    def flops(self) -> float:
        """Floating-point operations an example before, two for each weight met; nan: unknown."""
        return _flops(self.parameters, self.positions)

    @property
    def kept_flops(self) -> float:
        """The same with the weights that may be nonzero after."""
        return _flops(self.kept_parameters, self.positions)


@dataclass(frozen=True)
class PruneReport:
    """What pruning did to a model: one line a layer and the total; ``print`` shows a table.

    Parameters, bytes and FLOPs are those of the pruned layers' own weights. Once the network is
    smaller (:func:`heavytail.compact`), the layers behind them shrink as well.

    Attributes:
        layers: the reports of the pruned layers, in the model's order.
        unit: ``"column"``, ``"kernel"`` or ``"weight"``, what was counted and cut; ``"rank"`` if
            the report is of :func:`heavytail.factorize`.
        error: relative error over all pruned layers together; the norm, not its square.
        protected: names of the other layers with weights: not pruned.
    """

    layers: tuple[LayerReport, ...]
    unit: str
    error: float
    protected: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        """Number of columns (kernels, single weights) before, over the pruned layers."""
        return sum(layer.units for layer in self.layers)

    @property
    def kept(self) -> int:
        """Number of columns (kernels, single weights) left."""
        return sum(layer.kept for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights before."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def kept_parameters(self) -> int:
        """Number of weights that may be nonzero after."""
        return sum(layer.kept_parameters for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Size of the weights before."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def kept_bytes(self) -> int:
        """Size of the weights that may be nonzero after."""
        return sum(layer.kept_bytes for layer in self.layers)

    @property
    def flops(self) -> float:
        """Floating-point operations an example before; nan if unknown for a layer."""
        return sum(layer.flops for layer in self.layers)

    @property
    def kept_flops(self) -> float:
        """Floating-point operations an example after; nan if unknown for a layer."""
        return sum(layer.kept_flops for layer in self.layers)

    @property
    def ratio(self) -> float:
        """Fraction of columns (kernels, single weights) removed: the pruning ratio."""
        return 1 - self.kept / self.units

    def __str__(self) -> str:
        """Return the report as a table."""
        header = ("layer", f"{self.unit}s kept", "ratio", "parameters", "bytes", "FLOPs", "error")
        rows = [header]
        parts: list[tuple[str, LayerReport | PruneReport]]
        parts = [*((layer.name, layer) for layer in self.layers), ("total", self)]
        for name, part in parts:
            rows.append(
                (
                    name or "(model)",
                    f"{part.kept:,} of {part.units:,}",
                    f"{part.ratio:.3f}",
                    f"{part.kept_parameters:,} of {part.parameters:,}",
                    _short(part.kept_bytes),
                    _short(part.kept_flops),
                    f"{part.error:.3f}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        if self.protected:
            lines.append(f"protected: {', '.join(self.protected)}")
        return "\n".join(lines)


def prune(
    model: nn.Module,
    *,
    keep: float | None = None,
    error: float | None = None,
    layers: _layers.Layer | Iterable[_layers.Layer] | None = None,
    unit: str = "column",
    scope: str = "layer",
    example: Tensor | None = None,
) -> PruneReport:
    """Prune a model in place by masks of ``torch.nn.utils.prune``, the smallest units first.

    The masks multiply the weights at each forward pass. ``torch.nn.utils.prune.remove(layer,
    "weight")`` makes them permanent; copy a model before it is pruned or after that, since torch
    cannot copy a masked one. A layer that is pruned already is pruned further: sizes are those of
    the masked weight, while the error and the ratio are of the whole weight, ``weight_orig``, so
    that what went before counts. A layer that is all zero loses nothing: at any ``error``, 0 too,
    all of it is masked, for good.

    Args:
        model: any module; its chosen layers need a parameter ``weight`` of dimension >= 2.
        keep: in [0, 1]; keep this fraction (to the nearest integer) of the units.
        error: in [0, 1]; remove as many units as the relative error (the norm, not its square)
            allows, up to a part in 1e12. Just one of ``keep`` and ``error`` is given.
        layers: what to prune, as modules or names. One that holds others stands for the linear
            layers and convolutions (``nn.Linear``, ``nn.Conv1d`` to ``3d``) inside; a layer of
            another kind, as an embedding, is pruned only if it is named itself. None takes the
            linear layers and convolutions but ``model.head``, and is an error for a model without
            ``head``. The projection of an ``nn.MultiheadAttention`` is left out: it is never
            called, so its mask would not be renewed.
        unit: ``"column"`` cuts columns by norm, ``"kernel"`` a convolution's kernels and a linear
            layer's columns, ``"weight"`` single weights by magnitude.
        scope: ``"layer"`` applies the criterion in each layer by itself, ``"global"`` to the
            units of all layers together.
        example: an input of the model, a batch: the FLOPs of convolutions depend on its size. It
            is run through once, in evaluation mode. None leaves them unknown, but for linear
            layers, which are taken to see one vector an example.

    Returns:
        The report; its ``protected`` lists what was left out. If an argument is refused, the model
        is as it was.

    Raises:
        TypeError, ValueError: on an argument outside the sets above, a layer that is not in the
            model or has no ``weight``, a named transposed convolution (its first dimension is not
            its outputs) or projection of an attention, a parametrized layer, or weights that are
            not finite.
    """
    _one_criterion(keep, error)
    _check.one_of("unit", unit, UNITS)
    _check.one_of("scope", scope, SCOPES)
    chosen = _prunable(model, layers)
    weights = [_layers.weight(module) for module in chosen.values()]
    positions = _layers.positions(model, chosen, example)
    sizes = [_finite(_unit_sizes(weight, unit)) for weight in weights]
    losses = [_lost(module) for module in chosen.values()]
    everything, lost = torch.cat([size.cpu() for size in sizes]), math.hypot(*losses)
    if scope == "layer":
        kept = [_kept(*part, keep, error).cpu() for part in zip(sizes, losses, strict=True)]
    else:  # layers may lie on several devices
        kept = list(_kept(everything, lost, keep, error).split([len(size) for size in sizes]))
    masks = [
        _mask(module, weight, units)
        for module, weight, units in zip(chosen.values(), weights, kept, strict=True)
    ]
    reports = [
        LayerReport(
            name=name,
            units=len(size),
            kept=int(mask.view(len(size), -1).any(1).sum()),
            parameters=mask.numel(),
            kept_parameters=int(mask.sum()),
            error=_relative(size.cpu(), ~units, loss),
            itemsize=mask.element_size(),
            positions=positions[name],
        )
        for name, size, loss, units, mask in zip(chosen, sizes, losses, kept, masks, strict=True)
    ]
    protected = tuple(name for name in _layers.weighted(model) if name not in chosen)
    whole = _relative(everything, ~torch.cat(kept), lost)
    report = PruneReport(tuple(reports), unit, whole, protected)
    for module, mask in zip(chosen.values(), masks, strict=True):
        torch_prune.custom_from_mask(module, "weight", mask)
    return report


def _prunable(
    model: nn.Module, layers: _layers.Layer | Iterable[_layers.Layer] | None
) -> dict[str, nn.Module]:
    """Return the layers to prune, by name, in the model's order."""
    chosen = _layers.taken(model, layers, _refusal)
    refused = {name: module for name, module in chosen.items() if not _is_prunable(module)}
    if refused:
        raise ValueError(f"no parameter 'weight' to prune in {_layers.listed(refused)}")
    return chosen


def _refusal(module: nn.Module) -> str:
    """Tell why a layer is not to be pruned; "" if it is."""
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    return "has its inputs, not its units, along its weight's first dimension" * transposed


def _is_prunable(module: nn.Module) -> bool:
    """Tell whether torch can mask ``module.weight``: a parameter, or one that it has masked."""
    weight = module._parameters.get("weight")
    if weight is None and "weight_mask" in module._buffers:
        weight = module._parameters.get("weight_orig")
    return weight is not None and weight.dim() >= 2 and weight.numel() > 0


def _lost(module: nn.Module) -> float:
    """Return the norm of what earlier masks hide."""
    mask = module._buffers.get("weight_mask")
    if mask is None:
        return 0.0
    hidden = module.get_parameter("weight_orig").detach() * (1 - mask)
    return float(_finite(column_norms(hidden.reshape(1, -1))))


def _mask(module: nn.Module, weight: Tensor, kept: Tensor) -> Tensor:
    """Return the mask of a weight's shape that keeps some units, within an earlier mask."""
    leading = next(k for k in (1, 2, weight.dim()) if math.prod(weight.shape[:k]) == len(kept))
    shape = (*weight.shape[:leading], *(1,) * (weight.dim() - leading))
    mask = kept.to(weight.device).view(shape).expand_as(weight)
    if "weight_mask" in module._buffers:
        earlier = module.weight_mask
        assert isinstance(earlier, Tensor)
        mask = mask & earlier.bool()
    return mask.to(weight.dtype)


def _unit_sizes(weight: Tensor, unit: str) -> Tensor:
    """Return the norms of the columns or kernels, or the magnitudes: shape (units,)."""
    if unit == "weight":
        return weight.flatten().abs().to(torch.float64)
    return column_norms(weight.flatten(0, 1) if unit == "kernel" and weight.dim() > 2 else weight)


def _flops(parameters: int, positions: float | None) -> float:
    return math.nan if positions is None else 2 * parameters * positions


def _short(number: float) -> str:
    """Return a number with three digits and a prefix: 12.3k."""
    if math.isnan(number):
        return "unknown"
    rounded = float(f"{number:.{3 if number >= 1000 else 4}g}")  # 999,999 is 1M
    power = min(6, max(0, math.floor(math.log10(max(rounded, 1)) / 3)))
    return f"{rounded / 1000**power:g}{['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}"


def _finite(sizes: Tensor) -> Tensor:
    if not torch.isfinite(sizes).all():
        raise ValueError("the weights must be finite to be pruned, got inf or nan among them")
    return sizes


def _one_criterion(keep: float | None, error: float | None) -> None:
    if (keep is None) == (error is None):
        raise ValueError(f"give one of keep and error, got keep={keep} and error={error}")
    if keep is not None:
        _check.fraction("keep", keep)
    if error is not None:
        _check.fraction("error", error)


def _kept(sizes: Tensor, lost: float, keep: float | None, error: float | None) -> Tensor:
    """Choose the units to keep by their sizes (shape (units,)); one of the criteria is given."""
    ascending = torch.argsort(sizes, stable=True)
    n = len(sizes)
    if keep is not None:
        cut = n - round(keep * n)
    else:
        assert error is not None  # one criterion is given
        energies, gone = _energies(sizes, lost)
        cut = int(removable(energies, error, gone)) if n else 0
    kept = torch.ones(n, dtype=torch.bool, device=sizes.device)
    kept[ascending[:cut]] = False
    return kept


def removable(energies: Tensor, error: float, gone: float = 0.0) -> Tensor:
    """Return how many of the smallest squared norms can go: they sum to <= error^2 of all.

    The sums are rounded: one that exceeds its bound by a part in 1e12 is within it.

    Args:
        energies: shape (..., n), n >= 1, >= 0.
        error: in [0, 1], the relative error: the norm, not its square.
        gone: what is gone already: part of the sum, and of all.

    Returns:
        Shape (...), int64.
    """
    ascending = energies.sort(-1).values.cumsum(-1) + gone
    return (ascending <= (1 + _SLACK) * error**2 * ascending[..., -1:]).sum(-1)


def _energies(sizes: Tensor, lost: float) -> tuple[Tensor, float]:
    """Return the squares, relative to the largest so that none overflows."""
    largest = max(float(sizes.max()) if len(sizes) else 0.0, lost) or 1.0
    return (sizes / largest).square(), (lost / largest) ** 2


def _relative(sizes: Tensor, dropped: Tensor, lost: float) -> float:
    """Return sqrt(energy dropped or lost / all energy), 0 where there is no energy at all."""
    energy, gone = _energies(sizes, lost)
    total = float(energy.sum()) + gone
    return min(1.0, math.sqrt((float(energy[dropped].sum()) + gone) / total)) if total > 0 else 0.0


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} and dtype {value.dtype}"
    return repr(value)
