"""Time and weigh a network before and after: python -m benchmarks.compaction.

A network of 10,000 columns is trained on ECG5000 with heavy-tailed noise, pruned at a squared
error of 0.1, and made smaller: by its columns, and by its singular values. Inference is that of a
batch of 500 on one thread; all candidates run in turn, several rounds, and the figure of each is
its fastest.
"""

import copy
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

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
    every: dict[str, Any] = {"steps": STEPS, "evaluate_every": STEPS}
    train(model, optimizer, data, batch_size=BATCH, seed=2, progress=False, **every)
    return model.eval()


def parameters(model: nn.Module) -> int:
    """Return the number of weights a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def file_size(model: nn.Module) -> int:
    """Return the bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(model.state_dict(), path)
        return path.stat().st_size


def milliseconds(models: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, float]:
    """Return the time of inference of each."""
    with torch.inference_mode():
        best = fastest({name: partial(model, x) for name, model in models.items()}, rounds)
    return {name: round(1000 * seconds, 3) for name, seconds in best.items()}


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
    times = milliseconds(models, x, rounds)
    with torch.inference_mode():
        before, after = masked(x), models["compact"](x)
    apart = float((before - after).abs().max() / before.abs().max())
    rows = {
        name: {
            "parameters": parameters(model),
            "file, bytes": file_size(model),
            "milliseconds": times[name],
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
    return {
        "what": f"inference of {EXAMPLES} examples, one thread, the fastest of {rounds} rounds",
        "data": "ecg5000",
        "width": WIDTH,
        "steps": STEPS,
        "lr": LR,
        "batch": BATCH,
        "alpha": ALPHA,
        "scale": SCALE,
        "error": ERROR,
        "seeds": {"start": 0, "noise": 1, "batches": 2},
        "kinds": {kind: case(kind, data, rounds) for kind in ("shared", "isotropic")},
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS, peers=("safetensors",))
