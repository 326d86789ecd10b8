"""Many networks of one shape trained at once: seeds, indices, scales and kinds of noise.

The step of a small network is short beside the calls that make it up. Here the members share the
calls: ``torch.func`` maps one network's loss over the weights of all. An argument outside its set
is a TypeError or ValueError, and changes nothing.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from tqdm import tqdm

from heavytail import _check
from heavytail.experiments.data import Dataset
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import DivergenceError, History, _batches, _measured
from heavytail.noise import StableNoise


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What is added to one member's hidden weights: arguments of :class:`heavytail.StableNoise`."""

    alpha: float
    scale: float
    kind: str = "shared"
    seed: int


@torch.no_grad()
def train_together(
    models: Sequence[FullyConnected],
    data: Dataset,
    *,
    lr: float,
    noises: Sequence[Noise | None],
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    progress: bool = True,
) -> list[History | DivergenceError]:
    """Minimise the cross-entropy of each model by SGD with heavy-tailed noise, all at once.

    Member i follows :func:`heavytail.experiments.train.train` with ``torch.optim.SGD`` and a
    :class:`heavytail.StableNoise` on its hidden weights: the same batches, from ``seeds[i]``, and
    the same noise, ``noises[i]``, none if that is None. Its weights are those of training it alone
    up to rounding: to about 1e-15 of the largest after 200 steps in float64, 1e-6 in float32,
    unless a jump makes the training chaotic. Memory grows with members * batch_size * width. On a
    CPU a network of more than some 10^5 weights gains nothing from company.

    The models, trained in place, are of one shape, scaling, dtype and device, the data's; none
    twice or masked, no weight frozen. The step size ``lr`` is >= 0 and within
    their dtype; the rest is as in ``train``.

    Returns:
        For each model its history, measured at the end. Where a loss or a weight was not finite,
        the error that ``train`` would raise is in its place: that a member diverges is an outcome,
        and disturbs no other. Its weights are left as they became.
    """
    x, y = _check.instance("data", data, Dataset).x_train, data.y_train
    _check_alike(models)
    for name, given in (("noises", noises), ("seeds", seeds)):
        if len(_check.instance(name, given, Sequence)) != len(models):
            raise ValueError(f"{name} must be one for each of {len(models)}, got {len(given)}")
    seeds = [_check.seed("each of seeds", seed) for seed in seeds]
    lr = _check.number("lr", lr, f"[0, {torch.finfo(x.dtype).max}]")
    _check.flag("progress", progress)
    steps, batch_size = _check.count("steps", steps), _check.count("batch_size", batch_size, 1)
    own = [dict(model.named_parameters()) for model in models]
    weights = {name: torch.stack([some[name] for some in own]) for name in own[0]}
    members = [[nn.Parameter(w[i]) for w in [*weights.values()][:-1]] for i in range(len(models))]
    # These views get no gradients: a step of their optimizer adds the noise and does nothing else.
    optimizer = torch.optim.SGD(chain.from_iterable(members), lr=lr)
    for noise, chosen in zip(noises, members, strict=True):
        if noise is not None:
            law = asdict(_check.instance("each of noises", noise, Noise))
            StableNoise(optimizer, chosen, **law)
    form = copy.deepcopy(models[0]).to("meta")

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(form, weights, (x,)), y)

    slopes_and_losses = vmap(grad_and_value(loss))
    batches = [_batches(x, batch_size, seed) for seed in seeds]
    losses = x.new_empty((steps, len(models)))
    for step in tqdm(range(steps), unit="step", disable=None if progress else True):
        batch = torch.stack([next(some) for some in batches])
        slopes, losses[step] = slopes_and_losses(weights, x[batch], y[batch])
        for name, weight in weights.items():
            weight.sub_(slopes[name], alpha=lr)
        optimizer.step()
    outcomes: list[History | DivergenceError] = []
    for i, model in enumerate(models):
        for name, parameter in own[i].items():
            parameter.copy_(weights[name][i])
        model.train()  # as `train` leaves it
        seen = losses[:, i].clone().cpu()
        try:
            measured = {steps: _measured(seen, model, x, y)} if steps else {}
            outcomes.append(History(seen, tuple(measured), tuple(measured.values())))
        except DivergenceError as error:
            outcomes.append(error.with_traceback(None))  # its frames would keep the gradients
    return outcomes


def _check_alike(models: Sequence[FullyConnected]) -> None:
    """Refuse models that differ in form or share a weight, before anything is trained."""
    for model in _check.instance("models", models, Sequence):
        if type(model) is not FullyConnected:  # another forward pass would go unnoticed
            raise TypeError(f"models must hold FullyConnected networks, got {type(model).__name__}")
    forms = {(m.scaling, *((*w.shape, w.dtype, w.device) for w in m.parameters())) for m in models}
    if len(forms) != 1:
        raise ValueError(f"models must be of one shape, scaling, dtype and device, got {forms}")
    weights = [weight for model in models for weight in model.parameters()]
    if len(set(weights)) < len(weights):
        raise ValueError("models must not share weights, got one model or weight twice")
    masked = any(True for model in models for _ in model.buffers())
    if masked or not all(weight.requires_grad for weight in weights):
        raise ValueError("models must have no masks and no weights that are frozen")
