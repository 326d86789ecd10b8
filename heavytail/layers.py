"""Which layers are meant, by module or name and never guessed from shapes; what a column is."""

import math
from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.utils import parametrize

Layer = nn.Module | str

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
COLUMNS = ("filter", "kernel")  # what a column of a convolution may be


def as_columns(weight: Tensor, column: str) -> Tensor:
    """Return the columns of a weight as rows (columns, d): a view, if it is contiguous.

    ``column`` is what a column of a convolution is, see :class:`heavytail.StableNoise`.
    """
    leading = 2 if column == "kernel" and weight.dim() > 2 else 1
    n, d = math.prod(weight.shape[:leading]), math.prod(weight.shape[leading:])
    return weight.contiguous().view(n, d)


def hidden_weights(
    model: nn.Module, *, exclude: Layer | Iterable[Layer] | None = None
) -> list[nn.Parameter]:
    """Return the weights that get noise: all of dimension >= 2 but those of ``exclude``.

    Args:
        model: any module.
        exclude: layers to leave out, as modules or names, with all inside them and all weights
            they share. None leaves out ``model.head``; () leaves out nothing.

    Returns:
        The parameters, each once, in the order of ``model.named_modules()``.

    Raises:
        ValueError: if ``exclude`` is None and the model has no ``head`` (the message lists its
            layers), if a layer is not in the model, or if no weight is left.
    """
    inside = hidden(model, exclude)
    outside = (layer for name, layer in weighted(model).items() if name not in inside)
    shared = {p for layer in outside for p in layer.parameters(recurse=False)}
    own = (p for layer in inside.values() for p in layer.parameters(recurse=False))
    weights = dict.fromkeys(p for p in own if p.dim() >= 2 and p not in shared)
    if not weights:
        raise ValueError(f"every weight is shared with a layer left out: {listed(inside)}")
    return list(weights)


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


def hidden(
    model: nn.Module, exclude: Layer | Iterable[Layer] | None, argument: str = "exclude"
) -> dict[str, nn.Module]:
    """Return the weighted layers outside ``exclude``; None excludes ``model.head``.

    ``argument`` is the caller's own, by which its user may say which layers are meant.
    """
    layers = weighted(model)
    if exclude is None:
        exclude = getattr(model, "head", None)
        if not isinstance(exclude, nn.Module) or all(p.dim() < 2 for p in exclude.parameters()):
            raise ValueError(
                "which layers are hidden? The model has no last layer named 'head' to leave out; "
                f"say it by {argument}=. Its layers: {listed(layers)}"
            )
    outside = {part for layer in find(model, exclude) for part in layer.modules()}
    left = {name: module for name, module in layers.items() if module not in outside}
    if not left:
        raise ValueError(f"nothing is left once these layers are left out: {listed(layers)}")
    return left


def taken(
    model: nn.Module,
    layers: Layer | Iterable[Layer] | None,
    refusal: Callable[[nn.Module], str],
) -> dict[str, nn.Module]:
    """Return the layers that an argument ``layers`` means, by name, in the model's order.

    Named layers are meant whatever their kind, or are an error; of those inside what is named, and
    of the hidden ones if ``layers`` is None, the linear layers and convolutions that can be taken.
    ``refusal`` says why a layer cannot be taken, a clause; "" if it can.
    """
    named = [] if layers is None else find(model, layers)
    pool = hidden(model, None, "layers") if layers is None else _within(model, named)
    uncalled = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    chosen, left = {}, []
    for name, module in pool.items():
        # A parametrized weight is a layer of its own, "layer.parametrizations.weight".
        of = f".{name}".split(".parametrizations.")[0][1:]
        owner = model.get_submodule(of)
        known = isinstance(owner, KINDS)
        if parametrize.is_parametrized(owner) and (known or owner in named):
            raise ValueError(
                f"{listed({of: owner})} is parametrized: "
                "call torch.nn.utils.parametrize.remove_parametrizations on it first"
            )
        if module in uncalled:
            reason = "is never called: its nn.MultiheadAttention reads the weight itself"
        elif not known and module not in named:
            reason = "is no linear layer or convolution, and not named itself"
        else:
            reason = refusal(module)
        if not reason:
            chosen[name] = module
        elif module in named:
            raise ValueError(f"{listed({name: module})} {reason}")
        else:
            left.append(f"{listed({name: module})} {reason}")
    if not chosen:
        raise ValueError(f"no layer can be taken: {'; '.join(left)}")
    return chosen


def _within(model: nn.Module, layers: list[nn.Module]) -> dict[str, nn.Module]:
    """Return the weighted layers that are among ``layers`` or inside them, in the model's order."""
    if not layers:
        raise ValueError("layers must name at least one layer, got none")
    pool = weighted(model)
    for layer in layers:
        if set(layer.modules()).isdisjoint(pool.values()):
            raise ValueError(f"no weight of dimension >= 2 in this layer: {layer}")
    parts = {part for layer in layers for part in layer.modules()}
    return {name: module for name, module in pool.items() if module in parts}


def find(model: nn.Module, layers: Layer | Iterable[Layer]) -> list[nn.Module]:
    """Return the modules of ``model`` that ``layers`` names or holds."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    for layer in (
        [layers] if not isinstance(layers, Iterable) or isinstance(layers, Layer) else layers
    ):
        if not isinstance(layer, Layer):
            raise TypeError(f"a layer is a module or its name, got {layer!r}")
        if isinstance(layer, str) and layer not in modules:
            raise ValueError(f"no layer {layer!r} in the model: {listed(weighted(model))}")
        module = modules[layer] if isinstance(layer, str) else layer
        if module not in modules.values():
            raise ValueError(f"this layer is not in the model: {module}")
        found.append(module)
    return found


def listed(layers: dict[str, nn.Module]) -> str:
    """Return names and types of layers, for a message."""
    return ", ".join(
        f"{name or '(the model itself)'} ({type(module).__name__})"
        for name, module in layers.items()
    )
