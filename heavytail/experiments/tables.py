"""The tables of the experiments: which runs each holds."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from heavytail import _check
from heavytail.experiments.results import Config
from heavytail.experiments.scales import CONTROLS, SCALES, STEPS, Shape, three_digits
from heavytail.noise import KINDS

SIZES = ("quick", "paper")


@dataclass(frozen=True)
class Table:
    """Runs that belong together.

    Attributes:
        title: what they show, a line.
        paper: the runs at full size.
        quick: the same question in some minutes on a laptop.
        brief: whether a record of it leaves out what is told of each layer and each fraction.
    """

    title: str
    paper: tuple[Config, ...]
    quick: tuple[Config, ...]
    brief: bool = False

    def configs(self, size: str) -> tuple[Config, ...]:
        """Return the runs of a size, ``"quick"`` or ``"paper"``."""
        return self.paper if _check.one_of("size", size, SIZES) == "paper" else self.quick


def _noisy(shape: Shape, scale: float, alpha: float | None = None) -> Config:
    """Return a run of a shape, seed 0; ``alpha`` in place of the shape's."""
    return Config(
        data=shape.data,
        width=shape.width,
        hidden_layers=shape.hidden_layers,
        kind=shape.kind,
        alpha=shape.alpha if alpha is None else alpha,
        scale=scale,
        steps=STEPS[shape.data],
    )


def _seeds(configs: Iterable[Config], n: int) -> tuple[Config, ...]:
    """Return each run with n seeds."""
    return tuple(replace(config, seed=seed) for config in configs for seed in range(n))


def _quick(configs: Iterable[Config]) -> tuple[Config, ...]:
    """Return small runs, of each two seeds: without noise, and at the first scale of a noise.

    Of the indices 1.75 and 2 only.
    """
    found: dict[Any, Config] = {}
    for config in configs:
        if config.alpha in (None, 1.75, 2.0):
            name = (config.kind, config.alpha, config.hidden_layers, config.network, config.data)
            found.setdefault(name, _small(config))
    return _seeds(found.values(), 2)


