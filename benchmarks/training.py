"""Time whole training steps: python -m benchmarks.training.

The recipe of the paper's official script over ours, on data of the shape of ECG5000: one hidden
layer, ReLU, 2 classes, float32, SGD, one thread, no evaluation. A step is all from one update to
the next: loading the batch, forward and backward pass, what is logged, the step, the noise. Both
sides run in turn, several rounds; the figure of each is the mean step of its fastest round, and
what is compared is a ratio within the run.
"""

import time
from functools import partial
from itertools import chain, islice
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


def official(arrays: Arrays, width: int, batch: int, kind: str) -> float:
    """Return the mean seconds a step of the official recipe, as re-enacted here."""
    torch.manual_seed(0)
    hidden = nn.Linear(INPUTS, width, bias=False)
    model = nn.Sequential(hidden, nn.ReLU(inplace=True), nn.Linear(width, CLASSES, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    loader = DataLoader(Examples(arrays), batch_size=batch, shuffle=True)
    add_noise = host_recipe(hidden.get_parameter("weight"), kind) if kind != "none" else None
    batches = chain.from_iterable(iter(lambda: loader, None))  # epoch after epoch
    stamps, log = [], []
    for x, y in islice(batches, STEPS + 1):
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
    return (stamps[-1] - stamps[0]) / STEPS  # the first step warms up


def ours(arrays: Arrays, width: int, batch: int, kind: str) -> float:
    """Return the mean seconds a step of heavytail's training loop and noise."""
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
    options: dict[str, Any] = {"steps": STEPS + 1, "evaluate_every": STEPS + 1, "seed": 0}
    train(model, optimizer, data, batch_size=batch, **options, progress=False)
    return (stamps[-1] - stamps[0]) / STEPS


def milliseconds(arrays: Arrays, width: int, rounds: int) -> dict[str, float]:
    """Return the time a step of each candidate in its fastest round."""
    steps = {
        f"{side.__name__}, {kind}, batch {batch}": partial(side, arrays, width, batch, kind)
        for batch in BATCHES
        for kind in ("none", *KINDS)
        for side in (official, ours)
    }
    return {name: round(1e3 * seconds, 3) for name, seconds in least(steps, rounds).items()}


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((EXAMPLES, INPUTS), dtype=np.float32)
    arrays = x, rng.integers(CLASSES, size=EXAMPLES)
    times = {f"{width}x{INPUTS}": milliseconds(arrays, width, rounds) for width in WIDTHS}
    ratios = {
        shape: {
            name.removeprefix("ours, "): round(found["official" + name[4:]] / found[name], 3)
            for name in found
            if name.startswith("ours")
        }
        for shape, found in times.items()
    }
    return {
        "what": "milliseconds a training step, no evaluation; ratios: official recipe / ours",
        **{"alpha": ALPHA, "scale": SCALE, "lr": LR, "examples": EXAMPLES},
        **{"rounds": rounds, "milliseconds": times, "ratios": ratios},
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS)
