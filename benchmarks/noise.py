"""Time the noise beside a training step: python -m benchmarks.noise.

One hidden layer, ReLU, 10 classes, float32, SGD, one thread. All candidates run in turn, several
rounds; the figure of each is its fastest round, and what is compared is a ratio within the run.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import levy_stable
from torch import nn

from benchmarks.timing import command_line, fastest
from heavytail import StableNoise
from heavytail.experiments.models import FullyConnected
from heavytail.noise import KINDS

ALPHA, SCALE, LR = 1.75, 0.003, 0.01
SHAPES = ((5000, 784), (10_000, 140))  # width, inputs
BATCHES = (100, 500)
ROUNDS = 9


def noise_alone(weight: nn.Parameter, kind: str) -> Callable[[], object]:
    """Return a step of an optimizer that has no gradients: only the noise acts."""
    optimizer = torch.optim.SGD([weight], lr=LR)
    StableNoise(optimizer, [weight], alpha=ALPHA, scale=SCALE, kind=kind, seed=0)
    return optimizer.step


def host_recipe(weight: nn.Parameter, kind: str) -> Callable[[], object]:
    """Return the noise as the official script draws it, by scipy and numpy in double precision."""
    rng = np.random.RandomState(0)  # the generator that the script uses
    n, d = weight.shape
    size = SCALE * LR ** (1 / ALPHA)
    width = math.cos(math.pi * ALPHA / 4) ** (2 / ALPHA)  # a standard positive stable law

    def draw() -> Any:
        if kind != "isotropic":
            shape = (n, 1 if kind == "shared" else d)
            return levy_stable.rvs(ALPHA, 0, size=shape, random_state=rng)
        A = levy_stable.rvs(ALPHA / 2, 1, scale=width, size=(n, 1), random_state=rng)
        return np.sqrt(2 * A) * rng.randn(n, d)

    @torch.no_grad()
    def add() -> None:
        weight.add_(torch.from_numpy(size * draw()))

    return add


def training_step(model: nn.Module, inputs: int, batch: int) -> Callable[[], object]:
    """Return forward, backward and step of SGD, without noise."""
    x, y = torch.randn(batch, inputs), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def milliseconds(width: int, inputs: int, rounds: int) -> dict[str, float]:
    """Return the fastest time of each candidate."""
    model = FullyConnected(inputs, 10, width=width)
    weight = nn.Parameter(torch.zeros(width, inputs))
    runs: dict[str, Callable[[], object]] = {
        f"step, batch {batch}": training_step(model, inputs, batch) for batch in BATCHES
    }
    runs |= {kind: noise_alone(weight, kind) for kind in KINDS}
    plain, fresh = weight.detach(), torch.empty(width, inputs)
    # What the fastest user would write by hand for plain Gaussian noise.
    runs["gaussian"] = lambda: plain.add_(fresh.normal_(), alpha=SCALE)
    runs |= {f"host {kind}": host_recipe(weight, kind) for kind in KINDS}
    best = fastest(runs, rounds, warm_up=True)
    return {name: round(1e3 * seconds, 3) for name, seconds in best.items()}


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Return what is compared: noise to step, and the host's recipe to ours."""
    found = {
        f"{kind} / step, batch {batch}": times[kind] / times[f"step, batch {batch}"]
        for kind in (*KINDS, "gaussian")
        for batch in BATCHES
    }
    found |= {f"host / ours, {kind}": times[f"host {kind}"] / times[kind] for kind in KINDS}
    return {name: round(value, 3) for name, value in found.items()}


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    times = {f"{width}x{inputs}": milliseconds(width, inputs, rounds) for width, inputs in SHAPES}
    return {
        "what": "milliseconds, the fastest of the rounds; one thread, interleaved",
        "alpha": ALPHA,
        "rounds": rounds,
        "milliseconds": times,
        "ratios": {shape: ratios(figures) for shape, figures in times.items()},
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS)
