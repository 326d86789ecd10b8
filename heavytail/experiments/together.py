"""Many networks of one shape trained at once: seeds, indices, scales and kinds of noise.

The step of a small network is short beside the calls that make it up. Here the members share the
calls: ``torch.func`` maps one network's loss over the weights of all.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
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
    train,
)
from heavytail.noise import KINDS, StableNoise, add_block, hidden_weights, noise_blocks

# On a CPU a network of more weights gains little from company: its steps hide what calls cost.
_SMALL = 1 << 17


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
        _check.number("alpha", self.alpha, "(0, 2]")
        _check.number("scale", self.scale, _check.NONNEGATIVE)
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
    """Minimise the cross-entropy of each model by SGD with heavy-tailed noise, all at once.

    Member i follows :func:`heavytail.experiments.train.train` with ``torch.optim.SGD`` and a
    :class:`heavytail.StableNoise` on its hidden weights: the same batches, from ``seeds[i]``, and
    the same noise, from ``noises[i].seed``. Its weights are those of training it alone up to
    rounding: to about 1e-15 of the largest after 200 steps in float64, 1e-6 in float32, unless a
    jump makes the training chaotic. Memory grows with members * batch_size * width.

    Args:
        models: networks of one shape, scaling, dtype and device, the data's; none twice, without
            masks, no weight frozen. Trained in place.
        data: the task.
        lr: step size, >= 0.
        noises: one for each model; None trains without noise.
        seeds: one for each model, of its batches, in [0, 2^64).
        steps: number of steps, >= 0.
        batch_size: examples a step, >= 1; the last batch of an epoch may be smaller.
        batched: whether the members share their calls; False trains one after the other, each to
            the bits it has alone. None shares them, but not on a CPU where a network has more
            than 2^17 weights.
        progress: show a progress bar where the output is a terminal.

    Returns:
        For each model its history, measured once, at the end. Where a loss or a weight was not
        finite, the error that ``train`` would raise is returned in its place: that a member
        diverges is an outcome, and disturbs no other. Its weights are left as they became.

    Raises:
        TypeError, ValueError: on an argument outside the sets above; nothing is trained then.
    """
    lr, steps = _check.number("lr", lr, _check.NONNEGATIVE), _check.count("steps", steps)
    batch_size = _check.count("batch_size", batch_size, 1)
    for name, given in (("noises", noises), ("seeds", seeds)):
        if len(given) != len(models):
            raise ValueError(f"{name} must be one for each of {len(models)}, got {len(given)}")
    for noise in noises:
        if not isinstance(noise, Noise | None):
            raise TypeError(f"noises must hold Noise or None, got {noise!r}")
    seeds = [_check.seed("each of seeds", seed) for seed in seeds]
    _check_alike(models, data)
    if batched is None:
        weights = sum(weight.numel() for weight in models[0].parameters())
        batched = weights <= _SMALL or data.x_train.device.type != "cpu"
    quiet = None if progress else True  # None: shown in a terminal only
    if batched:
        return _at_once(models, data, lr, noises, seeds, steps, batch_size, quiet)
    members = tqdm(list(zip(models, noises, seeds, strict=True)), unit="network", disable=quiet)
    return [
        _alone(model, noise, seed, data, lr, steps, batch_size) for model, noise, seed in members
    ]


def _check_alike(models: Sequence[FullyConnected], data: Dataset) -> None:
    """Refuse models that differ in form or share a weight, and data that they do not fit."""
    x = data.x_train
    if not models or not len(x):
        raise ValueError(f"training needs models and examples, got {len(models)} and {len(x)}")
    for model in models:
        if type(model) is not FullyConnected:  # another forward pass would go unnoticed
            raise TypeError(f"models must hold FullyConnected networks, got {type(model).__name__}")
        if any(True for _ in model.buffers()):
            raise ValueError("models must have no masks")
        if not all(weight.requires_grad for weight in model.parameters()):
            raise ValueError("models must have no weights that are frozen")
    forms = {
        (model.scaling, *((name, *w.shape) for name, w in model.named_parameters()))
        for model in models
    }
    if len(forms) > 1:
        raise ValueError(f"models must be of one shape and scaling, got {sorted(forms)}")
    weights = [weight for model in models for weight in model.parameters()]
    if len({id(weight) for weight in weights}) < len(weights):
        raise ValueError("models must not share weights, got one model or weight twice")
    inputs = next(models[0].parameters()).shape[1]
    found = {(weight.dtype, weight.device, inputs) for weight in weights}
    if found != {(x.dtype, x.device, data.inputs)}:
        raise ValueError(
            "models must have the dtype, device and inputs of the data "
            f"{(x.dtype, x.device, data.inputs)}, got {sorted(found, key=str)}"
        )


def _alone(
    model: FullyConnected,
    noise: Noise | None,
    seed: int,
    data: Dataset,
    lr: float,
    steps: int,
    batch_size: int,
) -> History | DivergenceError:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if noise is not None:
        StableNoise(optimizer, hidden_weights(model), **asdict(noise))
    try:
        return train(
            model,
            optimizer,
            data,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            evaluate_every=max(steps, 1),
            progress=False,
        )
    except DivergenceError as error:
        return error.with_traceback(None)  # whose frames would keep the gradients


@torch.no_grad()
def _at_once(
    models: Sequence[FullyConnected],
    data: Dataset,
    lr: float,
    noises: Sequence[Noise | None],
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    quiet: bool | None,
) -> list[History | DivergenceError]:
    x, y = data.x_train, data.y_train
    for model in models:
        model.train()  # as `train` does; all must be in one mode
    stacked, _ = stack_module_state(list(models))
    weights = {name: weight.detach() for name, weight in stacked.items()}  # (members, *shape)
    hidden = list(weights.values())[:-1]
    form = copy.deepcopy(models[0]).to("meta")

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(form, weights, (x,)), y)

    slopes_and_losses = vmap(grad_and_value(loss))
    batches = [
        _batches(len(x), batch_size, torch.Generator(x.device).manual_seed(seed)) for seed in seeds
    ]
    noisy = [
        (i, noise, _size(noise, lr), torch.Generator(x.device).manual_seed(noise.seed))
        for i, noise in enumerate(noises)
        if noise is not None and noise.scale > 0
    ]
    losses = x.new_empty((steps, len(models)))
    for step in tqdm(range(steps), unit="step", disable=quiet):
        batch = torch.stack([next(some) for some in batches])
        slopes, losses[step] = slopes_and_losses(weights, x[batch], y[batch])
        for name, weight in weights.items():
            weight.sub_(slopes[name], alpha=lr)
        for i, noise, size, source in noisy:
            for weight in hidden:
                _add_noise(weight[i], noise, size, source)
    for i, model in enumerate(models):
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name][i])
    return [
        _outcome(model, some.clone(), data)
        for model, some in zip(models, losses.T.cpu(), strict=True)
    ]


def _size(noise: Noise, lr: float) -> float:
    """Return scale * lr^{1/alpha}, inf where it leaves the floats."""
    return noise.scale * float(torch.tensor(lr, dtype=torch.float64) ** (1 / noise.alpha))


def _add_noise(columns: Tensor, noise: Noise, size: float, source: torch.Generator) -> None:
    n, d = columns.shape
    blocks = noise_blocks(noise.kind, noise.alpha, n, d, source, columns.device, columns.dtype)
    for rows, vectors, factors in blocks:
        add_block(columns[rows], vectors, factors, size)


def _outcome(model: FullyConnected, losses: Tensor, data: Dataset) -> History | DivergenceError:
    """Return what ``train`` would return, or raise, that measures at the end only."""
    steps = len(losses)
    if not steps:
        return History(losses, (), ())
    try:
        _assert_finite(losses, model)
    except DivergenceError as error:
        return error.with_traceback(None)
    return History(losses, (steps,), (accuracy(model, data.x_train, data.y_train),))
