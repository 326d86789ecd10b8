r"""Hold the pruning ratio predicted before training against trained networks.

``python -m heavytail.experiments.prediction --record FILE`` runs the study of the book and writes
each run as soon as it is done; runs that FILE holds already are not repeated.

A trained weight is the start plus the noise plus what the gradients added,

    W_K = W_0 + (noise of all steps) + G.

:func:`replay` gives the first two terms of a run exactly, from its own start and the seed of its
noise; G is what is left, and ||G||_F / ||W_0||_F its share. The prediction of
:func:`heavytail.predict_pruning` draws other noise in place of the run's own.
"""

import argparse
import copy
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import heavytail
from heavytail.experiments._files import write_text
from heavytail.experiments.data import Dataset, load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.provenance import origin
from heavytail.experiments.train import accuracy, spawn_seeds, train

ERROR = 0.1**0.5  # relative error allowed in each layer: its square is 0.1


@dataclass(frozen=True)
class Setting:
    """One run: a fully connected net, trained by plain SGD with noise on its hidden weights.

    Attributes:
        data: a name that :func:`heavytail.experiments.data.load` knows.
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        scale: sigma >= 0, in the unit of the weights over lr^{1/alpha}.
        seed: of the start, the noise and the batches together.
        alpha: stability index in (0, 2].
        lr: learning rate.
        steps: number of steps.
        batch_size: examples a step.
        width: columns a hidden layer.
        hidden_layers: number of hidden layers.
    """

    data: str
    kind: str
    scale: float
    seed: int
    alpha: float = 1.75
    lr: float = 0.01
    steps: int = 2000
    batch_size: int = 100
    width: int = 2000
    hidden_layers: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of a run. Ratios are fractions of columns that can go, squared error 0.1 a layer.

    Attributes:
        ratio: of the trained network.
        replayed: of its start plus its own noise, without any gradient.
        predicted: the 5, 50 and 95 % quantiles of the prediction, from the start alone.
        gradient_share: ||G||_F / ||W_0||_F over all hidden weights.
        test_accuracy: of the trained network, in [0, 1].
        pruned_accuracy: of the same, pruned.
    """

    ratio: float
    replayed: float
    predicted: tuple[float, float, float]
    gradient_share: float
    test_accuracy: float
    pruned_accuracy: float

    @property
    def inside(self) -> bool:
        """Whether the trained ratio lies between the 5 and 95 % quantiles of the prediction."""
        return self.predicted[0] <= self.ratio <= self.predicted[2]


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


def compare(setting: Setting, data: Dataset, *, draws: int = 400) -> Outcome:
    """Train a network, and predict and replay its pruning ratio.

    Args:
        setting: what to run.
        data: the data set of ``setting.data``, loaded.
        draws: repetitions behind the prediction, >= 1.
    """
    start_seed, noise_seed, batch_seed, draw_seed = spawn_seeds(setting.seed, 4)
    start = FullyConnected(
        data.inputs,
        data.classes,
        width=setting.width,
        hidden_layers=setting.hidden_layers,
        generator=torch.Generator().manual_seed(start_seed),
    )
    law: dict[str, Any] = {
        "alpha": setting.alpha,
        "scale": setting.scale,
        "kind": setting.kind,
        "lr": setting.lr,
        "steps": setting.steps,
    }
    generator = torch.Generator().manual_seed(draw_seed)
    prediction = heavytail.predict_pruning(
        start, error=ERROR, draws=draws, generator=generator, **law
    )
    without = replay(start, seed=noise_seed, **law)

    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr)
    weights = heavytail.hidden_weights(model)
    heavytail.StableNoise(
        optimizer,
        weights,
        alpha=setting.alpha,
        scale=setting.scale,
        kind=setting.kind,
        seed=noise_seed,
    )
    train(
        model,
        optimizer,
        data,
        steps=setting.steps,
        batch_size=setting.batch_size,
        seed=batch_seed,
        evaluate_every=max(1, setting.steps),
        progress=False,
    )
    W_0, W_K, noisy = (_hidden_vector(some) for some in (start, model, without))
    share = float((W_K - noisy).norm() / W_0.norm())
    before = accuracy(model, data.x_test, data.y_test)
    ratio = heavytail.prune(model, error=ERROR).ratio
    low, middle, high = (prediction.quantile(p) for p in (0.05, 0.5, 0.95))
    return Outcome(
        ratio=ratio,
        replayed=heavytail.prune(without, error=ERROR).ratio,
        predicted=(low, middle, high),
        gradient_share=share,
        test_accuracy=before,
        pruned_accuracy=accuracy(model, data.x_test, data.y_test),
    )


def _hidden_vector(model: nn.Module) -> torch.Tensor:
    """Return all hidden weights in one vector, float64."""
    weights = heavytail.hidden_weights(model)
    return nn.utils.parameters_to_vector(weights).detach().double()


def read(path: Path) -> list[tuple[Setting, Outcome]]:
    """Return the runs of a recorded study."""
    return [
        (Setting(**run["setting"]), Outcome(**run["outcome"]))
        for run in json.loads(path.read_text())["runs"]
    ]


def study() -> list[Setting]:
    """Return the runs of the book: the trusted regime, then what should break it."""
    kinds = heavytail.noise.KINDS
    seeds = iter(range(10_000))  # each run has a start and noise of its own
    settings = [
        Setting("ecg5000", kind, scale, next(seeds))
        for _, kind, scale in product(range(5), kinds, (0.003, 0.01, 0.03))
    ]
    # The share of the gradients grows from run to run here, the accumulated noise stays the same.
    for (lr, steps), kind in product(
        ((0.001, 500), (0.01, 200), (0.01, 1000), (0.1, 300), (0.1, 1000)), kinds
    ):
        scale = round(0.02 * (lr * steps) ** (-1 / 1.75), 5)
        settings.append(Setting("mnist", kind, scale, next(seeds), lr=lr, steps=steps))
    settings += [
        Setting("ecg5000", "shared", 0.01, next(seeds), steps=steps, lr=lr, hidden_layers=layers)
        for steps, lr, layers in (
            (20_000, 0.01, 1),
            (2000, 0.1, 1),
            (2000, 0.3, 1),
            (2000, 0.01, 2),
        )
    ]
    return settings


def record(path: Path, settings: Iterable[Setting]) -> None:
    """Run what the file does not hold yet, and write it after each run, in one move."""
    done = json.loads(path.read_text())["runs"] if path.exists() else []
    known = [run["setting"] for run in done]
    missing = [setting for setting in settings if asdict(setting) not in known]
    loaded = cache(load)
    for setting in tqdm(missing, unit="run"):
        outcome = compare(setting, loaded(setting.data))
        done.append({"setting": asdict(setting), "outcome": asdict(outcome), **origin()})
        content = {
            "what": "pruning ratios at squared error 0.1: trained, replayed, predicted before",
            "runs": done,
            "command": f"python -m heavytail.experiments.prediction --record {path}",
        }
        write_text(path, json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Run the study, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, required=True, help="the JSON file to go on with")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    record(arguments.record, study())


if __name__ == "__main__":
    main()
