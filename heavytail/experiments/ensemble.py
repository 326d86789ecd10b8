"""Many networks of one shape trained together: seeds, indices, scales and kinds of noise at once.

The step of a small network is short beside the calls that make it up. Here calls are shared: the
members of a group lie side by side and take each step together, groups run on a thread each, and
every member draws its noise for several steps ahead.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from threading import Event

import torch
from torch import Tensor, nn
from tqdm import tqdm

from heavytail import _check
from heavytail.experiments.data import Dataset
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import (
    DivergenceError,
    History,
    _assert_finite,
    _batches,
    accuracy,
)
from heavytail.laws import _blocks as _draws
from heavytail.laws.draws import log_positive_from_uniforms, symmetric_from_uniforms
from heavytail.noise import _BLOCK, KINDS, add_block, noise_blocks

# A network of more weights gains nothing from company: its steps hide what calls cost.
_STACKED = 1 << 17

# The most members of a group on a CPU: more save nothing and leave the cache.
_GROUP = 16

# Numbers a member draws ahead: enough to make the cost of calls small.
_AHEAD = 1 << 15

# What a step adds: a layer, rows of it, their vectors, and the factors of these or None.
_Blocks = Iterable[tuple[int, slice, Tensor, Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What is added to one member's hidden weights: see :class:`heavytail.StableNoise`.

    Attributes:
        alpha: stability index in (0, 2].
        scale: sigma >= 0, in the unit of the weights over lr^{1/alpha}; 0 draws nothing.
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        seed: of the noise, in [0, 2^64).

    Raises:
        TypeError, ValueError: on a value outside the sets above.
    """

    alpha: float
    scale: float
    kind: str = "shared"
    seed: int

    def __post_init__(self) -> None:
        _check.index("alpha", self.alpha, 2)
        _check.nonnegative("scale", self.scale)
        _check.one_of("kind", self.kind, KINDS)
        _check.seed("seed", self.seed)


