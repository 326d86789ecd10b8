"""Which layers are meant, by module or name and never guessed from shapes; what a column is."""

from collections.abc import Iterable

from torch import Tensor, nn

Layer = nn.Module | str
Layers = Layer | Iterable[Layer]

COLUMNS = ("filter", "kernel")  # what a column of a convolution may be


def as_columns(weight: Tensor, column: str) -> Tensor:
    """Return the columns of a weight as rows (columns, d): a view, if it is contiguous.

    ``column`` is what a column of a convolution is, see :class:`heavytail.StableNoise`.
    """
    leading = 2 if column == "kernel" and weight.dim() > 2 else 1
    return weight.contiguous().flatten(leading).flatten(0, leading - 1)


def hidden_weights(model: nn.Module, *, exclude: Layers | None = None) -> list[nn.Parameter]:
    """Return the weights that get noise: all of dimension >= 2 but those of ``exclude``.

    Each stands once, in the order of ``model.named_modules()``; it is an error if none is left.

    Args:
        model: any module.
        exclude: layers to leave out, as modules or names, with all inside them and all weights
            they share. None leaves out ``model.head``, which must be there; () leaves out nothing.
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
    model: nn.Module, exclude: Layers | None, argument: str = "exclude"
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


def find(model: nn.Module, layers: Layers) -> list[nn.Module]:
    """Return the modules of ``model`` that ``layers`` names or holds."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    if isinstance(layers, Layer) or not isinstance(layers, Iterable):
        layers = [layers]
    for layer in layers:
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
    each = ((name or "(the model itself)", type(layer).__name__) for name, layer in layers.items())
    return ", ".join(f"{name} ({kind})" for name, kind in each)
