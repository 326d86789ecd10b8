"""Which layers of a model are meant: by module or by name, never guessed from shapes."""

from collections.abc import Iterable

from torch import nn

Layer = nn.Module | str


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


def hidden(model: nn.Module, exclude: Layer | Iterable[Layer] | None) -> dict[str, nn.Module]:
    """Return the weighted layers outside ``exclude``; None excludes ``model.head``.

    Raises:
        ValueError: when ``exclude`` is None and the model has no layer ``head``, when a name or a
            module is not in the model, or when nothing is left.
    """
    layers = weighted(model)
    if exclude is None:
        head = getattr(model, "head", None)
        if not isinstance(head, nn.Module) or not any(p.dim() >= 2 for p in head.parameters()):
            raise ValueError(
                "which layers are hidden? The model has no last layer named 'head' to leave out; "
                f"say which are meant, by exclude= or layers=. Its layers: {listed(layers)}"
            )
        exclude = [head]
    outside = {id(module) for layer in find(model, exclude) for module in layer.modules()}
    left = {name: module for name, module in layers.items() if id(module) not in outside}
    if not left:
        raise ValueError(f"nothing is left once these layers are left out: {listed(layers)}")
    return left


def inside(model: nn.Module, layers: Layer | Iterable[Layer]) -> dict[str, nn.Module]:
    """Return the weighted layers that are among ``layers`` or inside them, in the model's order.

    Raises:
        ValueError: when a name or module is not in the model, or one has no weighted layer.
    """
    weighted_layers = weighted(model)
    wanted = find(model, layers)
    for layer in wanted:
        if not any(
            module is part for part in layer.modules() for module in weighted_layers.values()
        ):
            raise ValueError(f"no weight of dimension >= 2 in this layer: {layer}")
    ids = {id(part) for layer in wanted for part in layer.modules()}
    return {name: module for name, module in weighted_layers.items() if id(module) in ids}


def find(model: nn.Module, layers: Layer | Iterable[Layer]) -> list[nn.Module]:
    """Return the modules of ``model`` that ``layers`` names or holds."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    if not isinstance(layers, Layer | Iterable):
        raise TypeError(f"layers are modules or their names, got {layers!r}")
    for layer in [layers] if isinstance(layers, Layer) else layers:
        if isinstance(layer, str):
            if layer not in modules:
                raise ValueError(f"no layer {layer!r} in the model: {listed(weighted(model))}")
            found.append(modules[layer])
        elif isinstance(layer, nn.Module):
            if all(layer is not module for module in modules.values()):
                raise ValueError(f"this layer is not in the model: {layer}")
            found.append(layer)
        else:
            raise TypeError(f"a layer is a module or its name, got {layer!r}")
    return found


def listed(layers: dict[str, nn.Module]) -> str:
    """Return names and types of layers, for a message."""
    return ", ".join(
        f"{name or '(the model itself)'} ({type(module).__name__})"
        for name, module in layers.items()
    )
