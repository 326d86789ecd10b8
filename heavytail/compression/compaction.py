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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from itertools import product, zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import prune

from heavytail import _check
from heavytail.layers import dead_units

_FAST, _WORTH = 16, 64  # a size that matrix products like, where one part in so many stays for it
_Known = list["_Channels | None"]  # what is known of the inputs of a step
_each_leaf: Any = fx.node.map_aggregate


@torch.no_grad()
def compact(model: nn.Module, *, multiple_of: int | None = None, inputs: Any = ()) -> nn.Module:
    """Return a smaller copy of a pruned model that computes the same function in eval mode.

    Units whose incoming weights are all zero are cut. The copy has the same class, ``forward`` and
    parameter names, and no masks; a layer gets a bias where a constant is folded into it. Outputs
    agree to rounding, but not where batch-norm is in training mode. The copy refuses arguments that
    were not traced, and shapes but (N, features) in batch-norm and PReLU between linear layers.

    A dead channel stays if it is an output of the model, if it meets a tensor that is not followed
    (an input, a parameter), if it is not 0 and is padded with zeros, or if no other is left in its
    layer. Followed are linear layers, convolutions without groups, batch-norm, activations,
    dropout, pooling, flattening, means and maxima over space, and arithmetic.

    The ``state_dict`` of the copy is read back into a model as built by:

        for name, value in state.items():
            layer, _, own = name.rpartition(".")
            layer = model.get_submodule(layer)
            setattr(layer, own, nn.Parameter(value) if own in layer._parameters else value)

    Args:
        model: any module that torch.fx can trace; left alone. Examples lie along dimension 0.
        multiple_of: >= 1; dead channels stay until a layer has a multiple of so many, which is fast
            in matrix products. None is 16 where at most one part in 64 stays for it, else 1.
        inputs: an example of all that ``forward`` is given, tuple or mapping by name, to try the
            copy on: it takes other tensors, no other values. () is all defaults, and no isinstance.

    Raises:
        ValueError: if the model cannot be traced, or if dead channels reach or lie in a step that
            is not followed, a layer that is called twice or shares a parameter, or their number.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _check.count("multiple_of", 1 if multiple_of is None else multiple_of, 1)
    _expect(not hasattr(model, "_orig_mod"), "model is compiled: take model._orig_mod")
    small = _unmasked_copy(model)
    given = inputs if isinstance(inputs, tuple | Mapping) else (inputs,)
    args, kwargs = ((), given) if isinstance(given, Mapping) else (given, {})
    before = _outputs(small, args, kwargs) if given else []
    traced = _arguments(small, args, kwargs)
    exact, graph = _trace(small, traced)
    walk = _Walk(exact.double().cpu(), graph, multiple_of)  # not every device has float64
    for name, channels, constants, outputs in walk.cuts:
        layer, keep = small.get_submodule(name), ~_gone(outputs.may_go, multiple_of)
        gone = _gone(channels.may_go, multiple_of) if channels else keep.new_zeros(1)
        _cut(layer, exact.get_submodule(name), gone, constants, keep)
        if channels is None and constants.dim() == 2 and constants.isfinite().any():
            layer.register_forward_pre_hook(_refuse_other_shapes)
    after = _trace(small, traced)[1]
    for old, new in zip_longest(*(str(steps).split("\n    ") for steps in (graph, after))):
        _expect(old == new, f"forward computes with the number of channels: {old} becomes {new}")
    for old, new in zip(before, _outputs(small, args, kwargs) if given else [], strict=True):
        rounding = float(old.abs().nan_to_num().amax()) * torch.finfo(old.dtype).eps ** 0.5
        _expect(torch.allclose(old, new, 0, rounding, True), "forward does not do as it was traced")
    if [*traced.values()] != [Tensor]:
        small.register_forward_pre_hook(partial(_refuse_other_calls, traced), with_kwargs=True)
    return small


def _unmasked_copy(model: nn.Module) -> nn.Module:
    """Return a copy whose pruning is permanent."""
    values = [value for module in model.modules() for value in vars(module).values()]
    # A masked weight is the result of a product, which torch does not copy.
    memo = {id(v): v.clone() for v in values if isinstance(v, Tensor) and not v.is_leaf}
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                name = f"{hook._tensor_name}_orig"
                whole = getattr(module, name)  # torch would mask it wherever else it is used
                setattr(module, name, _like(whole, whole.clone()))
                prune.remove(module, hook._tensor_name)
    return twin


def _cut(layer: Any, exact: Any, gone: Tensor, constants: Tensor, keep: Tensor) -> None:
    """Cut inputs out of a layer, whose bias takes over their constants, and keep some outputs."""
    drop = gone.repeat_interleave(len(constants) // max(len(gone), 1))
    if drop.any():
        folded = exact.weight[..., None].flatten(2).sum(2)[:, drop] @ constants[drop]
        layer.weight = _like(layer.weight, layer.weight[:, ~drop])
        if layer.bias is not None:
            layer.bias = _like(layer.bias, exact.bias + folded)
        elif folded[keep].any():
            layer.bias = _like(layer.weight, folded)
    for name, tensor in layer.state_dict(keep_vars=True).items() if not keep.all() else ():
        if tensor.dim():  # not the count of batches
            own = isinstance(tensor, nn.Parameter)
            setattr(layer, name, _like(tensor, tensor[keep]) if own else tensor[keep])
    sizes = dict.fromkeys(("out_features", "out_channels", "num_features", "num_parameters"), keep)
    sizes |= dict.fromkeys(("in_features", "in_channels"), ~drop)
    for size in sizes.keys() & vars(layer).keys():
        setattr(layer, size, int(sizes[size].sum()))


def _like(parameter: Tensor, value: Tensor) -> nn.Parameter:
    """Return a parameter of the dtype, the device and the training flag of another."""
    return nn.Parameter(value.to(parameter), requires_grad=parameter.requires_grad)


def _arguments(model: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of forward; the class Tensor is in place of tensors and of no value."""
    call = inspect.signature(model.forward).bind_partial(*args, **kwargs)
    call.apply_defaults()
    given = {name: call.arguments.get(name, Tensor) for name in call.signature.parameters}
    return dict(_each_leaf(given, lambda v: Tensor if isinstance(v, Tensor) else v))


