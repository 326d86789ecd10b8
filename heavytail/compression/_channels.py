"""Channels through a network: which are constant, what they are, and what goes with what.

A *channel* is a hidden unit, or one map of a convolution; a *group* is channels that can only go
together, as those of two tensors summed. :class:`Scan` follows them through the graph of a forward
pass, one rule for each kind of step.
"""

import operator
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_UNDERSTOOD = (
    "Linear, Conv1d to Conv3d without groups, BatchNorm1d to BatchNorm3d with running statistics, "
    "activations entry by entry, dropout, pooling, flattening behind the first dimension, means "
    "and maxima over space, and sums, differences, products and quotients"
)

_FAST = 16  # a size that the matrix products of most machines like
_WORTH = 64


@dataclass(eq=False)
class Group:
    """Channels that go together: index i of every tensor of the group.

    Attributes:
        may_go: shape (n,), bool; it only ever loses entries.
        layers: names of the layers that make the channels.
        multiple_of: of which the number of channels left is a multiple, if so many there are;
            None is 16 where that leaves at most one part in 64 more.
        parent: the group it has been merged into.
    """

    may_go: Tensor
    layers: list[str]
    multiple_of: int | None = 1
    parent: "Group | None" = None

    def root(self) -> "Group":
        """Return the group that this one has become part of."""
        group = self
        while group.parent is not None:
            group = group.parent
        return group

    def merge(self, other: "Group") -> None:
        """Let the channels of two groups go only together."""
        mine, theirs = self.root(), other.root()
        if mine is not theirs:
            mine.may_go &= theirs.may_go
            mine.layers += theirs.layers
            theirs.parent = mine

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
class Channels:
    """The channels of one tensor. Tensors that share memory share ``constant`` and ``values``.

    Attributes:
        group: what they go together with.
        constant: shape (n,), bool: the channel is one number everywhere, whatever the input.
        values: shape (n,), float64: that number.
        spatial: number of dimensions behind the channels.
        spread: these were flattened, and entry t of m in channel j is feature j m + t.
    """

    group: Group
    constant: Tensor
    values: Tensor
    spatial: int
    spread: bool = False

    def renewed(self, **changes: Any) -> "Channels":
        """Return the channels of a new tensor of the same group, with memory of its own."""
        fresh = {"constant": self.constant.clone(), "values": self.values.clone()}
        return replace(self, **(fresh | changes))

    def at_inputs(self, entries: Tensor, width: int) -> Tensor:
        """Return what is given for each channel for each of the ``width`` inputs of a layer."""
        return entries.repeat_interleave(width // max(len(entries), 1))


class _NotUnderstoodError(Exception):
    """What a node does to the channels is not known; the message is a clause about the node."""


def _expect(condition: bool, otherwise: str = "whose inputs are laid out in another way") -> None:
    if not condition:
        raise _NotUnderstoodError(otherwise)


class Scan:
    """One walk through the graph: what is known of each tensor, and what is to be cut.

    Attributes:
        layers: linear and convolutional layers by name, with their inputs and outputs.
        norms: layers with a parameter for each channel by name, with the channels.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, multiple_of: int | None) -> None:
        self._multiple_of = multiple_of
        self.layers: list[tuple[str, Channels | None, Channels]] = []
        self.norms: list[tuple[str, Channels]] = []
        self._modules: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
        self._fixed = _fixed(model, graph)
        self._obstacles: list[tuple[Group, str]] = []
        self._known: dict[fx.Node, Channels | None] = {}
        for node in graph.nodes:
            self._visit(node)

    def check(self) -> None:
        """Refuse to cut a group that something stands against."""
        for group, reason in self._obstacles:
            if group.gone().any():
                layers = ", ".join(dict.fromkeys(group.root().layers))
                raise ValueError(f"the dead channels of {layers} cannot be cut: {reason}")

    def _visit(self, node: fx.Node) -> None:
        operands, channels = self._operands(node), None
        if node.op == "output":
            for known in operands:
                known.group.root().may_go.zero_()
        elif node.op.startswith("call"):
            module = self._modules[str(node.target)] if node.op == "call_module" else None
            kind: Any = node.target if module is None else type(module)
            try:
                if operands or kind in _SPATIAL:
                    channels = self._rule(kind, module)(self, node, module)
            except _NotUnderstoodError as clause:
                name = kind if isinstance(kind, str) else kind.__name__
                reason = f"they reach {node.name} ({name}), {clause}. Understood are {_UNDERSTOOD}"
                self._obstacles += [(known.group, reason) for known in operands]
                for source in node.all_input_nodes:  # it may have been written to
                    self._known[source] = None
        self._known[node] = channels
        if channels is not None:
            channels.group.root().may_go &= channels.constant

    def _rule(self, kind: Any, module: nn.Module | None) -> "_Rule":
        hooked = module is not None and (module._forward_hooks or module._forward_pre_hooks)
        _expect(not hooked, "which has hooks")
        _expect(kind in _RULES, "which is not understood")
        return _RULES[kind]

    def _operands(self, node: fx.Node) -> list[Channels]:
        known = [self._known[source] for source in node.all_input_nodes]
        return [channels for channels in known if channels is not None]

    def _first(self, node: fx.Node) -> Channels | None:
        """Return what is known of the first argument."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            raise _NotUnderstoodError("whose first argument is not the tensor")
        return self._known[source]

    def _only(self, node: fx.Node) -> Channels:
        """Return what is known of the first argument, of which something is."""
        channels = self._first(node)
        if channels is None:
            raise _NotUnderstoodError("whose first argument is not the tensor")
        return channels

    def _fix(self, node: fx.Node, *cut: Channels | None) -> None:
        """Note it if the channels of a layer cannot be cut."""
        if reason := self._fixed.get(str(node.target)):
            self._obstacles += [(channels.group, reason) for channels in cut if channels]

    def _channelwise(self, node: fx.Node, n: int) -> Channels:
        """Return the channels of a layer that has n parameters, one for each."""
        channels = self._only(node)
        _expect(not channels.spread and len(channels.constant) == n)
        self.norms.append((str(node.target), channels))
        self._fix(node, channels)
        return channels

    # The rules: what a node does to the channels.

    def layer(self, node: fx.Node, layer: Any) -> Channels:
        """Follow out_i = b_i + sum_j W_ij in_j: a constant if all in_j with W_ij != 0 are."""
        inputs, weight, spatial = self._first(node), layer.weight, _SPATIAL[type(layer)]
        _expect(isinstance(weight, nn.Parameter), "whose weight is no parameter")
        _expect(weight.is_floating_point(), f"whose weight has dtype {weight.dtype}")
        _expect(not spatial or layer.groups == 1, "which has groups")
        width = weight.shape[1]
        used = taps(weight).ne(0).any(2)
        constant = torch.zeros(width, dtype=torch.bool)
        values = torch.zeros(width, dtype=torch.float64)
        if inputs is not None:
            n = len(inputs.constant)
            _expect(inputs.spatial == spatial)
            _expect(width == n or (inputs.spread and width % max(n, 1) == 0))
            inputs = inputs.renewed()  # as they are here, whatever is written in place later
            if spatial and _pads_with_zeros(layer):  # not the same at the border as inside
                uneven = inputs.constant & (inputs.values != 0)
                inputs.group.root().may_go &= ~(uneven & used.any(0))
                inputs.constant.logical_and_(~uneven)
            constant = inputs.at_inputs(inputs.constant, width)
            values = inputs.at_inputs(inputs.values, width)
        values = taps(weight).sum(2)[:, constant] @ values[constant]
        if layer.bias is not None:
            values += exact(layer.bias)
        constant = ~used[:, ~constant].any(1)
        group = Group(constant.clone(), [str(node.target)], self._multiple_of)
        outputs = Channels(group, constant, values, spatial)
        self.layers.append((str(node.target), inputs, outputs))
        self._fix(node, inputs, outputs)
        return outputs

    def norm(self, node: fx.Node, norm: Any) -> Channels:
        """Follow batch-norm with its running statistics."""
        _expect(norm.running_mean is not None, "which has no running statistics")
        channels = self._channelwise(node, norm.num_features)
        values = channels.values - exact(norm.running_mean)
        values = values / (exact(norm.running_var) + norm.eps).sqrt()
        if norm.affine:
            values = values * exact(norm.weight) + exact(norm.bias)
        return channels.renewed(values=values)

    def prelu(self, node: fx.Node, prelu: nn.PReLU) -> Channels:
        """Follow max(x, 0) + a min(x, 0), with a slope a for each channel or one for all."""
        n = prelu.num_parameters
        channels = self._only(node) if n == 1 else self._channelwise(node, n)
        falling = exact(prelu.weight) * channels.values.clamp(max=0)
        return channels.renewed(values=channels.values.clamp(min=0) + falling)

    def elementwise(self, node: fx.Node, module: nn.Module | None) -> Channels | None:
        """Let the node itself compute the constants, from one number for each channel."""
        operands = self._operands(node)
        if len(operands) < len(node.all_input_nodes):  # nothing is constant in the other tensor
            for channels in operands:
                channels.group.root().may_go.zero_()
                channels.constant.zero_()  # what is written in place is not constant any more
            return None
        _expect(len({(len(x.constant), x.spatial, x.spread) for x in operands}) == 1)
        values = _on_values(node, module, self._known)
        constant = torch.stack([channels.constant for channels in operands]).all(0)
        for channels in operands:
            operands[0].group.merge(channels.group)
            if values is channels.values:  # written in place
                constant = channels.constant.logical_and_(constant)
        return replace(operands[0], constant=constant, values=values)

    def identity(self, node: fx.Node, module: nn.Module | None) -> Channels:
        """Follow dropout, which does nothing in eval mode."""
        _expect(not node.kwargs.get("training"), "which is active in eval mode")
        return self._only(node)

    def pool(self, node: fx.Node, pool: Any) -> Channels:
        """Follow pooling, which leaves constants alone but for averages with padded zeros."""
        channels = self._only(node)
        name = (node.target if pool is None else type(pool)).__name__  # type: ignore[union-attr]
        _expect(name.endswith(f"{channels.spatial}d"))
        indices = node.kwargs.get("return_indices") or getattr(pool, "return_indices", False)
        _expect(not indices, "which returns indices")
        constant = channels.constant.clone()
        if name.lower().startswith("avg") and not _is_plain_average(node, pool):
            constant &= channels.values == 0
        return channels.renewed(constant=constant)

    def over_space(self, node: fx.Node, module: None) -> Channels:
        """Follow a mean or a maximum over dimensions behind the channels."""
        channels = self._only(node)
        given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | node.kwargs
        dims: Any = given.get("dim") or ()
        dims = [dims] if isinstance(dims, int) else dims
        rank = channels.spatial + 2
        inside = all(isinstance(dim, int) and dim % rank >= 2 for dim in dims)
        _expect(len(dims) > 0 and inside, "which is not over space alone")
        kept = channels.spatial if given.get("keepdim") else channels.spatial - len(dims)
        return channels.renewed(spatial=kept)

    def flatten(self, node: fx.Node, module: Any) -> Channels:
        """Follow x.flatten(1)."""
        if module is None:
            given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
            ends: Any = (given.get("start_dim", 0), given.get("end_dim", -1))
        else:
            ends = (module.start_dim, module.end_dim)
        _expect(ends == (1, -1), "which is not from dimension 1 to the last")
        return self._flat(node)

    def reshape(self, node: fx.Node, module: None) -> Channels:
        """Follow x.view(N, -1), N being x.size(0) or x.shape[0]."""
        shape: Any = node.args[1] if len(node.args) == 2 else node.args[1:]
        flat = len(shape) == 2 and shape[1] == -1 and self._is_batch_size(shape[0])
        _expect(flat, "which is understood with the shape (x.size(0), -1) only")
        return self._flat(node)

    def _flat(self, node: fx.Node) -> Channels:
        channels = self._only(node)
        return replace(channels, spatial=0, spread=channels.spread or channels.spatial > 0)

    def _is_batch_size(self, size: Any) -> bool:
        """Tell x.size(0), x.size()[0] and x.shape[0], x being an input or a tensor followed."""
        if not isinstance(size, fx.Node):
            return False
        if size.target is operator.getitem and size.args[1] == 0:
            size = size.args[0]
        elif size.args[1:] != (0,):
            return False
        if size.target != "size" and (size.target, *size.args[1:]) != (getattr, "shape"):
            return False
        return size.args[0].op == "placeholder" or self._known[size.args[0]] is not None

    def size(self, node: fx.Node, module: None) -> None:
        """Let the size of the first dimension be read, and no other."""
        read = all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
        first = node.args[1:] == (0,) or (node.args[1:] in ((), ("shape",)) and read)
        _expect(first, "which may read the number of channels")


def taps(weight: Tensor) -> Tensor:
    """Return a weight as float64 of shape (outputs, inputs, taps); a linear layer has one tap."""
    return exact(weight).flatten(2) if weight.dim() > 2 else exact(weight)[..., None]


def exact(tensor: Tensor) -> Tensor:
    """Return a tensor as float64, on the CPU: not every device has float64."""
    return tensor.detach().cpu().to(torch.float64)


def _fixed(model: nn.Module, graph: fx.Graph) -> dict[str, str]:
    """Return the layers that cannot be cut without changing another step, and why."""
    owners = defaultdict(set)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(name)
    calls: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] += 1
        elif node.op == "get_attr":
            owners[id(operator.attrgetter(str(node.target))(model))].add("forward itself")
    reasons = {name: f"{name} is called {n} times" for name, n in calls.items() if n > 1}
    for name, module in model.named_modules():
        users = set().union(*(owners[id(p)] for p in module.parameters(recurse=False))) - {name}
        if users:
            reasons[name] = f"{name} shares a parameter with {', '.join(sorted(users))}"
    return reasons


