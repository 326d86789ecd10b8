r"""The tables of the experiments: which runs each holds, and at which scales of the noise.

Scales are chosen before training. The pruning ratio of the start alone is a floor, about 0.11; that
of noise alone, however large, is a ceiling, which depends on its kind and index and on the width.
``SCALES`` has the two at which the median of :func:`heavytail.predict_pruning` stands halfway
between them, and nine tenths of the way up, by :func:`heavytail.plan_scale` with 200 draws.
``CONTROLS`` has those at which Gaussian noise accumulates to the same median norm,

    sigma (lr K)^{1/2} median ||xi_2|| = sigma' (lr K)^{1/alpha} median ||xi_alpha||.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from heavytail.experiments.results import Config
from heavytail.noise import KINDS

STEPS = {"digits": 2000, "ecg5000": 2000, "mnist": 6000}  # of a run


class Shape(NamedTuple):
    """A network and its noise, as far as the noise's scale depends on them."""

    data: str
    kind: str
    alpha: float = 1.75
    width: int = 2000
    hidden_layers: int = 1


SCALES = {
    Shape("ecg5000", "shared"): (0.00768, 0.0178),
    Shape("ecg5000", "shared", 1.8): (0.00874, 0.0205),
    Shape("ecg5000", "shared", 1.9): (0.011, 0.0269),
    Shape("ecg5000", "independent"): (0.00518, 0.0152),
    Shape("ecg5000", "independent", 1.8): (0.00578, 0.0171),
    Shape("ecg5000", "independent", 1.9): (0.00656, 0.0197),
    Shape("ecg5000", "isotropic"): (0.00707, 0.0209),
    Shape("ecg5000", "isotropic", 1.8): (0.00738, 0.0221),
    Shape("ecg5000", "isotropic", 1.9): (0.00743, 0.0222),
    Shape("ecg5000", "shared", width=10_000): (0.00747, 0.0175),
    Shape("ecg5000", "isotropic", width=10_000): (0.00697, 0.0205),
    Shape("ecg5000", "shared", hidden_layers=2): (0.00382, 0.0129),
    Shape("ecg5000", "shared", hidden_layers=3): (0.00271, 0.011),
    Shape("mnist", "shared"): (0.00173, 0.00401),
    Shape("mnist", "shared", 1.9): (0.00259, 0.00636),
    Shape("mnist", "isotropic"): (0.00161, 0.00471),
    Shape("mnist", "isotropic", 1.9): (0.00187, 0.0056),
    Shape("digits", "shared"): (0.0114, 0.0273),
    Shape("digits", "independent"): (0.00785, 0.0231),
    Shape("digits", "isotropic"): (0.0102, 0.0299),
}

CONTROLS: dict[Shape, tuple[float, ...]] = {
    Shape("ecg5000", "shared"): (0.00959, 0.0222),
    Shape("ecg5000", "independent"): (0.00821, 0.0241),
    Shape("ecg5000", "isotropic"): (0.00828, 0.0245),
    Shape("mnist", "shared"): (0.00234,),
    Shape("mnist", "isotropic"): (0.00203,),
}


@dataclass(frozen=True)
class Table:
    """Runs that belong together."""

    title: str  #: what they show, a line
    paper: tuple[Config, ...]  #: the configurations at full size
    brief: bool = False  #: whether what is told of each layer and fraction is left out

    @property
    def quick(self) -> tuple[Config, ...]:
        """Small runs, minutes on a laptop: two seeds, of indices 1.75 and 2 the first scale."""
        found: dict[Any, Config] = {}
        for config in self.paper:
            if config.alpha in (None, 1.75, 2.0):
                name = (config.data, config.kind, config.alpha, config.hidden_layers)
                found.setdefault(name, _small(config))
        return _seeds(2, *found.values())


def _seeds(n: int, *configs: Config) -> tuple[Config, ...]:
    return tuple(replace(config, seed=seed) for config in configs for seed in range(n))


