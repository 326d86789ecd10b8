"""Which layers are meant, by module or name and never guessed from shapes; what a column is.

A column is what feeds one unit of a layer. The layer's kind says where in the weight that stands.
"""

import re
import warnings
from collections.abc import Iterable, MutableMapping
from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

Layer = nn.Module | str
Layers = Layer | Iterable[Layer]

COLUMNS = ("filter", "kernel")  # what a column of a convolution may be


class Kind(NamedTuple):
    """Where the columns of a layer's weights are."""

    dim: int = 0  # along which the units lie, 0 or 1
    groups: int = 1  # into which the inputs along dimension 0 fall, if the units lie along 1
    kernels: bool = False  # whether a column has a kernel for each of its inputs
    inputs: bool = False  # whether the units are inputs, and meant only if they are named


_KINDS: dict[type[nn.Module], Kind] = {
    nn.Linear: Kind(),
    nn.Bilinear: Kind(),
    nn.MultiheadAttention: Kind(),
    nn.RNNBase: Kind(),  # a column feeds a gate of a unit
    nn.RNNCellBase: Kind(),
    nn.modules.conv._ConvTransposeNd: Kind(dim=1, kernels=True),
    nn.modules.conv._ConvNd: Kind(kernels=True),
    nn.Embedding: Kind(inputs=True),
    nn.EmbeddingBag: Kind(inputs=True),
}
_NORMS = (nn.LayerNorm, nn.RMSNorm)  # whose weights may have several dimensions
_NO_WEIGHT = re.compile("bias|_g$|original0$")  # the last two are magnitudes of weight norm


def kind_of(layer: nn.Module, weight: Tensor) -> Kind | None:
    """Return the kind of a layer with this weight; None if it is not known."""
    for known, kind in _KINDS.items():
        if isinstance(layer, known):
            return kind._replace(groups=getattr(layer, "groups", 1)) if kind.dim else kind
    # GPT-2's linear layer, of the library transformers: its weight is (inputs, outputs).
    named = any(base.__name__ == "Conv1D" for base in type(layer).__mro__)
    return Kind(dim=1) if named and weight.shape[1:] == (getattr(layer, "nf", None),) else None


def units_first(weight: Tensor, kind: Kind) -> Tensor:
    """Return a view (groups, units of a group, inputs, ...) of a weight."""
    return weight.unflatten(0, (kind.groups, -1)).transpose(1, 2) if kind.dim else weight[None]


def as_columns(weight: Tensor, column: str, kind: Kind) -> Tensor:
    """Return the columns of a weight as rows (columns, d): a view, if they are laid out so.

    ``column`` is what a column of a convolution is, see :class:`heavytail.StableNoise`.
    """
    leading = 3 if column == "kernel" and kind.kernels else 2
    return units_first(weight, kind).contiguous().flatten(leading).flatten(0, leading - 1)


def dead_units(layer: nn.Module) -> Tensor:
    """Return which units of a layer have only zeros as weights, (n,); (0,) if it has no columns."""
    weight = getattr(layer, "weight", None)
    kind = kind_of(layer, weight) if isinstance(weight, Tensor) else None
    if weight is None or kind is None or kind.inputs:
        return torch.zeros(0, dtype=torch.bool)
    return ~units_first(weight, kind).flatten(0, 1).flatten(1).any(1)


class Home(NamedTuple):
    """What a parameter does not know of itself: its layers, for their masks, and their kind."""

    kind: Kind
    layers: WeakSet[nn.Module]


_HOMES: MutableMapping[Tensor, Home] = WeakTensorKeyDictionary()  # of weights met in their layers


def meet(weight: Tensor, kind: Kind, layer: nn.Module) -> None:
    """Let :func:`home_of` know a layer of this weight; the first to be met decides on the kind."""
    _HOMES.setdefault(weight, Home(kind, WeakSet())).layers.add(layer)


def home_of(weight: Tensor) -> Home:
    """Return what is known of a weight; one never met is a linear layer's or a convolution's."""
    return _HOMES.get(weight) or Home(Kind(kernels=weight.dim() > 2), WeakSet())