def _pads_with_zeros(layer: Any) -> bool:
    if layer.padding == "same":
        padded = any(size > 1 for size in layer.kernel_size)
    else:
        padded = layer.padding != "valid" and any(layer.padding)
    return padded and layer.padding_mode == "zeros"


def _is_plain_average(node: fx.Node, pool: Any) -> bool:
    """Tell whether the mean of equal numbers is that number, at the border too."""
    if pool is None:
        return len(node.args) <= 3 and not node.kwargs.keys() - {"kernel_size", "stride"}
    padding = pool.padding if isinstance(pool.padding, tuple) else (pool.padding,)
    padded = pool.count_include_pad and any(padding)
    return not padded and getattr(pool, "divisor_override", None) is None


def _on_values(node: fx.Node, module: Any, known: dict[fx.Node, Any]) -> Tensor:
    """Run a node on the values of its operands."""
    args: Any = fx.node.map_arg(node.args, lambda source: known[source].values)
    kwargs: Any = fx.node.map_arg(node.kwargs, lambda source: known[source].values)
    run: Any = node.target if module is None else module
    if isinstance(run, str):
        run, args = getattr(args[0], run), args[1:]
    values: Tensor = run(*args, **kwargs)
    return values


# Dimensions behind the channels: (N, features), (N, channels, length), ...
_SPATIAL: dict[Any, int] = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}

