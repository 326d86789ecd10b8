"""Time networks trained together and one by one: python -m benchmarks.ensemble.

One by one is `train` with `StableNoise`, on one thread, on two, and in a pool of two processes of
one thread each, whose start is not counted. All candidates run in turn, several rounds; the figure
of each is its fastest round, and what is compared is a ratio within the run.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import torch

from benchmarks.timing import command_line, fastest
from heavytail import StableNoise, hidden_weights
from heavytail.experiments.data import Dataset, load
from heavytail.experiments.ensemble import Noise, train_together
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import train

MIXES = {
    "mix": ("shared", "independent", "isotropic"),
    "I": ("shared",),
    "II": ("independent",),
    "III": ("isotropic",),
}
ALPHAS = (1.1, 1.4, 1.75, 1.9)
LR, SCALE, BATCH = 0.05, 1e-3, 100
NETS, WIDTH, STEPS = 32, 200, 40
FEWER = 16  # networks of the comparison of sizes
SIZES = {1: (50, 100, 200, 400, 800, 1600, 3200), 2: (100, 200, 400)}  # widths by depth
ROUNDS = 3

Member = tuple[int, Noise]  # its seed and its noise
Shape = tuple[int, int]  # width and hidden layers


def members(mix: str, n: int) -> list[Member]:
    """Return seeds and noises, the indices in turn within each kind."""
    kinds = MIXES[mix]
    return [
        (
            i,
            Noise(
                alpha=ALPHAS[i // len(kinds) % 4], scale=SCALE, kind=kinds[i % len(kinds)], seed=i
            ),
        )
        for i in range(n)
    ]


def network(shape: Shape, seed: int, data: Dataset) -> FullyConnected:
    """Return a member at its start."""
    generator = torch.Generator().manual_seed(seed)
    width, hidden_layers = shape
    return FullyConnected(
        data.inputs, data.classes, width=width, hidden_layers=hidden_layers, generator=generator
    )


def one_by_one(some: list[Member], shape: Shape, steps: int, threads: int) -> list[torch.Tensor]:
    """Train by optimizers and hooks; return the losses."""
    torch.set_num_threads(threads)
    data, losses = load("digits"), []
    for seed, noise in some:
        model = network(shape, seed, data)
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        StableNoise(
            optimizer,
            hidden_weights(model),
            alpha=noise.alpha,
            scale=noise.scale,
            kind=noise.kind,
            seed=noise.seed,
        )
        options: dict[str, Any] = {"steps": steps, "evaluate_every": steps}
        options |= {"batch_size": BATCH, "seed": seed, "progress": False}
        losses.append(train(model, optimizer, data, **options).losses)
    return losses


def together(some: list[Member], shape: Shape, steps: int, threads: int, batched: bool) -> None:
    """Train the same at once."""
    torch.set_num_threads(threads)
    data = load("digits")
    train_together(
        [network(shape, seed, data) for seed, _ in some],
        data,
        lr=LR,
        noises=[noise for _, noise in some],
        seeds=[seed for seed, _ in some],
        steps=steps,
        batch_size=BATCH,
        batched=batched,
        progress=False,
    )


def in_pool(pool: ProcessPoolExecutor, some: list[Member], shape: Shape, steps: int) -> None:
    """Train the same one by one, each half in a process."""
    halves = [some[::2], some[1::2]]
    for _ in pool.map(partial(one_by_one, shape=shape, steps=steps, threads=1), halves):
        pass


def compared(seconds: dict[str, float], steps: int, n: int) -> dict[str, Any]:
    """Return the times a network and step, with how many times faster together is."""
    times = {name: round(1e6 * each / steps / n, 1) for name, each in seconds.items()}
    mine = times["together, 2 threads"]
    alone = min(times["one by one, 1 thread"], times["one by one, 2 threads"])
    ratios = {"one by one / together": round(alone / mine, 2)}
    if "pool of 2" in times:
        ratios["pool / together"] = round(times["pool of 2"] / mine, 2)
    if "groups of one, 2 threads" in times:
        ratios["groups of one / together"] = round(times["groups of one, 2 threads"] / mine, 2)
    return {"microseconds": times, **ratios}


def kinds(pool: ProcessPoolExecutor, rounds: int) -> dict[str, Any]:
    """Compare by the kind of noise."""
    found = {}
    for mix in MIXES:
        case = members(mix, NETS), (WIDTH, 1), STEPS
        runs: dict[str, Callable[[], object]] = {
            "one by one, 1 thread": partial(one_by_one, *case, 1),
            "one by one, 2 threads": partial(one_by_one, *case, 2),
            "pool of 2": partial(in_pool, pool, *case),
            "together, 1 thread": partial(together, *case, 1, True),
            "together, 2 threads": partial(together, *case, 2, True),
        }
        found[mix] = compared(fastest(runs, rounds), STEPS, NETS)
    return found


def sizes(rounds: int) -> dict[str, Any]:
    """Compare by width, with a mix of kinds: from where on do members gain nothing as a group?"""
    found = {}
    for hidden_layers, widths in SIZES.items():
        for width in widths:
            weights = 64 * width + (hidden_layers - 1) * width**2 + 10 * width
            steps = max(8, min(40, 1_200_000 // weights))
            case = members("mix", FEWER), (width, hidden_layers), steps
            runs: dict[str, Callable[[], object]] = {
                "one by one, 1 thread": partial(one_by_one, *case, 1),
                "one by one, 2 threads": partial(one_by_one, *case, 2),
                "groups of one, 2 threads": partial(together, *case, 2, False),
                "together, 2 threads": partial(together, *case, 2, True),
            }
            row = compared(fastest(runs, rounds), steps, FEWER)
            found[f"{hidden_layers} x {width}"] = {"weights": weights, "steps": steps, **row}
    return found


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        in_pool(pool, members("mix", 2), (WIDTH, 1), 1)  # starts both, and warms them up
        started = time.perf_counter() - start
        together(members("mix", 2), (WIDTH, 1), 1, 2, True)
        by_kind = kinds(pool, rounds)
    return {
        "what": "microseconds a network and step, the fastest of the rounds, interleaved",
        "data": f"digits, batch {BATCH}, one accuracy on the training examples at the end",
        "kinds": {"networks": NETS, "width": WIDTH, "steps": STEPS, **by_kind},
        "sizes": {"networks": FEWER, **sizes(rounds)},
        "rounds": rounds,
        "seconds to start the pool": round(started, 1),
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS)