def movable(weight: Tensor) -> Tensor | None:
    """Return the mask of what is not pruned, and no embedding's padding; None is all of it."""
    masks, padding = [], []
    for layer in home_of(weight).layers:
        for name in [name for name, own in layer._parameters.items() if own is weight]:
            masks.append(layer._buffers.get(f"{name.removesuffix('_orig')}_mask"))
            padding.append(getattr(layer, "padding_idx", None))
    seen = [mask.bool() for mask in masks if mask is not None]
    # Of layers that share a weight, one without a mask shows all of it.
    mask = torch.stack(seen).any(0) if seen and len(seen) == len(masks) else None
    for row in set(padding) - {None}:
        mask = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
        mask[row] = False
    return mask


def hidden_weights(model: nn.Module, *, exclude: Layers | None = None) -> list[nn.Parameter]:
    """Return the weights that get noise: all that have columns but those of ``exclude``.

    Columns are known of linear and bilinear layers, convolutions and transposed ones, ``Conv1D`` of
    the library transformers, recurrent layers, and projections of attention. An embedding, whose
    rows are inputs, is left out unless it is ``model`` itself; so are norms, magnitudes of weight
    norm and, with a warning, all else of dimension >= 2. Each weight stands once, in the order of
    ``model.named_modules()``; it is an error if none is left.

    Args:
        model: any module.
        exclude: layers to leave out, as modules or names, with all inside them and all weights
            they share. None leaves out ``model.head``, which must be there; () leaves out nothing.
    """
    inside = hidden(model, exclude)
    weights: dict[nn.Parameter, None] = {}
    shared, unknown = set(), {}
    for name, layer in weighted(model).items():
        _, owner = owner_of(model, name)
        for called, weight in layer.named_parameters(recurse=False):
            own = "weight" in called or "original" in called  # not the factors of a low rank
            kind = kind_of(owner, weight) if own else None
            if name not in inside or (kind and kind.inputs and owner is not model):
                shared.add(weight)
            if weight.dim() < 2 or _NO_WEIGHT.search(called) or isinstance(owner, _NORMS):
                continue
            if kind is not None:
                meet(weight, kind, layer)
                weights[weight] = None
            elif name in inside:
                unknown[f"{name}.{called}".lstrip(".")] = owner
    found = [weight for weight in weights if weight not in shared]
    if not found:
        raise ValueError(f"exclude leaves no weight whose columns are known: {listed(inside)}")
    if unknown:
        warnings.warn(f"no noise where columns are not known: {listed(unknown)}", stacklevel=2)
    return found


def owner_of(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return a layer by its name; for "layer.parametrizations.weight" the layer parametrized."""
    name = f".{name}".split(".parametrizations.")[0][1:]
    return name, model.get_submodule(name)


def weighted(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with a parameter of dimension >= 2 of their own, by name, in order."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    layers = {
        name: module
        for name, module in model.named_modules()
        if any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))
    }
    if not layers:
        raise ValueError("model has no weight of dimension >= 2, so it has no columns")
    return layers


def hidden(model: nn.Module, exclude: Layers | None) -> dict[str, nn.Module]:
    """Return the weighted layers outside ``exclude``; None excludes ``model.head``."""
    layers = weighted(model)
    if exclude is None:
        exclude = getattr(model, "head", None)
        if not isinstance(exclude, nn.Module) or all(p.dim() < 2 for p in exclude.parameters()):
            raise ValueError(
                "which layers are hidden? The model has no last layer named 'head' to leave out; "
                f"name some, by exclude= or layers=. Its layers: {listed(layers)}"
            )
    outside = {part for layer in find("exclude", model, exclude) for part in layer.modules()}
    left = {name: module for name, module in layers.items() if module not in outside}
    if not left:
        raise ValueError(f"exclude (None is model.head) leaves nothing of {listed(layers)}")
    return left


def find(argument: str, model: nn.Module, layers: object) -> list[nn.Module]:
    """Return the modules of ``model`` that ``layers``, the value of an argument, names or holds."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    if isinstance(layers, Layer | Tensor) or not isinstance(layers, Iterable):
        layers = [layers]
    for layer in layers:
        if not isinstance(layer, Layer):
            raise TypeError(f"{argument} must be modules or their names, got {layer!r}")
        module = modules.get(layer) if isinstance(layer, str) else layer
        if module is None or module not in modules.values():
            known = listed(weighted(model))
            raise ValueError(f"{argument} must be of the model, got {layer!r}; it has {known}")
        found.append(module)
    return found


def listed(layers: dict[str, nn.Module]) -> str:
    """Return names and types of layers, for a message."""
    each = ((name or "(the model itself)", type(layer).__name__) for name, layer in layers.items())
    return ", ".join(f"{name} ({kind})" for name, kind in each)
