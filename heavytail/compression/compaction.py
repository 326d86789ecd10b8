"""Compaction: the smaller network that a pruned one already is.

A unit j whose incoming weights are all zero puts out a constant c_j = act(b_j), whatever the
input. The next layer sees it only through its bias,

    b_i + sum_j W_ij x_j = (b_i + sum_{j dead} W_ij c_j) + sum_{j alive} W_ij x_j,

so the unit can go once its constant is folded into b_i. A *channel* is a hidden unit, or one map of
a convolution. One walk through the graph of a forward pass carries one number for each channel of a
tensor: its constant, or nan. A step that acts on each channel alone is run on these numbers.
"""

import copy
import inspect
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.utils.prune import BasePruningMethod

from heavytail import _check

_FAST = 16  # a size that the matrix products of most machines like
_WORTH = 64


@torch.no_grad()
def compact(
    model: nn.Module,
    *,
    multiple_of: int | None = None,
    example: Tensor | Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a smaller copy of a pruned model that computes the same function in eval mode.

    Units whose incoming weights are all zero, by a mask or by themselves, are cut, and what they
    put out is folded into the next biases. The copy has the same class, ``forward`` and parameter
    names, and no masks; a layer without a bias gets one where a constant other than 0 is folded
    into it. Outputs agree to rounding, though not in training mode, where batch-norm takes the
    statistics of the batch.

    A dead channel stays if it is an output of the model, if it meets a tensor that is not followed
    (an input, a parameter), if it is not 0 and a convolution pads it with zeros, or if no other is
    left in its layer. Followed are Linear, convolutions without groups, batch-norm with running
    statistics, activations, dropout, pooling, flattening, means and maxima over space, and sums,
    differences, products and quotients. The ``state_dict`` is read back into a model as built by::

        for name, value in state.items():
            layer, _, own = name.rpartition(".")
            layer = model.get_submodule(layer)
            setattr(layer, own, nn.Parameter(value) if own in layer._parameters else value)

    Args:
        model: any module that torch.fx can trace; left alone. Examples lie along the first
            dimension of every tensor.
        multiple_of: >= 1; dead channels stay until a layer has a multiple of so many, since
            matrix products are fastest at round sizes. 1 cuts all that can go. None is 16 where
            at most one part in 64 stays for it, so from some hundred channels on, else 1.
        example: the first argument of ``forward``, or arguments by name; others are at their
            defaults. The copy refuses calls with other optional ones. Needed where batch-norm,
            PReLU or flattening follows a linear layer whose input may have over two dimensions.

    Returns:
        A new model with weights of its own, on the same device, of the same dtype.

    Raises:
        TypeError: if ``model`` is no module, or ``multiple_of`` no integer.
        ValueError: if ``multiple_of`` is below 1, if the model cannot be traced, if dead channels
            reach a step that is not followed, lie inside one, or belong to a layer that is called
            twice or shares a parameter, or if ``forward`` computes with the number of channels.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if hasattr(model, "_orig_mod"):
        raise ValueError("model is compiled: take what is inside, model._orig_mod")
    if multiple_of is not None:
        _check.count("multiple_of", multiple_of, least=1)
    small = _unmasked_copy(model)
    arguments, optional = _arguments(small, example)
    fixed = {name: value for name, value in optional.items() if value is not Tensor}
    exact, graph = _trace(small, fixed)
    if example is not None:
        ShapeProp(fx.GraphModule(exact, graph)).propagate(*arguments.values())
    exact.double().cpu()  # not every device has float64
    for node, *cut in _Walk(exact, graph, multiple_of).cuts:
        name = str(node.target)
        _cut(small.get_submodule(name), exact.get_submodule(name), *cut)
    _same_steps(graph, _trace(small, fixed)[1])
    if optional:
        check = partial(_refuse_other_calls, optional)
        small.register_forward_pre_hook(check, with_kwargs=True)
    return small


def _unmasked_copy(model: nn.Module) -> nn.Module:
    """Return a copy whose pruning is permanent."""
    values = [value for module in model.modules() for value in vars(module).values()]
    # A masked weight is the result of a product, which torch does not copy.
    memo: dict[int, Any] = {id(v): v.clone() for v in values if isinstance(v, Tensor)}
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, BasePruningMethod):
                name = hook._tensor_name
                whole, mask = getattr(module, f"{name}_orig"), getattr(module, f"{name}_mask")
                for part in (name, f"{name}_orig", f"{name}_mask"):
                    delattr(module, part)
                setattr(module, name, _like(whole, whole * mask))
                del module._forward_pre_hooks[key]
    return twin


