r"""A training's own noise on its own start, without its gradients.

A trained weight is the start, the noise of all steps and what the gradients added,

    W_K = W_0 + N + G.

The seed of the noise gives W_0 + N, up to the rounding of the sum; G is what is left.
"""

import copy
from collections.abc import Iterable

import torch
from torch import nn

import heavytail


def replay(
    start: nn.Module,
    *,
    alpha: float,
    scale: float,
    kind: str,
    lr: float,
    steps: int,
    seed: int,
    exclude: Iterable[nn.Module | str] | None = None,
) -> nn.Module:
    """Return a copy of the start with the noise of a training on it, and no gradient.

    Args:
        start: the model before training; its hidden weights get the noise.
        alpha: stability index in (0, 2].
        scale: sigma >= 0.
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        lr: learning rate, the same for all steps.
        steps: number of steps, >= 0.
        seed: of the training's :class:`heavytail.StableNoise`.
        exclude: layers without noise, as for :func:`heavytail.hidden_weights`.

    Returns:
        The copy; the noise is the training's to the bit, its sum up to rounding.
    """
    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    weights = heavytail.hidden_weights(model, exclude=exclude)
    heavytail.StableNoise(optimizer, weights, alpha=alpha, scale=scale, kind=kind, seed=seed)
    for _ in range(steps):
        optimizer.step()  # no gradients: only the noise acts
    return model
