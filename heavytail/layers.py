"""Which layers of a model are meant: by module or by name, never guessed from shapes.

And what pruning and factorization ask of each: its weight as it is now, and how often an example
meets it.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from heavytail import _check

Layer = nn.Module | str

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


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

    Args:
        model: any module.
        exclude: what to leave out.
        argument: the caller's own, by which its user may say which layers are meant.

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
                f"say it by {argument}=. Its layers: {listed(layers)}"
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


def taken(
    model: nn.Module,
    layers: Layer | Iterable[Layer] | None,
    refusal: Callable[[nn.Module], str],
) -> dict[str, nn.Module]:
    """Return the layers that an argument ``layers`` means, by name, in the model's order.

    Named layers are meant whatever their kind, or are an error; of those inside what is named, and
    of the hidden ones if ``layers`` is None, the linear layers and convolutions that can be taken.

    Args:
        model: any module.
        layers: as the caller has them.
        refusal: says why a layer cannot be taken, a clause; "" if it can.

    Raises:
        ValueError: if a named layer cannot be taken or none is left, if one that is meant is
            parametrized, or as :func:`hidden` and :func:`inside`.
    """
    named = [] if layers is None else find(model, layers)
    pool = hidden(model, None, "layers") if layers is None else inside(model, named)
    if not pool:
        raise ValueError("layers must name at least one layer, got none")
    ids = {id(layer) for layer in named}
    unused = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    chosen, left = {}, []
    for name, module in pool.items():
        # A parametrized weight is a layer of its own, "layer.parametrizations.weight".
        before, inner, _ = name.rpartition("parametrizations.")
        owner = model.get_submodule(before.removesuffix(".")) if inner else module
        known = isinstance(owner, KINDS)
        if parametrize.is_parametrized(owner) and (known or id(owner) in ids):
            raise ValueError(
                f"{listed({before.removesuffix('.') if inner else name: owner})} is parametrized: "
                "call torch.nn.utils.parametrize.remove_parametrizations on it first"
            )
        reason = refusal(module)
        if id(module) in unused:
            reason = "is never called: its nn.MultiheadAttention reads the weight itself"
        elif id(module) not in ids and not known:
            reason = "is no linear layer or convolution, and not named itself"
        if not reason:
            chosen[name] = module
            continue
        left.append(f"{listed({name: module})} {reason}")
        if id(module) in ids:
            raise ValueError(left[-1])
    if not chosen:
        raise ValueError(f"no layer can be taken: {'; '.join(left)}")
    return chosen


def refuse_entangled(name: str, model: nn.Module) -> None:
    """Refuse a layer, of a model without masks, on which more hangs than its inputs and outputs."""
    layer = model.get_submodule(name)
    weight = layer._parameters.get("weight")
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    places = sum(part is layer for module in model.modules() for part in module._modules.values())
    hooks = layer._forward_pre_hooks, layer._forward_hooks, layer._backward_hooks
    reasons = {
        "has hooks, which would be lost: remove them first": any(hooks),
        "has a weight that is no parameter": weight is None,
        "shares its weight with another layer": owners[id(weight)] > 1,
        f"is at {places} places of the model": places > 1,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"layer {name!r} {reason}")


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


def weight(module: nn.Module) -> Tensor:
    """Return the weight as it is now; torch renews a masked one at the next forward pass only."""
    if "weight_mask" in module._buffers:
        return (module.weight_orig * module.weight_mask).detach()  # type: ignore[operator]
    value = module.weight
    assert isinstance(value, Tensor)  # the caller has looked
    return value.detach()


def unmasked(module: nn.Module) -> int:
    """Return the number of entries of the weight that no mask hides."""
    mask = module._buffers.get("weight_mask")
    return weight(module).numel() if mask is None else int(mask.sum())


def positions(
    model: nn.Module, layers: dict[str, nn.Module], example: Tensor | None
) -> dict[str, float | None]:
    """Return how often an example meets each weight of a layer; None: not known.

    Args:
        model: run through once, in evaluation mode, if there is an example.
        layers: by any names.
        example: a batch of inputs. None: an example is one vector to a linear layer.
    """
    if example is None:
        return {n: 1.0 if isinstance(layer, nn.Linear) else None for n, layer in layers.items()}
    _check.any_tensor("example", example)
    if not example.dim() or not len(example):
        raise ValueError(
            f"example must be a batch of one input or more, got shape {tuple(example.shape)}"
        )
    seen: dict[str, float | None] = dict.fromkeys(layers)

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            weights = output.numel() / len(example) / len(weight(module))
            seen[name] = (seen[name] or 0) + weights

        return hook

    called = {name: layer for name, layer in layers.items() if isinstance(layer, KINDS)}
    hooks = [layer.register_forward_hook(note(name)) for name, layer in called.items()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return seen
