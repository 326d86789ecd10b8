"""Time and weigh a network before and after: python -m benchmarks.compaction.

A network of 10,000 columns is trained on ECG5000 with heavy-tailed noise, pruned at a squared
error of 0.1, and cut to its columns. Inference is that of a batch of 500 on one thread; all
candidates run in turn, several rounds, and the figure of each is its fastest.
"""

import copy
import math
from functools import partial
from typing import Any

import torch
from safetensors.torch import save

import heavytail
from benchmarks.timing import command_line, fastest
from heavytail.experiments.data import Dataset, load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import accuracy, train

WIDTH, STEPS, LR, BATCH = 10_000, 2000, 0.01, 100
ALPHA, SCALE, ERROR = 1.75, 0.01, math.sqrt(0.1)
EXAMPLES, ROUNDS = 500, 25


def trained(kind: str, data: Dataset) -> FullyConnected:
    """Return a network trained with noise of a kind."""
    generator = torch.Generator().manual_seed(0)
    model = FullyConnected(data.inputs, data.classes, width=WIDTH, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    weights = heavytail.hidden_weights(model)
    heavytail.StableNoise(optimizer, weights, alpha=ALPHA, scale=SCALE, kind=kind, seed=1)
    batches: dict[str, Any] = {"batch_size": BATCH, "seed": 2, "progress": False}
    train(model, optimizer, data, steps=STEPS, evaluate_every=STEPS, **batches)
    return model.eval()


def case(kind: str, data: Dataset, rounds: int) -> dict[str, Any]:
    """Return what becomes of a network trained with noise of a kind."""
    dense = trained(kind, data)
    masked = copy.deepcopy(dense)
    report = heavytail.prune(masked, error=ERROR)
    models = {
        "dense": dense,
        "masked": masked,
        "compact": heavytail.compact(masked),
        "compact, exact size": heavytail.compact(masked, multiple_of=1),
    }
    x = data.x_train[torch.arange(EXAMPLES) % len(data.x_train)]
    with torch.inference_mode():
        times = fastest({name: partial(model, x) for name, model in models.items()}, rounds)
        before, after = masked(x), models["compact"](x)
    apart = float((before - after).abs().max() / before.abs().max())
    rows = {
        name: {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "file, bytes": len(save(model.state_dict())),
            "milliseconds": round(1000 * times[name], 3),
            "time / dense": round(times[name] / times["dense"], 3),
            "test accuracy": round(accuracy(model, data.x_test, data.y_test), 4),
        }
        for name, model in models.items()
    }
    return {
        "columns kept": report.kept,
        "fraction kept": round(report.kept / report.units, 4),
        "relative error": round(report.error, 4),
        "largest difference of outputs, compact and masked": f"{apart:.1e}",
        "models": rows,
    }


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    data = load("ecg5000")
    torch.set_num_threads(1)
    settings = {"width": WIDTH, "steps": STEPS, "lr": LR, "batch": BATCH}
    return {
        "what": f"inference of {EXAMPLES} examples, one thread, the fastest of {rounds} rounds",
        "data": "ecg5000",
        **settings | {"alpha": ALPHA, "scale": SCALE, "error": ERROR},
        "seeds": {"start": 0, "noise": 1, "batches": 2},
        "kinds": {kind: case(kind, data, rounds) for kind in ("shared", "isotropic")},
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS, peers=("safetensors",))