def train_together(
    models: Sequence[FullyConnected],
    data: Dataset,
    *,
    lr: float,
    noises: Sequence[Noise | None],
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    batched: bool | None = None,
    progress: bool = True,
) -> list[History | DivergenceError]:
    r"""Train each model as :func:`heavytail.experiments.train.train` would by plain SGD.

    A step of member i, on the mean cross-entropy L_i of its batch, is

        W <- W - lr dL_i/dW + scale_i lr^{1/alpha_i} xi_i,

    with a noise vector for each column of each hidden weight and none for the head. Batches
    follow from ``seeds[i]``, noise from ``noises[i].seed``, as in ``train`` with a ``StableNoise``.

    On a CPU the bits of a member depend on its own arguments alone: not on the other members, nor
    on their number, nor on that of threads. They are those of ``train`` on one thread. Groups of
    members share out torch's threads, each of which takes one group at a time. On other devices
    all members are one group, and agree with ``train`` to rounding.

    Args:
        models: networks of one shape, dtype and device, the data's, none twice, of the standard
            scaling, no weight frozen; trained in place.
        data: the task.
        lr: step size, >= 0.
        noises: one for each model; None trains without noise.
        seeds: one for each model, of its batches, in [0, 2^64).
        steps: number of steps, >= 0.
        batch_size: examples a step, >= 1; the last batch of an epoch may be smaller.
        batched: whether the members of a group share the calls of a step; False makes groups of
            one. None shares on other devices than a CPU, and on a CPU where a network has at most
            2^17 weights (at 64 inputs and 10 classes one hidden layer of 1771 units, or two of
            326). Beyond, sharing no longer pays: on two cores a network of 1600 units, 118,400
            weights, took as long either way. On a CPU the bits are the same.
        progress: show a progress bar where the output is a terminal.

    Returns:
        For each model its history, measured once, at the end. Where a loss or a weight was not
        finite, the error that ``train`` would raise is returned in its place: that a member
        diverges is an outcome, and disturbs no other. Its weights are left as they became.

    Raises:
        TypeError, ValueError: on an argument outside the sets above; nothing is trained then. An
            interrupt leaves each model either trained or as it was.
    """
    lr, steps = _check.nonnegative("lr", lr), _check.count("steps", steps)
    batch_size = _check.count("batch_size", batch_size, 1)
    for name, given in (("noises", noises), ("seeds", seeds)):
        if len(given) != len(models):
            raise ValueError(f"{name} must be one for each of {len(models)}, got {len(given)}")
    for noise in noises:
        if not isinstance(noise, Noise | None):
            raise TypeError(f"noises must hold Noise or None, got {noise!r}")
    seeds = [_check.seed("each of seeds", seed) for seed in seeds]
    weights = [_weights(model) for model in models]
    _check_alike(weights, data)
    on_cpu = _on_cpu(data.x_train)
    if batched is None:
        batched = not on_cpu or sum(weight.numel() for weight in weights[0]) <= _STACKED
    threads = torch.get_num_threads()
    workers = threads if on_cpu else 1
    most = (_GROUP if on_cpu else len(models)) if batched else 1
    # As many groups for each worker, alike in size and in their share of the kinds.
    count = workers * -(-len(models) // (workers * most))
    order = sorted(range(len(models)), key=lambda i: getattr(noises[i], "kind", ""))
    groups = [order[k::count] for k in range(min(count, len(models)))]
    interrupted = Event()
    bar = tqdm(total=steps * len(models), unit="step", disable=None if progress else True)

    def report(members: int) -> bool:
        with bar.get_lock():
            bar.update(members)
        return not interrupted.is_set()

    def run(group: list[int]) -> list[History | DivergenceError]:
        members = [(models[i], noises[i], seeds[i]) for i in group]
        return _train_group(members, data, lr, steps, batch_size, report)

    outcomes: dict[int, History | DivergenceError] = {}
    # One thread of torch's in each worker: how a product is cut up decides on its bits.
    alone = partial(torch.set_num_threads, 1)
    try:
        with bar, ThreadPoolExecutor(workers, initializer=alone) as pool:
            try:
                for group, found in zip(groups, pool.map(run, groups), strict=True):
                    outcomes.update(zip(group, found, strict=True))
            except BaseException:
                interrupted.set()  # else the pool would train to the end before it lets go
                raise
    finally:
        torch.set_num_threads(threads)  # what later threads will start with
    return [outcomes[i] for i in range(len(models))]


def _weights(model: FullyConnected) -> list[nn.Parameter]:
    """Return the weights from the first layer to the head; refuse a model that has more."""
    if type(model) is not FullyConnected:  # another forward pass would go unnoticed
        raise TypeError(f"models must hold FullyConnected networks, got {type(model).__name__}")
    if model.scaling != "standard":
        raise ValueError(f"models must have the standard scaling, got {model.scaling}")
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    if not all(name.endswith(".weight") for name in names):
        raise ValueError(f"models must have weights only, no masks or biases, got {names}")
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    if frozen:
        raise ValueError(f"all weights must be trained, got frozen ones: {frozen}")
    return list(model.parameters())


def _check_alike(weights: list[list[nn.Parameter]], data: Dataset) -> None:
    """Refuse models that differ in shape or share a weight, and data that they do not fit."""
    x = data.x_train
    if not weights or not len(x):
        raise ValueError(f"training needs models and examples, got {len(weights)} and {len(x)}")
    shapes = {tuple(tuple(weight.shape) for weight in model) for model in weights}
    if len(shapes) > 1:
        raise ValueError(f"models must be of one shape, got weights of shapes {sorted(shapes)}")
    flat = [weight for model in weights for weight in model]
    if len({id(weight) for weight in flat}) < len(flat):
        raise ValueError("models must not share weights, got one model or weight twice")
    found = {(weight.dtype, weight.device, weights[0][0].shape[1]) for weight in flat}
    if found != {(x.dtype, x.device, data.inputs)}:
        raise ValueError(
            "models must have the dtype, device and inputs of the data "
            f"{(x.dtype, x.device, data.inputs)}, got {sorted(found, key=str)}"
        )


@torch.no_grad()
def _train_group(
    members: list[tuple[FullyConnected, Noise | None, int]],
    data: Dataset,
    lr: float,
    steps: int,
    batch_size: int,
    report: Callable[[int], bool],
) -> list[History | DivergenceError]:
    """Train one group in the calling thread; ``report`` is told of each step and may end it all."""
    x, y, B = data.x_train, data.y_train, len(members)
    layers = list(zip(*(_weights(model) for model, _, _ in members), strict=True))
    weights = [_room(B, *layer[0].shape, like=x).copy_(torch.stack(layer)) for layer in layers]
    gradients = [_room(B, *layer[0].shape, like=x) for layer in layers]
    shapes = [(W.shape[1], W.shape[2]) for W in weights[:-1]]
    units = [data.inputs, *(W.shape[1] for W in weights)]
    sources = [torch.Generator(x.device).manual_seed(seed) for _, _, seed in members]
    batches = [_batches(len(x), batch_size, source) for source in sources]
    noisy = [
        (i, noise.scale * lr ** (1 / noise.alpha), _noise_steps(noise, shapes, steps, x))
        for i, (_, noise, _) in enumerate(members)
        if noise is not None and noise.scale > 0
    ]
    rooms: dict[int, list[list[Tensor]]] = {}  # by batch: an epoch's last may be shorter
    losses = x.new_empty((B, steps))
    for step in range(steps):
        batch = torch.cat([next(some) for some in batches])
        N = len(batch) // B
        if N not in rooms:
            rooms[N] = [[_room(B, N, size, like=x) for size in units] for _ in range(2)]
        values, slopes = rooms[N]
        values[0].copy_(x.index_select(0, batch).view(B, N, -1))
        losses[:, step] = _descend(
            weights, gradients, values, slopes, y.index_select(0, batch).view(B, N), lr
        )
        for i, size, noise_steps in noisy:
            for k, rows, vectors, factors in next(noise_steps):
                add_block(weights[k][i][rows], vectors, factors, size)
        if not report(B):
            return []
    for layer, W in zip(layers, weights, strict=True):
        for weight, trained in zip(layer, W, strict=True):
            weight.copy_(trained)
    models = [model for model, _, _ in members]
    own = [some.clone().cpu() for some in losses]  # a view would keep those of the group
    return [_outcome(model, some, data) for model, some in zip(models, own, strict=True)]


def _outcome(model: FullyConnected, losses: Tensor, data: Dataset) -> History | DivergenceError:
    """Return what ``train`` would return, or raise, that measures at the end only."""
    model.train()
    if not len(losses):
        return History(losses, (), ())
    try:
        _assert_finite(losses, model)
    except DivergenceError as error:
        return error.with_traceback(None)  # whose frames would keep the group's memory
    return History(losses, (len(losses),), (accuracy(model, data.x_train, data.y_train),))


def _descend(
    weights: list[Tensor],
    gradients: list[Tensor],
    values: list[Tensor],
    slopes: list[Tensor],
    y: Tensor,
    lr: float,
) -> Tensor:
    """Take a step of gradient descent in place; return the losses before it, shape (B,).

    ``weights`` are of shape (B, outputs, inputs) a layer, and ``gradients`` room for the like.
    ``values`` and ``slopes``, of shape (B, N, units), are room for what each layer puts out and
    for the loss's derivatives by it; the first of ``values`` holds the examples.
    """
    last = len(weights)
    for k, W in enumerate(weights):
        _multiply(values[k], W.mT, values[k + 1])
        if k + 1 < last:
            values[k + 1].relu_()
    # Whatever is one pass over rows of logits is the same for a row wherever it lies.
    with torch.enable_grad():
        logits = values[last].flatten(0, 1).contiguous().detach().requires_grad_()
        log_p = nn.functional.log_softmax(logits, 1)
        each = nn.functional.nll_loss(log_p, y.flatten(), reduction="none")
    (slope,) = torch.autograd.grad(each, logits, torch.full_like(each, 1 / y.shape[1]))
    slopes[last].copy_(slope.view_as(slopes[last]))
    for k in reversed(range(last)):
        if k:
            _multiply(slopes[k + 1], weights[k], slopes[k])
            torch.ops.aten.threshold_backward.grad_input(
                slopes[k], values[k], 0, grad_input=slopes[k]
            )
        _multiply(slopes[k + 1].mT, values[k], gradients[k])
        weights[k].add_(gradients[k], alpha=-lr)  # a rounding more than baddbmm, as in SGD
    if not _on_cpu(y):
        return each.detach().view_as(y).mean(1)
    rows = log_p.detach().view(*y.shape, -1)
    return torch.stack([nn.functional.nll_loss(*pair) for pair in zip(rows, y, strict=True)])


def _on_cpu(tensor: Tensor) -> bool:
    """Whether bits must not depend on the company."""
    return tensor.device.type == "cpu"


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Put a_i b_i into out_i, on a CPU by single products: a batched one rounds by its number.

    Where ``out`` has gaps between members, ``bmm`` makes single products, and leaves the other
    threads alone meanwhile. Only tiny ones it makes in another way.
    """
    tiny = a.shape[1] * b.shape[1] * b.shape[2] < 4096
    if _on_cpu(out) and (tiny or len(out) == 1):
        for left, right, product in zip(a, b, out, strict=True):
            torch.mm(left, right, out=product)
    else:
        torch.bmm(a, b, out=out)


def _room(members: int, rows: int, columns: int, *, like: Tensor) -> Tensor:
    """Return a matrix for each member, with gaps between.

    Each starts on 64 bytes, as how a product is rounded depends on where its factors lie.
    """
    size = rows * columns
    room = like.new_empty((members, size // 16 * 16 + 32))
    return room[:, :size].view(members, rows, columns)


def _noise_steps(
    noise: Noise, shapes: list[tuple[int, int]], steps: int, like: Tensor
) -> Iterator[_Blocks]:
    """Yield, step after step, the noise of layers of these shapes, each to be used before the next.

    The draws are those of ``noise_blocks``, to the bit; on a CPU, where a layer is no more than a
    block, those of several steps are transformed at once.
    """
    kind, alpha, device, dtype = noise.kind, noise.alpha, like.device, like.dtype
    generator = torch.Generator(device).manual_seed(noise.seed)
    wide = kind != "shared" and max(n * d for n, d in shapes) > _BLOCK
    if wide or not _on_cpu(like):
        for _ in range(steps):
            yield (
                (layer, *block)
                for layer, (n, d) in enumerate(shapes)
                for block in noise_blocks(kind, alpha, n, d, generator, device, dtype)
            )
        return
    counts = [n * d if kind == "independent" else n for n, d in shapes]
    ends = [
        0,
        *accumulate(_draws.rows_of(count) for count in counts),
    ]  # a layer's bits fill whole rows
    isotropic = kind == "isotropic"
    numbers = sum(n * d for n, d in shapes) if isotropic else ends[-1] * _draws.ROW
    ahead = min(max(1, _AHEAD // numbers), steps)
    integer = torch.int32 if dtype == torch.float32 else torch.int64
    words = torch.empty((ahead, ends[-1], 2, _draws.ROW), dtype=integer)
    for first in range(0, steps, ahead):
        drawn = words[: steps - first]
        normals = [like.new_empty((len(drawn), n, d)) for n, d in shapes if isotropic]
        for k, word in enumerate(drawn):  # bits and normals come in turn from one generator
            for layer, (start, stop) in enumerate(pairwise(ends)):
                _draws.redraw(word[start:stop], generator)
                if isotropic:
                    normals[layer][k].normal_(std=math.sqrt(2), generator=generator)
        uniforms = _draws.uniforms_from_words(drawn.flatten(0, 1))
        room = like.new_empty((3, len(uniforms[0])))  # with it, as in a draw, to the bit
        if isotropic:
            xi = log_positive_from_uniforms(alpha / 2, *uniforms, scratch=room).mul_(0.5).exp_()
        else:
            xi = symmetric_from_uniforms(alpha, *uniforms, scratch=room)
        for k, row in enumerate(xi.view(len(drawn), -1)):
            blocks: list[tuple[int, slice, Tensor, Tensor | None]] = []
            for layer, (n, _) in enumerate(shapes):
                some = row[ends[layer] * _draws.ROW :][: counts[layer]].view(n, -1)
                pair = (normals[layer][k], some) if isotropic else (some, None)
                blocks.append((layer, slice(n), *pair))
            yield blocks
