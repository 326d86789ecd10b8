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

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from heavytail import _checks, _layers
from heavytail.compaction import unmasked_copy
from heavytail.compress import LayerReport, PruneReport


class LowRank(nn.Sequential):
    """Two layers in the place of one: first onto r numbers, then from them.

    Attributes:
        error: relative error ||W - W_r||_F / ||W||_F when it was factorized, before the two
            weights were rounded to their dtype; the norm, not its square.
        norm: ||W||_F, then.
    """

    def __init__(self, first: nn.Module, second: nn.Module, error: float, norm: float) -> None:
        super().__init__(first, second)
        self.error, self.norm = error, norm

    @property
    def rank(self) -> int:
        """The size r >= 1 between the two as they are now; masks do not change it."""
        first = self[0]
        while isinstance(first, LowRank):
            first = first[1]
        return len(_layers.weight(first))

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
    filters of its kernel size, and one of size 1. A rank above n d / (n + d) makes a layer larger.

    Args:
        model: any module; left alone. Its masks, if it is pruned, are made permanent in the copy.
        rank: r >= 1; at most min(n, d) is taken.
        error: in [0, 1]; the least rank at which the relative error of a layer (the norm, not its
            square) is at most ``error``. Singular values that are 0 to rounding are none. Just one
            of ``rank`` and ``error`` is given.
        layers: what to factorize, as modules or names: ``nn.Linear`` and ``nn.Conv1d`` to ``3d``
            of one group, not of a subclass. One that holds others stands for those inside. None
            takes all but ``model.head``, and is an error for a model without ``head``. What is
            factorized already, and what a module of torch reads without a call (the projection
            of an ``nn.MultiheadAttention``, the two layers of an ``nn.TransformerEncoderLayer``),
            is left alone, or refused if it is named itself.

    Returns:
        The copy; :func:`factorization_report` tells what became of it. It trains, saves and
        exports as any module.

    Raises:
        TypeError, ValueError: on an argument outside the sets above, a named layer of another
            kind, a layer that is parametrized, has hooks, is at two places of the model or shares
            its weight, or weights that are not finite.
    """
    if (rank is None) == (error is None):
        raise ValueError(f"give one of rank and error, got rank={rank} and error={error}")
    least = 1 if rank is None else _checks.count("rank", rank, least=1)
    allowed = None if error is None else _checks.fraction("error", error)
    _layers.weighted(model)  # refuses what is no model
    chosen = _factorizable(model, layers)
    new = unmasked_copy(model)
    for name in chosen:
        _layers.refuse_entangled(name, new)
    built = {name: _split(name, new.get_submodule(name), least, allowed) for name in chosen}
    if "" in built:
        return built[""]
    for name, pair in built.items():
        parent, _, last = name.rpartition(".")
        setattr(new.get_submodule(parent), last, pair)
    return new


def factorization_report(model: nn.Module, *, example: Tensor | None = None) -> PruneReport:
    """Return the ranks, sizes and errors of a model's factorized layers, as pruning reports them.

    Sizes are those of the weights as they are now, without what masks hide; errors are those of
    the factorization alone.

    Args:
        model: what :func:`factorize` has returned.
        example: a batch of inputs: the FLOPs of convolutions depend on its size, as for
            :func:`heavytail.prune`.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: if the model has no factorized layer, or ``example`` holds no input.
    """
    weighted = _layers.weighted(model)
    pairs = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, LowRank) and not any(isinstance(half, LowRank) for half in part)
    }
    if not pairs:
        raise ValueError("the model has no factorized layer")
    positions = _layers.positions(model, {name: pair[1] for name, pair in pairs.items()}, example)
    unit = _power_of_two(max(pair.norm for pair in pairs.values()))
    reports, lost, total = [], 0.0, 0.0
    for name, pair in pairs.items():
        first, second = (_layers.weight(half) for half in pair)
        n, d = len(second), math.prod(first.shape[1:])
        reports.append(
            LayerReport(
                name=name,
                units=min(n, d),
                kept=pair.rank,
                parameters=n * d,
                kept_parameters=sum(_layers.unmasked(half) for half in pair),
                error=pair.error,
                itemsize=first.element_size(),
                positions=positions[name],
            )
        )
        norm = pair.norm / unit
        lost, total = lost + (pair.error * norm) ** 2, total + norm**2
    inside = {part for pair in pairs.values() for part in pair.modules()}
    protected = tuple(name for name, part in weighted.items() if part not in inside)
    return PruneReport(tuple(reports), "rank", math.sqrt(lost / total) if total else 0.0, protected)


def _factorizable(
    model: nn.Module, layers: _layers.Layer | Iterable[_layers.Layer] | None
) -> list[str]:
    """Return the names of the layers to factorize, in the model's order."""
    reasons: dict[int, str] = {}
    for module in model.modules():
        if isinstance(module, LowRank):
            reasons |= dict.fromkeys(map(id, module.modules()), "is factorized already")
        elif isinstance(module, nn.TransformerEncoderLayer):
            reason = "is read by its nn.TransformerEncoderLayer without a call"
            reasons |= {id(module.linear1): reason, id(module.linear2): reason}

    def refusal(module: nn.Module) -> str:
        if type(module) not in _layers.KINDS:
            return "must be nn.Linear or nn.Conv1d to 3d, not a subclass"
        if (groups := getattr(module, "groups", 1)) != 1:
            return f"must have one group, got {groups}"
        return reasons.get(id(module), "")

    return list(_layers.taken(model, layers, refusal))