def _cut(
    layer: Any, exact: Any, inputs: "_Group | None", constants: Tensor, outputs: "_Group"
) -> None:
    """Cut out of a layer what goes; its bias takes over the constants of its inputs."""
    keep = ~outputs.gone()
    if inputs is not None and (drop := _per_input(inputs.gone(), exact.weight)).any():
        folded = _taps(exact.weight).sum(2)[:, drop] @ constants[drop]
        layer.weight = _like(layer.weight, layer.weight[:, ~drop])
        if layer.bias is not None:
            layer.bias = _like(layer.bias, exact.bias + folded)
        elif folded[keep].any():
            layer.bias = _like(layer.weight, folded)
        for size in {"in_features", "in_channels"} & vars(layer).keys():
            setattr(layer, size, int((~drop).sum()))
    if not keep.all():
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
            if tensor is not None and tensor.dim():  # not the count of batches
                some = tensor[keep]
                setattr(layer, name, _like(tensor, some) if name in layer._parameters else some)
        sizes = {"out_features", "out_channels", "num_features", "num_parameters"}
        for size in sizes & vars(layer).keys():
            setattr(layer, size, int(keep.sum()))


def _like(parameter: Tensor, value: Tensor) -> nn.Parameter:
    """Return a parameter of the dtype, the device and the training flag of another."""
    return nn.Parameter(value.to(parameter), requires_grad=parameter.requires_grad)


# The forward pass and its graph.


