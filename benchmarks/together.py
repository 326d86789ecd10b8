"""Time networks trained together and one by one: python -m benchmarks.together.

One by one is what `train` with `StableNoise` takes. All candidates run in turn, several rounds; the
figure of each is its fastest round, and what is compared is a ratio within the run.
"""

from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from benchmarks.timing import command_line, fastest
from heavytail import StableNoise, hidden_weights
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.together import Noise, train_together
from heavytail.experiments.train import train
from heavytail.noise import KINDS

ALPHAS = (1.1, 1.4, 1.75, 1.9)
LR, SCALE, BATCH, NETWORKS = 0.05, 1e-3, 100, 32
SHAPES = {  # hidden layers and width
    "the kinds in turn": [(1, 50), (1, 200), (1, 800), (1, 1600), (2, 100), (2, 400)],
    **{kind: [(1, 200)] for kind in KINDS},
}
WORDS = ("one by one", "together")
ROUNDS = 5


def run(kinds: tuple[str, ...], shape: tuple[int, int], steps: int, *, together: bool) -> None:
    """Train the networks on the digits."""
    data, options = load("digits"), dict[str, Any](hidden_layers=shape[0], width=shape[1])
    sources = [torch.Generator().manual_seed(seed) for seed in range(NETWORKS)]
    models = [FullyConnected(64, 10, **options, generator=source) for source in sources]
    noises = [
        Noise(alpha=ALPHAS[i // len(kinds) % 4], scale=SCALE, kind=kinds[i % len(kinds)], seed=i)
        for i in range(NETWORKS)
    ]
    sizes: dict[str, Any] = {"steps": steps, "batch_size": BATCH, "progress": False}
    if together:
        train_together(models, data, lr=LR, noises=noises, seeds=range(NETWORKS), **sizes)
        return
    for seed, (model, noise) in enumerate(zip(models, noises, strict=True)):
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        StableNoise(optimizer, hidden_weights(model), **asdict(noise))
        train(model, optimizer, data, seed=seed, **sizes, evaluate_every=steps)


def compared(name: str, shape: tuple[int, int], threads: int, rounds: int) -> dict[str, float]:
    """Return microseconds a network and step, and how many times faster together is."""
    torch.set_num_threads(threads)
    layers, width = shape
    weights = 74 * width + (layers - 1) * width**2
    steps = max(8, min(40, 1_000_000 // weights))
    kinds = (name,) if name in KINDS else KINDS
    runs = {word: partial(run, kinds, shape, steps, together=word == "together") for word in WORDS}
    alone, together = (1e6 * t / steps / NETWORKS for t in fastest(runs, rounds).values())
    figures = zip(WORDS, (round(alone, 1), round(together, 1)), strict=True)
    return {"weights": weights, **dict(figures), "ratio": round(alone / together, 2)}


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    return {
        "what": f"microseconds a network and step, {NETWORKS} networks; digits, batch {BATCH}",
        "rounds": rounds,
        **{
            f"{threads} thread{'s' * (threads > 1)}": {
                f"{name}, {layers} x {width}": compared(name, (layers, width), threads, rounds)
                for name, shapes in SHAPES.items()
                for layers, width in shapes
            }
            for threads in (1, 2)
        },
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS)
