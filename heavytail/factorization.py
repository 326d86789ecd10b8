r"""Low rank: the other way to make a weight matrix small.

A weight, as a matrix W of n columns (rows of the stored weight) by d, is U S V^T. Keeping the r
largest singular values leaves the matrix of rank r that is nearest to W in Frobenius norm, at the
relative error

    ||W - W_r||_F / ||W||_F = sqrt(sum_{i > r} s_i^2 / sum_i s_i^2)  (the norm, not its square),

and r (n + d) numbers in the place of n d. Heavy-tailed columns are few and long. Columns with
heavy-tailed norms but directions of their own do not make a matrix of low rank unless n is large
beside d; shared noise, a multiple of (1, ..., 1), adds rank one.

Source: Eckart and Young, Psychometrika 1 (1936) 211-218.
"""

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn

from heavytail import _checks, _layers
from heavytail.compaction import unmasked_copy
from heavytail.compress import LayerReport, PruneReport

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Sequential):
    """Two layers in the place of one: first onto r numbers, then from them.

    Attributes:
        rank: r >= 1.
        error: relative error ||W - W_r||_F / ||W||_F; the norm, not its square.
        norm: ||W||_F.
    """

    def __init__(self, first: nn.Module, second: nn.Module, error: float, norm: float) -> None:
        super().__init__(first, second)
        weight = second.get_parameter("weight")
        self.rank, self.error, self.norm = weight.shape[1], error, norm

    def extra_repr(self) -> str:
        """Return what is not seen from the two layers."""
        return f"rank={self.rank}, error={self.error:.4g}"


def factorize(
    model: nn.Module,
    *,
    rank: int | None = None,
    error: float | None = None,
    layers: _layers.Layer | Iterable[_layers.Layer] | None = None,
) -> nn.Module:
    """Return a copy of a model in which layers are replaced by two of low rank.

    A linear layer of d inputs and n outputs becomes d -> r -> n. A convolution becomes one of r
    filters of its kernel size, and one of size 1.

    Args:
        model: any module; left alone. Its masks, if it is pruned, are made permanent in the copy.
        rank: r >= 1; at most that of the matrix is taken.
        error: in [0, 1]; the least rank at which the relative error of a layer (the norm, not its
            square) is at most ``error``. Just one of ``rank`` and ``error`` is given.
        layers: what to factorize, as for :func:`heavytail.prune`: linear layers and convolutions.

    Returns:
        The copy; :func:`factorization_report` tells what became of it. It trains, saves and
        exports as any module.

    Raises:
        TypeError, ValueError: on an argument outside the sets above, a layer of another kind,
            grouped convolutions, weights that are not finite.
    """
    if (rank is None) == (error is None):
        raise ValueError(f"give one of rank and error, got rank={rank} and error={error}")
    least = 1 if rank is None else _checks.count("rank", rank, least=1)
    allowed = None if error is None else _checks.fraction("error", error)
    if layers is None:
        chosen = list(_layers.hidden(model, None))
    else:
        chosen = list(_layers.inside(model, layers))
    new = unmasked_copy(model)
    built = {name: _split(name, new.get_submodule(name), least, allowed) for name in chosen}
    if "" in built:
        return built[""]
    for name, pair in built.items():
        parent, _, last = name.rpartition(".")
        setattr(new.get_submodule(parent), last, pair)
    return new


def factorization_report(model: nn.Module) -> PruneReport:
    """Return the ranks, sizes and errors of a model's factorized layers, as pruning reports them.

    Raises:
        ValueError: if the model has no such layer.
    """
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, LowRank)]
    if not layers:
        raise ValueError("the model has no factorized layer")
    reports, lost, total = [], 0.0, 0.0
    for name, pair in layers:
        first, second = (part.get_parameter("weight") for part in pair)
        n, d = len(second), math.prod(first.shape[1:])
        reports.append(
            LayerReport(
                name=name,
                units=min(n, d),
                kept=pair.rank,
                parameters=n * d,
                kept_parameters=first.numel() + second.numel(),
                error=pair.error,
                itemsize=first.element_size(),
                positions=1.0 if isinstance(pair[0], nn.Linear) else None,
            )
        )
        lost, total = lost + (pair.error * pair.norm) ** 2, total + pair.norm**2
    inside = {part for _, pair in layers for part in pair.modules()}
    others = _layers.weighted(model).items()
    protected = tuple(name for name, part in others if part not in inside)
    return PruneReport(tuple(reports), "rank", math.sqrt(lost / total) if total else 0.0, protected)


def _split(name: str, layer: nn.Module, rank: int, error: float | None) -> LowRank:
    """Return the pair of layers for one."""
    if not isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
        raise ValueError(f"layer {name!r} must be linear or a convolution, got {layer}")
    if not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise ValueError(f"layer {name!r} must have one group, got {layer.groups}")
    weight = layer.weight.detach()
    if not bool(torch.isfinite(weight).all()) or not weight.numel():
        raise ValueError(f"the weight of {name!r} must be finite and not empty")
    U, s, Vh = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    norm = float(s.norm())
    lost = torch.cat([s.square().flip(0).cumsum(0).flip(0), s.new_zeros(1)])  # by rank, from 0
    relative = (lost / norm**2).sqrt() if norm else torch.zeros_like(lost)
    if error is not None:
        rank = max(1, int((relative > error).sum()))
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    first = (root[:, None] * Vh[:rank]).to(weight.dtype).contiguous()
    second = (U[:, :rank] * root).to(weight.dtype).contiguous()
    inner, outer = copy.deepcopy(layer), copy.deepcopy(layer)
    inner.weight = nn.Parameter(first.reshape(rank, *weight.shape[1:]))
    inner.bias = None
    if isinstance(layer, nn.Linear):
        outer.weight = nn.Parameter(second)
        inner.out_features = outer.in_features = rank
    else:
        outer = type(layer)(rank, layer.out_channels, 1, device="meta", dtype=weight.dtype)
        outer.weight = nn.Parameter(second.reshape(*second.shape, *(1,) * (weight.dim() - 2)))
        outer.bias = copy.deepcopy(layer.bias)
        inner.out_channels = rank
    return LowRank(inner, outer, float(relative[rank]), norm).train(layer.training)
