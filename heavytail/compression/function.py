r"""What pruning does to the function: how far the outputs move, and a refit that mends most of it.

Pruning keeps the columns that make up the matrix; the network averages its columns, and what was
dropped is missed. A layer behind pruned ones sees inputs x~ in place of x. Its weights are fitted
anew, so that it puts out what it did, on unlabelled inputs and without a gradient step:

    min over W', b'  of  mean |W' x~ + b' - (W x + b)|^2 + ridge s ||W' - W||^2,                 (1)

s being the mean square of an entry of x~ that is left. This goes layer by layer from the inputs on,
each against the *unpruned* network, given what the layers before it put out by now.

An argument outside the set that its line names is a TypeError or a ValueError. Source: (1) is
channel pruning by reconstruction, He, Zhang and Sun, ICCV 2017; Luo, Wu and Lin, ICCV 2017.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from heavytail import _check
from heavytail.compression import compaction as _graph
from heavytail.layers import weighted

_AT_ONCE = 1 << 23  # numbers of a block of patches


@torch.no_grad()
def outgoing_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return, of layers that others read, the norm of all weights that read each channel: (n,)."""
    whole = _graph._unmasked_copy(model)
    exact, graph = _graph._trace(whole, _graph._arguments(whole, (), {}))
    squares: dict[str, Tensor] = {}
    for name, read, *_ in _graph._Walk(exact.double().cpu(), graph, None).cuts:
        if read is not None:
            weight: Any = exact.get_submodule(name).weight
            each = weight[..., None].flatten(2).square().sum((0, 2)).view(len(read.may_go), -1)
            squares[read.layer] = squares.get(read.layer, 0) + each.sum(1)
    return {layer: square.sqrt() for layer, square in squares.items()}


@torch.no_grad()
def refit(model: nn.Module, inputs: Tensor, *, ridge: float = 1e-4) -> tuple[str, ...]:
    """Fit the layers behind pruned ones anew, in place; return their names in the order of calls.

    To be called between :func:`heavytail.prune` and :func:`heavytail.compact`, while the masks hold
    the unpruned weights. Pruned columns stay as they are. The outgoing weights of a column that is
    constant now become 0 and the bias takes its constant over; without a bias they are fitted as
    the others. Deterministic; the memory is that of a block of inputs and of the normal equations,
    which are in float64.

    Args:
        model: pruned by columns, the layer called last excepted. The layers called after the first
            pruned one are linear or 2-dimensional convolutions without groups, called once each,
            with anything in between.
        inputs: unlabelled examples (N, ...), finite, as the model takes them. A layer sees N or,
            if it is a convolution, N times its positions; these must be as many as its inputs that
            are left, and should be some times more.
        ridge: that of (1), > 0; larger keeps the weights nearer to what they were.
    """
    _check_inputs(inputs, model=model)
    ridge = _check.number("ridge", ridge, _check.POSITIVE)
    before = {name: value.clone() for name, value in _state(model)}
    whole = {n: torch.ones_like(v) if n.endswith("weight_mask") else v for n, v in before.items()}
    with _evaluated(model):
        layers = _behind(model, inputs)
        try:
            for name, layer in layers.items():
                _fit(model, whole, name, layer, inputs, ridge)
        except BaseException:
            for name, value in _state(model):
                value.copy_(before[name])
            raise
        finally:
            model(inputs[:1])  # masks make their weights anew at a call
    return tuple(layers)


def _check_inputs(inputs: Tensor, **models: nn.Module) -> None:
    for name, model in models.items():
        _check.instance(name, model, nn.Module)
    if not _check.tensor("inputs", inputs).dim() or not len(inputs):
        raise ValueError(f"inputs must be one example or more, got shape {tuple(inputs.shape)}")
    _check.numbers("inputs", inputs)


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((n, v.detach()) for n, v in chain(model.named_parameters(), model.named_buffers()))