def _small(config: Config) -> Config:
    """Return a run of a tenth of the width and the steps, and the same sigma (lr K)^{1/alpha}."""
    width, steps = max(16, config.width // 10), max(2, config.steps // 10)
    scale = three_digits(config.scale * (config.steps / steps) ** (1 / (config.alpha or 1.0)))
    return replace(config, width=width, steps=steps, scale=scale)


def _table(title: str, configs: Iterable[Config], seeds: int, brief: bool = False) -> Table:
    every = list(configs)
    return Table(title, _seeds(every, seeds), _quick(every), brief)


def _grid(wanted: Callable[[Shape], bool], levels: int = 2) -> list[Config]:
    """Return runs with heavy-tailed noise: of the shapes wanted, at their first scales."""
    return [
        _noisy(shape, scale)
        for shape, scales in SCALES.items()
        if wanted(shape)
        for scale in scales[:levels]
    ]


def _gaussian(data: str) -> list[Config]:
    """Return the controls of a data set."""
    return [
        _noisy(shape, scale, alpha=2.0)
        for shape, scales in CONTROLS.items()
        if shape.data == data
        for scale in scales
    ]


def official(kind: str, alpha: float | None, scale: float, width: int = 2000) -> Config:
    """Return our run, seed 0, at a setting of the official code on ECG5000.

    Its type III is smaller than the kind ``"isotropic"`` by sqrt(2), and so is its type I at
    alpha = 2: sigma becomes smaller here, and the law is the same.

    Args:
        kind: of the noise, or ``"none"``.
        alpha: its index in (0, 2]; None without noise.
        scale: sigma of the official code, >= 0.
        width: columns of the hidden layer.
    """
    if kind == "isotropic" or alpha == 2:
        scale = three_digits(scale * math.sqrt(0.5))
    return Config(data="ecg5000", width=width, kind=kind, alpha=alpha, scale=scale)


def _official() -> list[Config]:
    """Return the settings at which the official code was run."""
    found = [official("none", None, 0.0)]
    found += [official("shared", 1.75, scale) for scale in (0.001, 0.003, 0.01, 0.03)]
    found += [official("shared", alpha, 0.01) for alpha in (1.8, 1.9)]
    found += [official("shared", 1.9, 0.003), official("shared", 2.0, 0.01)]
    found += [official("independent", 1.75, 0.01)]
    found += [
        official("isotropic", alpha, scale)
        for alpha, scale in ((1.75, 0.003), (1.75, 0.01), (1.9, 0.01))
    ]
    return found


def _official_wide() -> list[Config]:
    """Return those of its settings that were run at width 10,000."""
    noises: list[tuple[str, float | None, float]] = [("none", None, 0.0)]
    noises += [(k, 1.75, s) for k in ("shared", "isotropic") for s in (0.003, 0.01)]
    return [official(*noise, width=10_000) for noise in noises]


def _images(data: str, network: str, width: int) -> list[Config]:
    """Return runs on images, at the order of sigma and lr that the paper names."""
    base = Config(data=data, network=network, width=width, steps=20_000, stop_accuracy=0.95)
    return [
        base,
        *(
            replace(base, kind=kind, alpha=alpha, scale=0.003)
            for kind, alpha in product(("shared", "isotropic"), (1.75, 1.8, 1.9))
        ),
    ]


def _deep(layers: int) -> Config:
    return Config(data="ecg5000", hidden_layers=layers)


def _prediction() -> tuple[Config, ...]:
    """Return runs that each have a seed of their own.

    First those to which the prediction applies; then some whose gradients add more and more beside
    the same noise, and some with longer training, a larger learning rate or a second layer.
    """
    alpha = 1.75
    found = [
        Config(data="ecg5000", kind=kind, alpha=alpha, scale=scale)
        for _, kind, scale in product(range(5), KINDS, (0.003, 0.01, 0.03))
    ]
    for (lr, steps), kind in product(
        ((0.001, 500), (0.01, 200), (0.01, 1000), (0.1, 300), (0.1, 1000)), KINDS
    ):
        law: dict[str, Any] = {"kind": kind, "alpha": alpha, "lr": lr, "steps": steps}
        law["scale"] = round(0.02 * (lr * steps) ** (-1 / alpha), 5)
        found.append(Config(data="mnist", **law))
    loud = Config(data="ecg5000", kind="shared", alpha=alpha, scale=0.01)
    found += [
        replace(loud, steps=20_000),
        replace(loud, lr=0.1),
        replace(loud, lr=0.3),
        replace(loud, hidden_layers=2),
    ]
    return tuple(replace(config, seed=seed) for seed, config in enumerate(found))


_PREDICTION = _prediction()
_MNIST = Config(data="mnist", steps=STEPS["mnist"])
_SHARED = Shape("mnist", "shared", 1.75)

TABLES: dict[str, Table] = {
    "ecg5000-table": _table(
        "ECG5000, one hidden layer of 2000: kinds, indices and scales",
        [
            Config(data="ecg5000"),
            *_grid(lambda s: (s.data, s.width, s.hidden_layers) == ("ecg5000", 2000, 1)),
        ],
        5,
    ),
    "ecg5000-gaussian": _table(
        "The same with Gaussian noise of the same median norm", _gaussian("ecg5000"), 5
    ),
    "ecg5000-wide": _table(
        "ECG5000, one hidden layer of 10,000",
        [Config(data="ecg5000", width=10_000), *_grid(lambda s: s.width == 10_000)],
        3,
    ),
    "mnist-table": _table(
        "MNIST, all images, one hidden layer of 2000",
        [_MNIST, *_grid(lambda s: s.data == "mnist", 1), *_gaussian("mnist")],
        3,
    ),
    "mnist-centred": _table(
        "MNIST with the mean of each image taken away: type I moves nothing",
        [
            replace(config, data="mnist-centred")
            for config in (_MNIST, _noisy(_SHARED, SCALES[_SHARED][0]))
        ],
        3,
    ),
    "ecg5000-deep": _table(
        "ECG5000, two and three hidden layers of 2000",
        [_deep(2), _deep(3), *_grid(lambda s: s.hidden_layers > 1, 1)],
        3,
    ),
    "official": _table("The settings at which the official code was run", _official(), 60, True),
    "official-wide": _table(
        "The same at width 10,000",
        _official_wide(),
        30,
        True,
    ),
    "prediction": Table(
        "The pruning ratio before training and after: each run with a start and noise of its own",
        _PREDICTION,
        tuple(map(_small, (*_PREDICTION[:9], *_PREDICTION[-7:]))),
        True,
    ),
    "mnist-wide": _table(
        "MNIST, one hidden layer of 10,000",
        [
            replace(config, width=10_000)
            for config in (_MNIST, *_grid(lambda s: s.data == "mnist" and s.alpha == 1.75, 1))
        ],
        3,
    ),
    "cifar10-vgg11": _table("CIFAR-10, the wide VGG-11", _images("cifar10", "vgg11", 128), 5),
    "cifar10-table": _table(
        "CIFAR-10, one hidden layer of 5000", _images("cifar10", "fully_connected", 5000), 5
    ),
    "cifar100-table": _table(
        "CIFAR-100, one hidden layer of 5000", _images("cifar100", "fully_connected", 5000), 5
    ),
}


def cost(configs: Iterable[Config], seconds: Callable[[Config], float]) -> float:
    """Return the seconds that runs will take one after another, their training alone.

    Args:
        configs: of the runs.
        seconds: a step's, of a configuration; asked once for each form of a step.
    """
    known: dict[Config, float] = {}
    total = 0.0
    for config in configs:
        stop = None if config.stop_accuracy is None else 1.0
        form = replace(config, seed=0, steps=1, scale=float(config.scale > 0), stop_accuracy=stop)
        if form.alpha is not None:
            form = replace(form, alpha=1.75)
        if form not in known:
            known[form] = seconds(config)
        total += known[form] * config.steps
    return total
