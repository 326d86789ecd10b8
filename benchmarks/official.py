"""Run the paper's official code: python -m benchmarks.official CHECKOUT --record FILE.

CHECKOUT is a clone of github.com/mbarsbey/implicit-compressibility. Its `main.py` runs as it stands
but for three lines: the noise is seeded too, its scale is not left out on a CPU, and the trained
weights are kept in place of the pickled network. It needs pandas and torchvision.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

import heavytail
from heavytail.experiments.data import Dataset, load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.records import origin
from heavytail.experiments.results import ERROR
from heavytail.experiments.tables import OFFICIAL, OFFICIAL_WIDE
from heavytail.experiments.train import accuracy, spawn_seeds, train

TYPES = {"none": 0, "shared": 1, "independent": 2, "isotropic": 3}
MENDED = {
    "torch.manual_seed(args.seed)": "torch.manual_seed(args.seed); np.random.seed(args.seed)",
    "add_(torch.from_numpy(noise))": "add_(torch.from_numpy(iterate_noise_scale * noise))",
    "torch.save(net, args.save_dir + '/net.pyT')": "torch.save(net.state_dict(), 'weights.pt')",
}
STEPS = "our steps to 95 % of the training examples, no noise, width 2000, seeds 0 to 9"


def run(main: list[str], folder: Path, task: Dataset, width: int) -> tuple[float, float, float]:
    """Return ratio and accuracies, before pruning and after, of a run of the script."""
    words = f"--dataset ecg5000 --width {width} --lr 0.01 --batch_size_train 100 --no_cuda"
    words += " --iterations 2000 --eval_freq 2001 --convergence_accuracy 101"  # it never stops
    subprocess.run([*main, *words.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    weights = torch.load(folder / "weights.pt", weights_only=True).values()
    model = FullyConnected(task.inputs, task.classes, width=width)
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    whole = accuracy(model, task.x_test, task.y_test)
    ratio = heavytail.prune(model, error=ERROR).ratio
    return ratio, 100 * whole, 100 * accuracy(model, task.x_test, task.y_test)


def row(
    folder: Path, task: Dataset, setting: tuple[str, float | None, float], width: int, seeds: int
) -> dict[str, Any]:
    """Return the figures of a setting over its seeds."""
    kind, alpha, scale = setting
    main = [sys.executable, "main.py", "--iterate_noise", str(TYPES[kind])]
    main += ["--iterate_noise_alpha", str(alpha or 1.9), "--iterate_noise_scale", str(scale)]
    found = [run([*main, "--seed", str(s)], folder, task, width) for s in range(1, seeds + 1)]
    ratios, tests, pruned = zip(*found, strict=True)
    ends = {"mean": mean(ratios), "min": min(ratios), "max": max(ratios)}
    figures = {name: round(ratio, 3) for name, ratio in ends.items()}
    figures |= {"test": round(mean(tests), 2), "pruned": round(mean(pruned), 2), "seeds": seeds}
    return {"kind": kind, "alpha": alpha, "scale": scale, **figures, "width": width}


def steps_to_95(task: Dataset, seed: int) -> int:
    """Return our steps until 95 % of the training examples are right, without noise."""
    start, _, batches, _ = spawn_seeds(seed, 4)
    source = torch.Generator().manual_seed(start)
    model = FullyConnected(task.inputs, task.classes, width=2000, generator=source)
    options: dict[str, Any] = {"stop_accuracy": 0.95, "evaluate_every": 1, "progress": False}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return train(model, optimizer, task, steps=99, batch_size=100, seed=batches, **options).steps


def record(checkout: Path, seeds: int) -> dict[str, Any]:
    """Return what the record says; the mended script lives in a folder of its own meanwhile."""
    task, script = load("ecg5000").flat(), (checkout / "main.py").read_text(encoding="utf-8")
    for line, mended in MENDED.items():
        if line not in script:
            raise ValueError(f"{checkout}/main.py must hold {line!r}: it is of another commit")
        script = script.replace(line, mended)
    os.environ["PYTHONPATH"] = str(checkout.absolute())  # of the modules beside it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.py").write_text(script, encoding="utf-8")
        (folder / "data" / "ECG5000").mkdir(parents=True)
        for part in ("X_train", "y_train", "X_test", "y_test"):
            array = getattr(task, part.lower()).numpy()
            np.save(folder / "data" / "ECG5000" / f"{part}.npy", array)
        settings = [(s, 2000) for s in OFFICIAL] + [(s, 10_000) for s in OFFICIAL_WIDE]
        runs = [row(folder, task, *each, seeds) for each in settings]
    return {
        "what": "the paper's official code on ECG5000: pruning ratios at squared error 0.1 and "
        "test accuracies in percent",
        "how": "its commit b0363c1 with the noise seeded, and scaled on a CPU too; one hidden "
        f"layer, lr 0.01, batch 100, 2000 steps; seeds 1 to {seeds}",
        STEPS: [steps_to_95(task, seed) for seed in range(10)],
        **origin("torchvision"),
        "runs": runs,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    text = json.dumps(record(options.checkout, options.seeds), indent=1)
    options.record.write_text(text + "\n", encoding="utf-8")