@contextmanager
def _evaluated(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode for a while."""
    training = [module for model in models for module in model.modules() if module.training]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _behind(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    """Return the layers called after the first pruned one, which must be such as can be fitted."""
    names: dict[Any, str] = {layer: name for name, layer in weighted(model).items()}
    called: list[Any] = []
    hooks = [m.register_forward_hook(lambda m, *_: called.append(m)) for m in names]
    try:
        model(inputs[:1])
    finally:
        for hook in hooks:
            hook.remove()
    pruned = [i for i, layer in enumerate(called) if "weight_mask" in layer._buffers]
    if not pruned:
        raise ValueError("model must have masks of heavytail.prune on layers it calls, got none")
    behind = called[pruned[0] + 1 :]
    if pruned[-1] == len(called) - 1:
        raise ValueError(f"a layer must follow {names[called[-1]]}, which is pruned, got none")
    for layer in behind:
        kind = f"{names[layer]} ({type(layer).__name__})"
        if called.count(layer) > 1:
            raise ValueError(f"a layer must be called once to be fitted, {kind} is called more")
        if type(layer) not in (nn.Linear, nn.Conv2d) or getattr(layer, "groups", 1) > 1:
            allowed = "a linear layer or a 2-dimensional convolution without groups"
            raise ValueError(f"a layer behind pruned ones must be {allowed}, got {kind}")
        rows = layer._buffers.get("weight_mask", layer.weight).flatten(1).bool()
        if "weight_mask" in layer._buffers and not bool((rows.all(1) | ~rows.any(1)).all()):
            raise ValueError(f"{kind} must be pruned by columns, got masks of parts of them")
    return {names[layer]: layer for layer in behind}


def _fit(
    model: nn.Module, whole: dict[str, Tensor], name: str, layer: Any, inputs: Tensor, ridge: float
) -> None:
    """Solve (1) for one layer by its normal equations."""
    W = getattr(layer, "weight_orig", layer.weight).flatten(1)
    width, biased = W.shape[1], layer.bias is not None
    gram = W.new_zeros(width + 1, width + 1, dtype=torch.float64)  # the last is that of the bias
    moved = gram.new_zeros(width + 1, len(W))
    varied = torch.zeros(2, width, dtype=torch.bool, device=W.device)  # x, and x~
    first: list[Tensor] = []
    start, size = 0, _AT_ONCE  # the first block is one example, which shows the size
    while start < len(inputs):
        some = inputs[start : start + max(1, _AT_ONCE // size)]
        start += len(some)
        x, wanted = _seen(layer, lambda x=some: functional_call(model, whole, (x,)))
        y, found = _seen(layer, lambda x=some: model(x))
        X, Y = _patches(layer, x), _patches(layer, y)
        first = first or [X[0], Y[0]]
        varied |= torch.stack([(first[0] != X).any(0), (first[1] != Y).any(0)])
        Y = functional.pad(Y.double(), (0, 1), value=1.0)
        miss = (wanted - found).double().movedim(1 if isinstance(layer, nn.Conv2d) else -1, -1)
        gram += Y.mT @ Y
        moved += Y.mT @ miss.reshape(len(Y), -1)
        size = max(inputs[0].numel(), Y.numel() // len(some), 1)
    rows = int(gram[-1, -1])
    mean = gram[-1, :-1] / rows
    lost = varied[0] & ~varied[1] & (biased | (mean == 0))  # a bias takes over their constants
    active = functional.pad(~lost & (gram.diagonal()[:-1] > 0), (0, 1), value=biased)
    if rows < (needed := int(active.sum())):
        raise ValueError(f"inputs must show {name} {needed} examples or more, got {rows}")
    gram, moved = gram[active][:, active], moved[active]
    if (left := needed - biased) > 0:
        diagonal = gram.diagonal()[:left]
        diagonal += ridge * diagonal.mean()
    change = W.new_zeros(len(W), width + 1, dtype=torch.float64)
    change[:, active] = torch.linalg.solve(gram, moved).mT
    if not bool(change.isfinite().all()):
        raise ValueError(f"inputs must leave the fit of {name} finite, got weights that are not")
    change[:, -1] += W[:, lost].double() @ mean[lost]
    change[:, :-1] -= torch.where(lost, W.double(), 0)
    alive = layer._buffers.get("weight_mask", torch.ones_like(W)).flatten(1).any(1)
    W[alive] += change[alive, :-1].to(W)
    if biased:
        layer.bias[alive] += change[alive, -1].to(W)


class _Reached(Exception):  # noqa: N818 (no error)
    """A forward pass has come to a layer; its arguments are the layer's input and output."""


def _seen(layer: nn.Module, run: Any) -> tuple[Tensor, Tensor]:
    """Return what a layer gets and puts out in a forward pass, which ends there."""

    def stop(_: nn.Module, args: Any, output: Tensor) -> None:
        raise _Reached(args[0], output)

    hook = layer.register_forward_hook(stop)
    try:
        run()
    except _Reached as reached:
        x, output = reached.args
        return x, output
    finally:
        hook.remove()
    raise ValueError("model must call the same layers for all inputs")


def _patches(layer: Any, x: Tensor) -> Tensor:
    """Return what the weights multiply, as rows: (examples or positions, inputs of the layer)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode)
    size, stride = layer.kernel_size, layer.stride
    return functional.unfold(x, size, layer.dilation, 0, stride).mT.flatten(0, 1)


@dataclass(frozen=True)
class FunctionReport:
    """What pruning did to the outputs f(x), (N, classes), on N inputs."""

    error: float  #: relative change of the outputs, ||f - f_pruned||_F / ||f||_F
    bound: float  #: an upper bound of ``error`` by path norms; nan where there is none
    same: float  #: share of the inputs whose decision, the largest output, is the same
    certain: float  #: share whose decision cannot have changed, by the bound; nan where none


@torch.no_grad()
def function_error(model: nn.Module, pruned: nn.Module, inputs: Tensor) -> FunctionReport:
    r"""Compare the outputs of a pruned network with those of the whole one, in evaluation mode.

    With one hidden layer, f(x) = sum_i a_i phi(<W_i, x>), phi 1-Lipschitz, the network without the
    columns of a set D differs at x by at most

        B(x) = \|x\| sum_{i in D} p_i,    p_i = \|W_i\| \|a_i\|, the path norm,

    and a decision with a margin above sqrt(2) B(x) (one output: above B(x)) stays. The bound is
    given for networks of two linear layers with anything in between that acts on each unit so on
    these inputs, of which ``pruned`` has some columns masked and all else equal: not after a refit
    or compaction, nor for deeper networks. There the outputs are measured only. The bound is often
    far too large: ``certain`` says how often it decides.

    Args:
        model: the whole network.
        pruned: the network after pruning, on the same device.
        inputs: (N, ...), N >= 1, finite, as both take them; outputs are (N, classes).

    Source: Neyshabur, Tomioka and Srebro, COLT 2015, for the path norm.
    """
    _check_inputs(inputs, model=model, pruned=pruned)
    with _evaluated(model, pruned):
        f, g = model(inputs).double(), pruned(inputs).double()
        if f.shape != g.shape or f.dim() != 2:
            raise ValueError(f"outputs must be (N, classes), got {[*f.shape]} and {[*g.shape]}")
        for name, out in (("model", f), ("pruned", g)):
            _check.numbers(f"the outputs of {name}", out)
        bound = _bound(model, pruned, inputs, f)
    size, one = float(f.norm()), f.shape[1] == 1
    error = float((f - g).norm()) / size if size else float((f != g).any()) * math.inf
    same = (f > 0) == (g > 0) if one else f.argmax(1, keepdim=True) == g.argmax(1, keepdim=True)
    share = float(same.double().mean())
    if bound is None:
        return FunctionReport(error, math.nan, share, math.nan)
    best = f.abs() if one else f.topk(2).values
    margin = best[:, 0] if one else (best[:, 0] - best[:, 1]) / math.sqrt(2)
    certain = float((margin > bound).double().mean())
    return FunctionReport(error, float(bound.norm()) / size if size else 0.0, share, certain)


def _bound(model: nn.Module, pruned: nn.Module, inputs: Tensor, f: Tensor) -> Tensor | None:
    """Return B(x) for each input, (N,), or None where the networks are of another form."""
    pairs: list[list[Any]] = [list(weighted(some).values()) for some in (model, pruned)]
    if any([type(layer) for layer in layers] != [nn.Linear] * 2 for layers in pairs):
        return None
    (first, head), (other, other_head) = pairs
    x, _ = _seen(first, lambda: model(inputs))
    z, out = _seen(head, lambda: model(inputs))
    z_pruned, _ = _seen(other_head, lambda: pruned(inputs))
    W, V = first.weight.double(), other.weight.double()
    A, B = head.weight.double(), other_head.weight.double()
    if W.shape != V.shape or A.shape != B.shape or z.shape != (len(inputs), len(W)):
        return None
    gone = ~V.any(1)
    alike = bool((W == V)[~gone].all() and (A == B).all() and (out == f).all())
    size = torch.linalg.vector_norm(x.double(), dim=1)
    moved, steps = (z - z_pruned).double().abs(), (x.double() @ W.mT).abs()
    slack = 1e-6 * size[:, None] * W.norm(dim=1)  # rounding
    lipschitz = bool((moved <= steps + slack)[:, gone].all() and (moved <= slack)[:, ~gone].all())
    if not (alike and lipschitz):
        return None
    bound: Tensor = size * (W.norm(dim=1) * A.norm(dim=0))[gone].sum()
    return bound