def _split(name: str, layer: nn.Module, rank: int, error: float | None) -> LowRank:
    """Return the pair of layers for one."""
    assert isinstance(layer, _layers.KINDS)
    weight = layer.weight.detach()
    if not bool(torch.isfinite(weight).all()) or not weight.numel():
        raise ValueError(f"the weight of {name!r} must be finite and not empty")
    matrix = weight.flatten(1).double()
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    unit = _power_of_two(float(s[0]))  # squares of the singular values may leave the floats
    sizes = s / unit
    sizes[sizes <= max(matrix.shape) * torch.finfo(s.dtype).eps * sizes[0]] = 0
    norm = float(sizes.norm())
    lost = torch.cat([sizes.square().flip(0).cumsum(0).flip(0), s.new_zeros(1)])  # by rank, from 0
    relative = (lost / norm**2).sqrt() if norm else torch.zeros_like(lost)
    if error is not None:
        rank = max(1, int((relative > error).sum()))
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    first = (root[:, None] * Vh[:rank]).to(weight.dtype).contiguous()
    second = (U[:, :rank] * root).to(weight.dtype).contiguous()
    inner, outer = _empty_pair(layer, rank)
    flag = layer.weight.requires_grad
    inner.weight = nn.Parameter(first.reshape(rank, *weight.shape[1:]), requires_grad=flag)
    shape = (len(second), rank, *(1,) * (weight.dim() - 2))
    outer.weight = nn.Parameter(second.reshape(shape), requires_grad=flag)
    outer.bias = layer.bias
    return LowRank(inner, outer, float(relative[rank]), norm * unit).train(layer.training)


def _empty_pair(layer: Any, rank: int) -> tuple[Any, Any]:
    """Return the two layers, of the right sizes, without weights of their own."""
    bare: dict[str, Any] = {"bias": False, "device": "meta"}
    if isinstance(layer, nn.Linear):
        sizes = layer.in_features, layer.out_features
        return nn.Linear(sizes[0], rank, **bare), nn.Linear(rank, sizes[1], **bare)
    for key in ("stride", "padding", "dilation", "padding_mode"):
        bare[key] = getattr(layer, key)
    inner = type(layer)(layer.in_channels, rank, layer.kernel_size, **bare)
    return inner, type(layer)(rank, layer.out_channels, 1, bias=False, device="meta")


def _power_of_two(x: float) -> float:
    """Return the largest power of two <= x, by which division is exact; 1 for x = 0."""
    return float(2.0 ** (math.frexp(x)[1] - 1)) if x else 1.0