def _small(config: Config) -> Config:
    """Return a run of a tenth of the width and the steps, and the same sigma (lr K)^{1/alpha}."""
    width, steps = max(16, config.width // 10), max(2, config.steps // 10)
    scale = _three_digits(config.scale * (config.steps / steps) ** (1 / (config.alpha or 1.0)))
    return replace(config, width=width, steps=steps, scale=scale)


def _three_digits(number: float) -> float:
    return float(f"{number:.3g}")


def _noisy(shape: Shape, scale: float) -> Config:
    return Config(**shape._asdict(), scale=scale, steps=STEPS[shape.data])


def _grid(levels: int = 2, **wanted: Any) -> list[Config]:
    """Return runs with heavy-tailed noise: of the shapes wanted, at their first scales."""
    shapes = [shape for shape in SCALES if wanted.items() <= shape._asdict().items()]
    return [_noisy(shape, scale) for shape in shapes for scale in SCALES[shape][:levels]]


def _gaussian(data: str) -> list[Config]:
    shapes = [shape for shape in CONTROLS if shape.data == data]
    return [_noisy(s._replace(alpha=2.0), scale) for s in shapes for scale in CONTROLS[s]]


def _images(data: str, **form: Any) -> tuple[Config, ...]:
    """Return runs on images, at the order of sigma and lr that the paper names."""
    base = Config(data=data, **form, steps=20_000, stop_accuracy=0.95)
    noises = product(("shared", "isotropic"), (1.75, 1.8, 1.9))
    return _seeds(5, base, *(replace(base, kind=k, alpha=a, scale=0.003) for k, a in noises))


def official(kind: str, alpha: float | None, scale: float, width: int = 2000) -> Config:
    """Return our run, seed 0, at a setting of the official code on ECG5000.

    Its type III is smaller than the kind ``"isotropic"`` by sqrt(2), and so is its type I at
    alpha = 2: sigma becomes smaller here, and the law is the same.
    """
    if kind == "isotropic" or alpha == 2:
        scale = _three_digits(scale * math.sqrt(0.5))
    return Config(data="ecg5000", width=width, kind=kind, alpha=alpha, scale=scale)


# Settings at which the official code was run, with its sigma; and those at width 10,000.
OFFICIAL: list[tuple[str, float | None, float]] = [
    ("none", None, 0.0),
    *(("shared", 1.75, scale) for scale in (0.001, 0.003, 0.01, 0.03)),
    *(("shared", alpha, 0.01) for alpha in (1.8, 1.9)),
    ("shared", 1.9, 0.003),
    ("shared", 2.0, 0.01),
    ("independent", 1.75, 0.01),
    *(("isotropic", 1.75, scale) for scale in (0.003, 0.01)),
    ("isotropic", 1.9, 0.01),
]
OFFICIAL_WIDE = [("none", None, 0.0), *product(("shared", "isotropic"), (1.75,), (0.003, 0.01))]


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
    trainings = ((0.001, 500), (0.01, 200), (0.01, 1000), (0.1, 300), (0.1, 1000))
    for (lr, steps), kind in product(trainings, KINDS):
        scale = round(0.02 * (lr * steps) ** (-1 / alpha), 5)
        law: dict[str, Any] = {"kind": kind, "alpha": alpha, "scale": scale}
        found.append(Config(data="mnist", lr=lr, steps=steps, **law))
    loud = Config(data="ecg5000", kind="shared", alpha=alpha, scale=0.01)
    found += [replace(loud, steps=20_000), replace(loud, lr=0.1), replace(loud, lr=0.3)]
    found.append(replace(loud, hidden_layers=2))
    return tuple(replace(config, seed=seed) for seed, config in enumerate(found))


_mnist = partial(_grid, 1, data="mnist", alpha=1.75)
_ECG, _MNIST = (Config(data=data, steps=STEPS[data]) for data in ("ecg5000", "mnist"))

TABLES: dict[str, Table] = {
    "digits-table": Table(
        "Digits, one hidden layer of 2000: needs no download",
        _seeds(3, Config(data="digits"), *_grid(data="digits")),
    ),
    "ecg5000-table": Table(
        "ECG5000, one hidden layer of 2000: kinds, indices and scales",
        _seeds(5, _ECG, *_grid(data="ecg5000", width=2000, hidden_layers=1)),
    ),
    "ecg5000-gaussian": Table(
        "The same with Gaussian noise of the same median norm",
        _seeds(5, *_gaussian("ecg5000")),
    ),
    "ecg5000-wide": Table(
        "ECG5000, one hidden layer of 10,000",
        _seeds(3, replace(_ECG, width=10_000), *_grid(width=10_000)),
    ),
    "mnist-table": Table(
        "MNIST, all images, one hidden layer of 2000",
        _seeds(3, _MNIST, *_grid(1, data="mnist"), *_gaussian("mnist")),
    ),
    "mnist-centred": Table(
        "MNIST with the mean of each image taken away: type I moves nothing",
        _seeds(3, *(replace(c, data="mnist-centred") for c in (_MNIST, *_mnist(kind="shared")))),
    ),
    "ecg5000-deep": Table(
        "ECG5000, two and three hidden layers of 2000",
        _seeds(
            3,
            *(replace(_ECG, hidden_layers=layers) for layers in (2, 3)),
            *(config for layers in (2, 3) for config in _grid(1, hidden_layers=layers)),
        ),
    ),
    "official": Table(
        "The settings at which the official code was run",
        _seeds(60, *(official(*setting) for setting in OFFICIAL)),
        brief=True,
    ),
    "official-wide": Table(
        "The same at width 10,000",
        _seeds(30, *(official(*setting, width=10_000) for setting in OFFICIAL_WIDE)),
        brief=True,
    ),
    "prediction": Table(
        "The pruning ratio before training and after: each run with a start and noise of its own",
        _prediction(),
        brief=True,
    ),
    "mnist-wide": Table(
        "MNIST, one hidden layer of 10,000",
        _seeds(3, *(replace(config, width=10_000) for config in (_MNIST, *_mnist()))),
    ),
    "cifar10-vgg11": Table(
        "CIFAR-10, the wide VGG-11", _images("cifar10", network="vgg11", width=128)
    ),
    **{
        f"{data}-table": Table(f"{title}, one hidden layer of 5000", _images(data, width=5000))
        for data, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
    },
}