def _arguments(model: nn.Module, example: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return known arguments of ``forward`` by name, and the optional ones; a tensor as its class."""
    signature = inspect.signature(model.forward)
    if isinstance(example, Tensor):
        example = {next(iter(signature.parameters)): example}
    call = signature.bind_partial() if example is None else signature.bind(**example)
    call.apply_defaults()
    optional = [name for name, p in signature.parameters.items() if p.default is not p.empty]
    known = call.arguments
    return known, {n: Tensor if isinstance(known[n], Tensor) else known[n] for n in optional}


def _refuse_other_calls(fixed: dict[str, Any], model: nn.Module, args: Any, kwargs: Any) -> None:
    """Refuse arguments that may take another path than the one that was traced."""
    call = inspect.signature(model.forward).bind(*args, **kwargs)
    call.apply_defaults()
    for name, value in fixed.items():
        given = call.arguments[name]
        if value is not Tensor if isinstance(given, Tensor) else given != value:
            raise ValueError(
                f"the model was compacted for {name} = {value}, got {given!r:.60}: name it in the "
                "example of compact"
            )


def _in_place(write: Callable[..., Any]) -> Callable[[fx.Proxy, object], Any]:
    return lambda self, other: self.tracer.create_proxy("call_function", write, (self, other), {})


class _Proxy(fx.Proxy):
    """A tensor to be, which records what is written in place: torch.fx takes x += y for x + y."""

    __iadd__ = _in_place(operator.iadd)
    __isub__ = _in_place(operator.isub)
    __imul__ = _in_place(operator.imul)
    __itruediv__ = _in_place(operator.itruediv)


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for a node while ``forward`` runs."""
        return _Proxy(node, self)


def _trace(model: nn.Module, fixed: dict[str, Any]) -> tuple[nn.Module, fx.Graph]:
    """Return a copy in eval mode and its graph; tracing may leave marks on what it traces."""
    scratch = copy.deepcopy(model).eval()
    try:
        _expect("forward" not in vars(model), "its forward is not that of its class")
        return scratch, _Tracer().trace(scratch, concrete_args=fixed or None)
    except Exception as error:  # forward is anyone's code
        raise ValueError(
            f"model cannot be traced by torch.fx, so its channels cannot be followed: {error}"
        ) from error


def _same_steps(before: fx.Graph, after: fx.Graph) -> None:
    """Refuse a forward pass that has changed with the sizes of the layers."""
    for old, new in zip_longest(str(before).splitlines(), str(after).splitlines(), fillvalue=""):
        _expect(
            old == new,
            "forward computes with the number of channels, which compaction changes: "
            f"{old.strip()!r} becomes {new.strip()!r}. Keep that number in an attribute",
        )


# Channels, and what each step does to them.


@dataclass(eq=False)
class _Group:
    """Channels that can only go together: channel j of every tensor of the group."""

    may_go: Tensor  # shape (n,), bool; it only ever loses entries
    layers: list[str]  # that make the channels
    multiple_of: int | None
    parent: "_Group | None" = None  # what it has been merged into

    def root(self) -> "_Group":
        return self if self.parent is None else self.parent.root()

    def merge(self, other: "_Group") -> None:
        mine, theirs = self.root(), other.root()
        if mine is not theirs:
            mine.may_go &= theirs.may_go
            mine.layers += theirs.layers
            theirs.parent = mine

    def keep(self, channels: Any) -> None:
        self.root().may_go[channels] = False

    def gone(self) -> Tensor:
        """Return the mask of the channels that go; one stays in any case."""
        gone = self.root().may_go.clone()
        alive = int((~gone).sum())
        left = max(alive, 1)
        more = -left % (self.multiple_of or _FAST)
        if self.multiple_of is not None or more * _WORTH <= left:
            left += more
        gone[gone.nonzero()[: left - alive, 0]] = False
        return gone


@dataclass(frozen=True, eq=False)
class _Channels:
    """The channels of one tensor.

    ``values`` are float64, of shape (1, n, 1, ...) with as many dimensions as the tensor, or (n,)
    where these are not known and the channels last; they share memory where the tensors do.
    """

    group: _Group
    values: Tensor


class _Walk:
    """A walk through the graph of a model in float64.

    ``cuts`` are layers with the channels of their inputs, what is constant of these, and the
    channels of their outputs; layers that act on each channel alone have no inputs.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, multiple_of: int | None) -> None:
        self.cuts: list[tuple[fx.Node, _Group | None, Tensor, _Group]] = []
        self._model, self._multiple_of = model, multiple_of
        self._known: dict[fx.Node, _Channels | None] = {}
        self._obstacles: list[tuple[_Group, str]] = []
        self._batch: set[Any] = set()  # nodes that are the number of examples
        readers: dict[Tensor, list[str]] = defaultdict(list)
        for node in graph.nodes:
            self._known[node] = self._visit(node)
            for tensor in self._read(node):
                readers[tensor].append(node.name)
        for node, inputs, _, outputs in self.cuts:
            for names in (readers[tensor] for tensor in self._read(node)):
                reason = f"parameters of {node.target} are read by {', '.join(names)}"
                if len(names) > 1:
                    self._obstacles += [(group, reason) for group in (inputs, outputs) if group]
        for group, reason in self._obstacles:
            layers = ", ".join(dict.fromkeys(group.root().layers))
            _expect(
                not group.gone().any(), f"the dead channels of {layers} cannot be cut: {reason}"
            )

    def _read(self, node: fx.Node) -> list[Tensor]:
        """Return the parameters and buffers that a node reads."""
        if node.op == "call_module":
            module = self._model.get_submodule(str(node.target))
            return [*module.parameters(), *module.buffers()]
        return [operator.attrgetter(str(node.target))(self._model)] if node.op == "get_attr" else []

    def _visit(self, node: fx.Node) -> _Channels | None:
        """Return the channels of what a node puts out; None: they are not followed."""
        known = [self._known[source] for source in node.all_input_nodes]
        operands = [x for x in known if x is not None]
        if node.op == "output":
            for x in operands:
                x.group.keep(...)
        if not node.op.startswith("call"):
            return None
        path = str(node.target)
        module = self._model.get_submodule(path) if node.op == "call_module" else None
        kind: Any = node.target if module is None else type(module)
        try:
            _expect(kind in _RULES, "which is not followed")
            if module is not None:
                _expect("forward" not in vars(module), "whose forward is not that of its class")
                _expect(not (module._forward_hooks or module._forward_pre_hooks), "which has hooks")
            channels = _RULES[kind](self, node, module, known)
        except Exception as clause:  # of torch too, where a step is run on constants
            step = f"{node.name} ({getattr(kind, '__name__', kind)}), {clause}"
            if any(x.values.dim() == 1 for x in operands):
                step += "; give an example if its inputs have two dimensions"
            for x in operands:
                self._obstacles.append((x.group, f"they reach {step}"))
                x.values.fill_(torch.nan)  # it may have been written to
            for name, layer in module.named_modules(prefix=path) if module is not None else ():
                if isinstance(layer, _LAYERS) and layer is not module:
                    dead = _Group(~layer.weight.flatten(1).any(1), [name], self._multiple_of)
                    self._obstacles.append((dead, f"they lie in {step}"))
            return None
        if channels is not None:
            channels.group.keep(~channels.values.flatten().isfinite())
        return channels

    # The rules: what a node does to the channels of its inputs. None of these is known if none is.

    def layer(self, node: fx.Node, layer: Any, known: list[Any]) -> _Channels:
        """Follow out_i = b_i + sum_j W_ij in_j: a constant if all in_j with W_ij != 0 are."""
        inputs, weight = known[0], layer.weight
        spatial, width = weight.dim() - 2, weight.shape[1]
        _expect(isinstance(weight, nn.Parameter), "whose weight is no parameter")
        _expect(weight.is_floating_point(), f"whose weight has dtype {weight.dtype}")
        _expect(not spatial or layer.groups == 1, "which has groups")
        used = _taps(weight).ne(0).any(2)
        constants = torch.full((width,), torch.nan, dtype=torch.float64)
        flat = "tensor_meta" in node.meta and len(node.meta["tensor_meta"].shape) == 2
        if inputs is not None:
            values, rank = inputs.values.flatten(), inputs.values.dim()
            _expect(rank == spatial + 2 or (rank == 1 and not spatial))
            flat = flat or rank == 2
            _expect(width == len(values) or (flat and width % max(len(values), 1) == 0))
            if (
                spatial
                and layer.padding_mode == "zeros"
                and any(layer._reversed_padding_repeated_twice)
            ):
                uneven = values.isfinite() & (values != 0)  # another number at the border
                inputs.group.keep(uneven & used.any(0))
                values = values.where(~uneven, torch.nan)
            constants = _per_input(values, weight)
        constant = constants.isfinite()
        values = _taps(weight).sum(2)[:, constant] @ constants[constant]
        if layer.bias is not None:
            values += layer.bias
        values[used[:, ~constant].any(1)] = torch.nan
        group = _Group(values.isfinite(), [str(node.target)], self._multiple_of)
        self.cuts.append((node, inputs and inputs.group, constants, group))
        return _Channels(group, values.view(1, -1, *[1] * spatial) if spatial or flat else values)

    def alone(self, node: fx.Node, module: nn.Module | None, known: list[Any]) -> _Channels | None:
        """Run a step that acts on each channel alone on the constants."""
        if None in known:  # nothing is constant in the other tensor
            for x in filter(None, known):
                x.group.keep(...)
                x.values.fill_(torch.nan)  # it may be written in place
            return None
        _expect(not node.kwargs.get("training"), "which is active in eval mode")
        group, shape = known[0].group, known[0].values.shape
        _expect(all(x.values.shape == shape for x in known))
        varies = ~torch.stack([x.values for x in known]).isfinite().all(0)
        run: Any = node.target if module is None else module
        run = getattr(Tensor, run) if isinstance(run, str) else run
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda x: self._known[x].values)
        values = run(*args, **kwargs)
        _expect(values.shape[:2] == shape[:2], "which is not along the channels")
        values.view(-1)[varies.view(-1)] = torch.nan
        for x in known:
            group.merge(x.group)
        if module is not None and any(tensor.numel() > 1 for tensor in self._read(node)):
            self.cuts.append((node, None, values, group))
        return _Channels(group, values)

    def pool(self, node: fx.Node, module: Any, known: list[Any]) -> _Channels | None:
        """Follow pooling: constants stay, unless an average counts padded zeros."""
        (x,) = known
        if x is None:
            return None
        name = (node.target if module is None else type(module)).__name__
        _expect(name.endswith(f"{x.values.dim() - 2}d"))
        order = "kernel_size stride padding ceil_mode count_include_pad divisor_override"
        given = dict(zip(order.split(), node.args[1:], strict=False)) | node.kwargs
        given = given if module is None else vars(module)
        padded = torch.tensor(given.get("padding", 0)).any() and given.get(
            "count_include_pad", True
        )
        values = x.values.clone()
        if name.lower().startswith("avg") and (padded or given.get("divisor_override") is not None):
            values[values != 0] = torch.nan
        return _Channels(x.group, values)

    def reshape(self, node: fx.Node, _: None, known: list[Any]) -> _Channels | None:
        """Follow x.view(N, -1), N being the number of examples."""
        shape: Any = node.args[1:] if isinstance(node.args[1], int | fx.Node) else node.args[1]
        flat = len(shape) == 2 and shape[0] in self._batch and shape[1] == -1
        _expect(flat, "which is followed with the shape (x.size(0), -1) only")
        return known[0] and _Channels(known[0].group, known[0].values.flatten(1))

    def size(self, node: fx.Node, _: None, known: list[Any]) -> None:
        """Let the size of the first dimension be read, and no other: x.size(0) or x.shape[0]."""
        whole = node.args[1:] in ((), ("shape",))
        whole = whole and all(u.target is operator.getitem and u.args[1] == 0 for u in node.users)
        _expect(whole or node.args[1:] == (0,), "which may read the number of channels")
        if known[0] is not None or node.all_input_nodes[0].op == "placeholder":
            self._batch |= set(node.users) if whole else {node}


def _expect(condition: bool, otherwise: str = "whose inputs are laid out in another way") -> None:
    if not condition:
        raise ValueError(otherwise)


def _taps(weight: Tensor) -> Tensor:
    """Return a weight with shape (outputs, inputs, taps); a linear layer has one tap."""
    return weight[..., None].flatten(2)


def _per_input(entries: Tensor, weight: Tensor) -> Tensor:
    """Return what is given for each channel for each input of a layer; many, if flattened."""
    return entries.repeat_interleave(weight.shape[1] // max(len(entries), 1))


def _forms(names: str, *homes: Any) -> Iterator[Any]:
    """Yield methods, functions and classes by their names in lower case, written in place too."""
    classes = {name.lower(): value for name, value in vars(nn).items() if isinstance(value, type)}
    for name in names.split():
        yield from (name, f"{name}_", classes.get(name.replace("_", ""), name))
        forms = (name, f"{name}_", f"i{name}")
        yield from (getattr(home, form) for home in homes for form in forms if hasattr(home, form))


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ENTRYWISE = (
    "relu relu6 leaky_relu prelu elu selu celu gelu silu mish tanh sigmoid softplus softsign "
    "hardtanh hardswish hardsigmoid logsigmoid neg add sub mul div truediv mean amax flatten"
)
_EVAL = (  # not torch.dropout, which may be active
    "identity dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout "
    "batchnorm1d batchnorm2d batchnorm3d"
)
_POOLS = "max_pool{0}d avg_pool{0}d adaptive_max_pool{0}d adaptive_avg_pool{0}d "
_RULES: dict[Any, Callable[[_Walk, fx.Node, Any, list[Any]], _Channels | None]] = {
    **dict.fromkeys(_LAYERS, _Walk.layer),
    **dict.fromkeys(_forms(_ENTRYWISE, functional, torch, operator), _Walk.alone),
    **dict.fromkeys(_forms(_EVAL, functional), _Walk.alone),
    **dict.fromkeys(_forms("".join(map(_POOLS.format, (1, 2, 3))), functional), _Walk.pool),
    **dict.fromkeys((torch.reshape, "reshape", "view"), _Walk.reshape),
    **dict.fromkeys(("size", getattr), _Walk.size),
}
