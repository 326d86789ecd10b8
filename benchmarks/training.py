"""Time whole training steps: python -m benchmarks.training.

The recipe of the paper's official script over ours, on data of the shape of ECG5000: one hidden
layer, ReLU, 2 classes, float32, SGD, one thread, no evaluation. A step is all from one update to
the next: loading the batch, forward and backward pass, what is logged, the step, the noise. Both
sides run in turn, several rounds; the figure of each is the mean step of its fastest round, and
what is compared is a ratio within the run.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.noise import ALPHA, LR, SCALE, host_recipe
from benchmarks.timing import command_line, least
from heavytail import StableNoise, hidden_weights
from heavytail.experiments.data import Dataset
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import train
from heavytail.noise import KINDS

EXAMPLES, INPUTS, CLASSES = 500, 140, 2
WIDTHS = (2000, 10_000)
BATCHES = (100, 500)
STEPS = 20  # a round: whole epochs, since the first step of an epoch costs more
ROUNDS = 7

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


class Examples(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Rows of arrays, made tensors of the right types one example at a time."""

    def __init__(self, arrays: Arrays) -> None:
        self._x, self._y = arrays

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return an example and its label."""
        x = torch.tensor(self._x[index]).to(torch.get_default_dtype())
        return x, torch.tensor(self._y[index]).long()


def mean_step(stamps: list[float]) -> float:
    """Return the mean time between stamps; what comes before the first one warms up."""
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def official(arrays: Arrays, width: int, batch: int, kind: str) -> float:
    """Return the seconds a step of the official recipe, as re-enacted here."""
    torch.manual_seed(0)
    hidden = nn.Linear(INPUTS, width, bias=False)
    model = nn.Sequential(hidden, nn.ReLU(inplace=True), nn.Linear(width, CLASSES, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    loader = DataLoader(Examples(arrays), batch_size=batch, shuffle=True)
    add_noise = host_recipe(hidden.get_parameter("weight"), kind) if kind != "none" else None

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    stamps, log = [], []
    for x, y in batches():
        model.train()
        optimizer.zero_grad()
        out = model(x)
        loss = nn.functional.cross_entropy(out, y)
        loss.backward()
        right = (out.max(1).indices == y).sum().float()
        log.append((loss.item(), (100 * right / len(y)).item()))
        optimizer.step()
        if add_noise is not None:
            add_noise()
        stamps.append(time.perf_counter())
        if len(stamps) > STEPS:
            return mean_step(stamps)
    raise AssertionError("the batches have no end")


def ours(arrays: Arrays, width: int, batch: int, kind: str) -> float:
    """Return the seconds a step of heavytail's training loop and noise."""
    x, y = map(torch.from_numpy, arrays)
    data = Dataset("random", x, y, x, y, CLASSES)
    model = FullyConnected(INPUTS, CLASSES, width=width, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    if kind != "none":
        law: dict[str, Any] = {"alpha": ALPHA, "scale": SCALE, "kind": kind, "seed": 0}
        StableNoise(optimizer, hidden_weights(model), **law)
    stamps: list[float] = []
    # Hooks run in the order in which they were attached: this one after the noise. The
    # evaluation that ends the training comes after the last stamp.
    optimizer.register_step_post_hook(lambda *_: stamps.append(time.perf_counter()))
    train(
        model,
        optimizer,
        data,
        steps=STEPS + 1,
        batch_size=batch,
        seed=0,
        evaluate_every=STEPS + 1,
        progress=False,
    )
    return mean_step(stamps)


def milliseconds(arrays: Arrays, width: int, rounds: int) -> dict[str, float]:
    """Return the time a step of each candidate in its fastest round."""
    steps = {
        f"{side}, {kind}, batch {batch}": partial(step, arrays, width, batch, kind)
        for batch in BATCHES
        for kind in ("none", *KINDS)
        for side, step in (("official", official), ("ours", ours))
    }
    return {name: round(1e3 * seconds, 3) for name, seconds in least(steps, rounds).items()}


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Return the official recipe's time over ours."""
    return {
        f"{kind}, batch {batch}": round(
            times[f"official, {kind}, batch {batch}"] / times[f"ours, {kind}, batch {batch}"], 3
        )
        for batch in BATCHES
        for kind in ("none", *KINDS)
    }


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    arrays = (
        rng.standard_normal((EXAMPLES, INPUTS), dtype=np.float32),
        rng.integers(CLASSES, size=EXAMPLES),
    )
    times = {f"{width}x{INPUTS}": milliseconds(arrays, width, rounds) for width in WIDTHS}
    return {
        "what": (
            "milliseconds a training step without evaluation, the mean of the fastest round; "
            "ratios: official recipe / ours; one thread, interleaved"
        ),
        "alpha": ALPHA,
        "scale": SCALE,
        "lr": LR,
        "examples": EXAMPLES,
        "steps a round": STEPS,
        "rounds": rounds,
        "milliseconds": times,
        "ratios": {shape: ratios(figures) for shape, figures in times.items()},
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS)