def _outputs(model: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the floating-point tensors that a model puts out in eval mode."""
    found: list[Any] = []
    _each_leaf(copy.deepcopy(model).eval()(*args, **kwargs), found.append)
    return [v for v in found if isinstance(v, Tensor) and v.is_floating_point() and v.numel()]


def _refuse_other_calls(traced: dict[str, Any], model: nn.Module, args: Any, kwargs: Any) -> None:
    """Refuse arguments that may take another path than the one that was traced."""
    for name, given in _arguments(model, args, kwargs).items():
        expected = traced[name]
        number = expected is Tensor and type(given) in (int, float)
        if not number and given is not expected and (given == expected) is not True:
            words = f"{name} must be {expected!r}, as when compacted, got {given!r}"
            raise ValueError(words.replace(repr(Tensor), "a tensor"))


def _refuse_other_shapes(module: nn.Module, args: tuple[Tensor]) -> None:
    """Refuse inputs of batch-norm or PReLU, which act on the second dimension, not on the last."""
    name, shape = f"{type(module).__name__} of a compact model", tuple(args[0].shape)
    _expect(len(shape) == 2, f"{name} must get shape (N, features), got {shape}")


class _Proxy(fx.Proxy):
    """A tensor to be; torch.fx takes x += y for x + y."""

    def _write(self, write: Callable[..., Any], other: object) -> Any:
        return self.tracer.create_proxy("call_function", write, (self, other), {})

    __iadd__ = partialmethod(_write, operator.iadd)
    __isub__ = partialmethod(_write, operator.isub)
    __imul__ = partialmethod(_write, operator.imul)
    __itruediv__ = partialmethod(_write, operator.itruediv)


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Put a tensor to be in place of the class Tensor."""
        proxy = partial(self.create_proxy, "placeholder", "x", (), {})
        values = _each_leaf(concrete_args, lambda v: proxy() if v is Tensor else v)
        call = inspect.BoundArguments(inspect.signature(self.root.forward), values)
        return lambda: self.root.forward(*call.args, **call.kwargs), []


def _trace(model: nn.Module, traced: dict[str, Any]) -> tuple[nn.Module, fx.Graph]:
    """Return a copy in eval mode and its graph; tracing may leave marks on what it traces."""
    scratch = copy.deepcopy(model).eval()
    try:
        return scratch, _Tracer().trace(scratch, traced)
    except Exception as error:  # forward is anyone's code
        raise ValueError(f"model cannot be traced by torch.fx: {error}") from error


@dataclass(frozen=True, eq=False)
class _Channels:
    """The channels of one tensor."""

    layer: str  # that made the channels; what it is summed with goes together with them
    may_go: Tensor  # shape (n,), bool; shared by all tensors of the layer, only ever loses entries
    # float64, shape (1, n, 1, ...) with as many dimensions as the tensor, or (1, n) if channels are
    # last, in any number of dimensions; they share memory where the tensors do
    values: Tensor

    def __post_init__(self) -> None:
        self.may_go.logical_and_(self.values.flatten().isfinite())


def _gone(may_go: Tensor, multiple_of: int | None) -> Tensor:
    """Return the mask of the channels that go; one stays in any case."""
    alive = int((~may_go).sum())
    left = max(alive, 1)
    more = -left % (multiple_of or _FAST)
    stay = left - alive + (more if multiple_of or more * _WORTH <= left else 0)
    return may_go & (may_go.cumsum(0) > stay)


class _Walk:
    """A walk through the graph of a model in float64, by rules for what a node does to channels.

    ``cuts`` are layers by name, their inputs and the constants of these, and their outputs; where a
    layer acts on each channel alone, no inputs and the constants of the outputs.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, multiple_of: int | None) -> None:
        self.cuts: list[tuple[str, _Channels | None, Tensor, _Channels]] = []
        self._model = model
        self._known: dict[fx.Node, _Channels | None] = {}
        self._together: list[tuple[_Channels, _Channels]] = []
        self._obstacles: list[tuple[str, Tensor, str]] = []
        self._batch: set[Any] = set()  # nodes that are the number of examples
        reads: Counter[Tensor] = Counter()
        for node in graph.nodes:
            self._known[node] = self._visit(node)
            if node.op == "call_module":
                reads.update(model.get_submodule(node.target).state_dict(keep_vars=True).values())
            elif node.op == "get_attr":
                reads[operator.attrgetter(node.target)(model)] += 1
        for _, (mine, theirs) in product(self._together, self._together):
            mine.may_go.logical_and_(theirs.may_go)
            theirs.may_go.logical_and_(mine.may_go)
        for name, inputs, _, outputs in self.cuts:
            own = model.get_submodule(name).state_dict(keep_vars=True)
            if any(reads[tensor] > 1 for tensor in own.values()):
                reason = f"parameters of {name} are read more than once"
                self._obstacles += [(x.layer, x.may_go, reason) for x in (inputs, outputs) if x]
        for name, may_go, reason in self._obstacles:
            if _gone(may_go, multiple_of).any():
                raise ValueError(f"dead channels of {name} cannot be cut: {reason}")

    def _visit(self, node: fx.Node) -> _Channels | None:
        """Return the channels of what a node puts out; None: they are not followed."""
        known = [self._known[source] for source in node.all_input_nodes]
        kind: Any = node.target
        run = self._model.get_submodule(kind) if node.op == "call_module" else kind
        kind = type(run) if isinstance(run, nn.Module) else run
        try:
            _expect(kind in _RULES, "which is not followed")
            if isinstance(run, nn.Module):
                hooks = {*run._forward_hooks.values(), *run._forward_pre_hooks.values()}
                plain = hooks <= {_refuse_other_shapes} and "forward" not in vars(run)
                _expect(plain, "which has hooks, or a forward of its own")
            return _RULES[kind](self, node, run, known)
        except Exception as clause:  # of torch too, where a step is run on constants
            step = f"{node.name} ({getattr(kind, '__name__', kind)}), {clause}"
        for x in filter(None, known):
            self._obstacles.append((x.layer, x.may_go, f"they reach {step}"))
            x.values.fill_(torch.nan)  # it may have been written to
        self._known.update(dict.fromkeys(node.all_input_nodes))
        parts = run.named_modules(prefix=str(node.target)) if isinstance(run, nn.Module) else ()
        for name, layer in parts:
            self._obstacles.append((name, dead_units(layer), f"they lie in {step}"))
        return None

    def output(self, node: fx.Node, _: object, known: _Known) -> None:
        """Keep all channels, and follow none."""
        for x in filter(None, known):
            x.may_go.zero_()
            x.values.fill_(torch.nan)

    def layer(self, node: fx.Node, layer: Any, known: _Known) -> _Channels:
        """Follow out_i = b_i + sum_j W_ij in_j: a constant if all in_j with W_ij != 0 are."""
        inputs, weight, name = known[0], layer.weight, str(node.target)
        _expect(getattr(layer, "groups", 1) == 1, "which has groups")
        taps = weight[..., None].flatten(2)  # (outputs, inputs, taps); a linear layer has one tap
        used, width, spatial = taps.ne(0).any(2), weight.shape[1], weight.dim() - 2
        constants = weight.new_full((width,), torch.nan)
        if inputs:
            values, n = inputs.values.flatten(), max(inputs.values.numel(), 1)
            _expect(inputs.values.dim() == spatial + 2)
            _expect(width == n or (not spatial and width % n == 0))
            padding = vars(layer).get("_reversed_padding_repeated_twice", ())
            if any(padding) and layer.padding_mode == "zeros":
                uneven = values.isfinite() & (values != 0) & used.any(0)  # the border sees 0
                inputs.may_go[uneven] = False
                values = values.where(~uneven, torch.nan)
            constants = values.repeat_interleave(width // n)
        constant = constants.isfinite()
        values = functional.linear(constants[constant], taps.sum(2)[:, constant], layer.bias)
        values[used[:, ~constant].any(1)] = torch.nan
        outputs = _Channels(name, values.isfinite(), values.view(1, -1, *[1] * spatial))
        self.cuts.append((name, inputs, constants, outputs))
        return outputs

    def alone(self, node: fx.Node, run: Any, known: _Known) -> _Channels | None:
        """Run a step that acts on each channel alone on the constants."""
        if None in known:  # nothing is constant in the other tensor, nor in what is written
            self.output(node, run, known)
            return None
        _expect(not node.kwargs.get("training"), "which is active in eval mode")
        first, *others = operands = [x for x in known if x]
        _expect(all(x.values.shape == first.values.shape for x in others))
        varies = ~torch.stack([x.values for x in operands]).isfinite().all(0)
        by_channel = isinstance(run, nn.Module) and any(
            t.numel() > 1 for t in run.state_dict().values()
        )
        constants = dict(zip(node.all_input_nodes, (x.values for x in operands), strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), constants.__getitem__)
        values = (getattr(Tensor, run) if isinstance(run, str) else run)(*args, **kwargs)
        _expect(values.shape[:2] == first.values.shape[:2], "which is not along the channels")
        values.view(-1)[varies.view(-1)] = torch.nan  # should a step not hand nan on
        self._together += [(first, x) for x in others]
        if by_channel:
            self.cuts.append((str(node.target), None, values.clone(), first))
        return replace(first, values=values)

    def pool(self, node: fx.Node, run: Any, known: _Known) -> _Channels | None:
        """Follow pooling: constants stay, unless an average counts padded zeros."""
        if (channels := known[0]) is None:
            return None
        values, space = channels.values.clone(), channels.values.dim() - 2
        _expect(getattr(run, "__name__", type(run).__name__).endswith(f"{space}d"))
        ones = values.new_ones(1, 1, *[2 ** (16 // space)] * space)
        ones = run(ones, *node.args[1:], **node.kwargs)
        _expect(isinstance(ones, Tensor), "which returns more than a tensor")
        if (ones != 1).any():
            values[values != 0] = torch.nan
        return replace(channels, values=values)

    def flatten(self, node: fx.Node, run: Any, known: _Known) -> _Channels | None:
        """Follow x.flatten(1), and x.view(N, -1), N being the number of examples."""
        given: Any = (*node.args[1:], *node.kwargs.values())
        if isinstance(run, nn.Flatten):
            given = (run.start_dim, run.end_dim)
        flat = given in ((1,), (1, -1))
        if run in _VIEWS:
            first, *others = given[0] if len(given) == 1 else given
            flat = first in self._batch and others == [-1]
        _expect(flat, "which is followed as x.flatten(1) or x.view(x.size(0), -1)")
        _expect(known[0] is None or known[0].values.dim() > 2)
        return known[0] and replace(known[0], values=known[0].values.flatten(1))

    def size(self, node: fx.Node, _: object, known: _Known) -> None:
        """Let the size of the first dimension be read, and no other: x.size(0) or x.shape[0]."""
        whole = node.args[1:] in ((), ("shape",))
        whole = whole and all(u.target is operator.getitem and u.args[1] == 0 for u in node.users)
        _expect(whole or node.args[1:] == (0,), "which may read the number of channels")
        if known[0] is not None or node.all_input_nodes[0].op == "placeholder":
            self._batch |= set(node.users) if whole else {node}


def _expect(condition: bool, otherwise: str = "whose inputs are laid out in another way") -> None:
    if not condition:
        raise ValueError(otherwise)


def _forms(names: str, *homes: Any) -> Iterator[Any]:
    """Yield methods, functions and classes by their names in lower case, written in place too."""
    classes = {name.lower(): value for name, value in vars(nn).items() if isinstance(value, type)}
    for name in names.split():
        forms = (name, f"{name}_", f"i{name}")
        yield from (*forms, classes.get(name.replace("_", ""), name))
        yield from (getattr(home, form) for home in homes for form in forms if hasattr(home, form))


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ENTRYWISE = (
    "relu relu6 leaky_relu prelu elu selu celu gelu silu mish tanh sigmoid softplus softsign "
    "hardtanh hardswish hardsigmoid logsigmoid neg add sub mul div truediv mean amax"
)
_EVAL = (  # not torch.dropout, which may be active
    "identity dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout "
    "batchnorm1d batchnorm2d batchnorm3d"
)
_POOLS = "max_pool{0}d avg_pool{0}d adaptive_max_pool{0}d adaptive_avg_pool{0}d "
_VIEWS = ("view", "reshape", torch.reshape)
_RULES: dict[Any, Callable[[_Walk, fx.Node, Any, _Known], _Channels | None]] = {
    **dict.fromkeys(_LAYERS, _Walk.layer),
    **dict.fromkeys(_forms(_ENTRYWISE, functional, torch, operator), _Walk.alone),
    **dict.fromkeys(_forms(_EVAL, functional), _Walk.alone),
    **dict.fromkeys(_forms("".join(map(_POOLS.format, (1, 2, 3))), functional), _Walk.pool),
    **dict.fromkeys((*_VIEWS, nn.Flatten, torch.flatten, "flatten"), _Walk.flatten),
    **{"size": _Walk.size, getattr: _Walk.size, "output": _Walk.output},
}