_ACTIVATIONS = (
    "ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Tanh Sigmoid Softplus Softsign Hardtanh "
    "Hardswish Hardsigmoid LogSigmoid"
)
_FUNCTIONS = (
    "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ gelu silu mish "
    "softplus softsign hardtanh hardtanh_ hardswish hardsigmoid logsigmoid"
)
_TORCH = "relu relu_ tanh tanh_ sigmoid sigmoid_ selu selu_ celu celu_ neg add sub mul div"
_METHODS = "relu relu_ tanh tanh_ sigmoid sigmoid_ neg add add_ sub sub_ mul mul_ div div_"
_OPERATORS = "add sub mul truediv neg iadd isub imul itruediv"
_DIMENSIONS = (1, 2, 3)

_Rule = Callable[[Scan, fx.Node, Any], Channels | None]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_SPATIAL, Scan.layer),
    **dict.fromkeys((getattr(nn, f"BatchNorm{d}d") for d in _DIMENSIONS), Scan.norm),
    nn.PReLU: Scan.prelu,
    **dict.fromkeys((getattr(nn, name) for name in _ACTIVATIONS.split()), Scan.elementwise),
    **dict.fromkeys((getattr(functional, n) for n in _FUNCTIONS.split()), Scan.elementwise),
    **dict.fromkeys((getattr(torch, name) for name in _TORCH.split()), Scan.elementwise),
    **dict.fromkeys((getattr(operator, name) for name in _OPERATORS.split()), Scan.elementwise),
    **dict.fromkeys(_METHODS.split(), Scan.elementwise),
    **dict.fromkeys((nn.Identity, nn.AlphaDropout, nn.FeatureAlphaDropout), Scan.identity),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), Scan.identity),
    **dict.fromkeys((functional.dropout, functional.dropout2d), Scan.identity),
    **dict.fromkeys((torch.mean, torch.amax, "mean", "amax"), Scan.over_space),
    **dict.fromkeys((nn.Flatten, torch.flatten, "flatten"), Scan.flatten),
    **dict.fromkeys((torch.reshape, "reshape", "view"), Scan.reshape),
    **dict.fromkeys(("size", getattr), Scan.size),
}
for _d in _DIMENSIONS:
    for _layer in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool"):
        _RULES[getattr(nn, f"{_layer}{_d}d")] = Scan.pool
    for _function in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool"):
        _RULES[getattr(functional, f"{_function}{_d}d")] = Scan.pool
