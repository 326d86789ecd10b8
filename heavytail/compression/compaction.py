"""Compaction: the smaller network that a pruned one already is.

A unit j whose incoming weights are all zero puts out a constant c_j = act(b_j), whatever the
input. The next layer sees it only through its bias,

    b_i + sum_j W_ij x_j = (b_i + sum_{j dead} W_ij c_j) + sum_{j alive} W_ij x_j,

so the unit can go once its constant is folded into b_i. Constants are followed through the network:
a unit that sees dead units only is dead too. A *channel* is a hidden unit, or one map of a
convolution; a *group* is channels that can only go together, as those of two tensors summed.
"""

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import prune as torch_prune

from heavytail import _check
from heavytail.compression import _channels


@torch.no_grad()
def compact(model: nn.Module, *, multiple_of: int | None = None) -> nn.Module:
    """Return a smaller copy of a pruned model that computes the same function in eval mode.

    Units whose incoming weights are all zero, by a mask or by themselves, are cut out of the
    weights, and what they put out is folded into the next biases: b_i + sum_{j dead} W_ij c_j. The
    masks of ``torch.nn.utils.prune`` are made permanent. The copy has the same class, ``forward``
    and parameter names; a layer without a bias gets one where a constant other than 0 is folded
    into it. Outputs agree to rounding. In training mode batch-norm takes the statistics of the
    batch, and the two differ.

    A dead channel stays if it is an output of the model, if it is not 0 and a convolution pads it
    with zeros, or if no other would be left in its layer.

    Args:
        model: any module that torch.fx can trace, optional arguments of ``forward`` at their
            defaults; left alone. Examples lie along the first dimension of every tensor, and
            inputs of linear layers have shape (N, features).
        multiple_of: >= 1; dead channels stay until a layer has a multiple of so many, since
            matrix products are fastest at round sizes. 1 cuts all that can go. None is 16 where
            at most one part in 64 stays for it, so from some hundred channels on, else 1.

    Returns:
        A new model with weights of its own, on the same device, of the same dtype.

    Raises:
        TypeError: if ``model`` is no module, or ``multiple_of`` no integer.
        ValueError: if ``multiple_of`` is below 1, if the model cannot be traced, if dead channels
            reach an operation that is not understood or a layer that cannot be cut (called twice,
            or sharing a parameter), or if ``forward`` computes with the number of channels.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if multiple_of is not None:
        _check.count("multiple_of", multiple_of, least=1)
    small = unmasked_copy(model)
    traced, graph = _trace(small)
    scan = _channels.Scan(traced, graph, multiple_of)
    scan.check()
    for name, inputs, outputs in scan.layers:
        _cut_layer(small.get_submodule(name), inputs, outputs)
    for name, channels in scan.norms:
        _cut_channelwise(small.get_submodule(name), channels)
    _same_steps(graph, _trace(small)[1])
    return small


def unmasked_copy(model: nn.Module) -> nn.Module:
    """Return a copy whose pruning is permanent."""
    memo: dict[int, Any] = {}  # torch cannot copy a masked weight: it is the result of a product
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    twin = copy.deepcopy(model, memo)
    owners = Counter(id(p) for module in twin.modules() for p in module._parameters.values())
    for name, module in twin.named_modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, torch_prune.BasePruningMethod):
                tensor = hook._tensor_name
                if owners[id(module._parameters[f"{tensor}_orig"])] > 1:
                    raise ValueError(
                        f"the masked {tensor} of {name} is shared with another layer: make the "
                        "pruning permanent first"
                    )
                torch_prune.remove(module, tensor)
    return twin


class _Proxy(fx.Proxy):
    """A tensor to be, which also records what is written in place: torch.fx takes x += y for x + y.

    The two differ where x is known under another name too.
    """


for _write in (operator.iadd, operator.isub, operator.imul, operator.itruediv):

    def _recorded(self: _Proxy, other: object, write: Callable[..., Any] = _write) -> Any:
        return self.tracer.create_proxy("call_function", write, (self, other), {})

    setattr(_Proxy, f"__{_write.__name__}__", _recorded)


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for a node while ``forward`` runs."""
        return _Proxy(node, self)


def _trace(model: nn.Module) -> tuple[nn.Module, fx.Graph]:
    """Return a copy in eval mode and its graph; tracing may leave marks on what it traces."""
    scratch = copy.deepcopy(model).eval()
    arguments = inspect.signature(scratch.forward).parameters
    defaults = {name: a.default for name, a in arguments.items() if a.default is not a.empty}
    try:
        return scratch, _Tracer().trace(scratch, concrete_args=defaults or None)
    except Exception as error:  # forward is anyone's code
        raise ValueError(
            f"model cannot be traced by torch.fx, so its channels cannot be followed: {error}"
        ) from error


def _same_steps(before: fx.Graph, after: fx.Graph) -> None:
    """Refuse a forward pass that has changed with the sizes of the layers."""
    lines = (str(graph).splitlines() for graph in (before, after))
    for old, new in zip_longest(*lines, fillvalue=""):
        if old != new:
            raise ValueError(
                "forward computes with the number of channels, which compaction changes: "
                f"{old.strip()!r} becomes {new.strip()!r}. Keep that number in an attribute"
            )


def _cut_layer(layer: Any, inputs: _channels.Channels | None, outputs: _channels.Channels) -> None:
    """Cut a layer's outputs that go, and its inputs, whose constants its bias takes over."""
    weight, bias = layer.weight, layer.bias
    keep = ~outputs.group.gone()
    drop = torch.zeros(weight.shape[1], dtype=torch.bool)
    folded = torch.zeros(len(weight), dtype=torch.float64)
    if inputs is not None:
        drop = inputs.at_inputs(inputs.group.gone(), len(drop))
        values = inputs.at_inputs(inputs.values, len(drop))
        folded = _channels.taps(weight).sum(2)[:, drop] @ values[drop]
    if keep.all() and not drop.any():
        return
    layer.weight = _like(weight, weight[keep][:, ~drop])
    if bias is not None:
        layer.bias = _like(bias, (_channels.exact(bias) + folded)[keep])
    elif folded[keep].any():
        layer.bias = _like(weight, folded[keep])
    unit = "features" if isinstance(layer, nn.Linear) else "channels"
    for side, n in ((f"out_{unit}", int(keep.sum())), (f"in_{unit}", int((~drop).sum()))):
        setattr(layer, side, n)


def _cut_channelwise(layer: Any, channels: _channels.Channels) -> None:
    """Cut the parameters and the running statistics that a layer has for each channel."""
    keep = ~channels.group.gone()
    if keep.all():
        return
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(layer, name, _like(parameter, parameter[keep]))
    for name, buffer in layer.named_buffers(recurse=False):
        if buffer.dim():  # not the count of batches
            setattr(layer, name, buffer[keep])
    size = "num_parameters" if isinstance(layer, nn.PReLU) else "num_features"
    setattr(layer, size, int(keep.sum()))


def _like(parameter: nn.Parameter, value: Tensor) -> nn.Parameter:
    """Return a parameter of the dtype, the device and the training flag of another."""
    return nn.Parameter(value.detach().to(parameter), requires_grad=parameter.requires_grad)
