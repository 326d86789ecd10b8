r"""The tables of the experiments: which runs each holds, and a row for each setting.

Scales are chosen before training. The pruning ratio of the start alone is a floor, about 0.11; that
of noise alone, however large, is a ceiling, which depends on its kind and index and on the width.
``SCALES`` has the two at which the median of :func:`heavytail.predict_pruning` stands halfway
between them, and nine tenths of the way up, by :func:`heavytail.plan_scale` with 200 draws.
``CONTROLS`` has those at which Gaussian noise accumulates to the same median norm,

    sigma (lr K)^{1/2} median ||xi_2|| = sigma' (lr K)^{1/alpha} median ||xi_alpha||.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean, stdev
from typing import Any, NamedTuple

from heavytail.experiments.results import Config, Result
from heavytail.noise import KINDS, NUMERALS

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
    Shape("ecg5000", "shared", 2.0): (0.00959, 0.0222),
    Shape("ecg5000", "independent", 2.0): (0.00821, 0.0241),
    Shape("ecg5000", "isotropic", 2.0): (0.00828, 0.0245),
    Shape("mnist", "shared", 2.0): (0.00234,),
    Shape("mnist", "isotropic", 2.0): (0.00203,),
}


@dataclass(frozen=True)
class Table:
    """Runs that belong together."""

    title: str  #: what they show, a line
    paper: tuple[Config, ...]  #: the configurations at full size

    @property
    def quick(self) -> tuple[Config, ...]:
        """Small runs, minutes on a laptop: two seeds, of indices 1.75 and 2 the first scale.

        They have a tenth of the width and the steps, and the same sigma (lr K)^{1/alpha}.
        """
        found: dict[Any, Config] = {}
        for config in self.paper:
            name = (config.data, config.kind, config.alpha, config.hidden_layers)
            if config.alpha in (None, 1.75, 2.0) and name not in found:
                width, steps = max(16, config.width // 10), max(2, config.steps // 10)
                scale = config.scale * (config.steps / steps) ** (1 / (config.alpha or 1.0))
                found[name] = replace(config, width=width, steps=steps, scale=float(f"{scale:.3g}"))
        return _seeds(2, *found.values())


def _seeds(n: int, *configs: Config) -> tuple[Config, ...]:
    return tuple(replace(config, seed=seed) for config in configs for seed in range(n))


def _grid(
    levels: int = 2, scales: Mapping[Shape, tuple[float, ...]] = SCALES, **wanted: Any
) -> list[Config]:
    """Return runs with noise: of the shapes wanted, at their first scales."""
    return [
        Config(**shape._asdict(), scale=scale, steps=STEPS[shape.data])
        for shape in scales
        if wanted.items() <= shape._asdict().items()
        for scale in scales[shape][:levels]
    ]


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
        scale = float(f"{scale * math.sqrt(0.5):.3g}")
    return Config(data="ecg5000", width=width, kind=kind, alpha=alpha, scale=scale)


# Settings at which the official code was run, with its sigma; and those at width 10,000.
OFFICIAL: list[tuple[str, float | None, float]] = [
    ("none", None, 0.0),
    *(("shared", 1.75, scale) for scale in (0.001, 0.003, 0.01, 0.03)),
    *(("shared", a, s) for a, s in ((1.8, 0.01), (1.9, 0.01), (1.9, 0.003), (2.0, 0.01))),
    ("independent", 1.75, 0.01),
    *(("isotropic", a, s) for a, s in ((1.75, 0.003), (1.75, 0.01), (1.9, 0.01))),
]
OFFICIAL_WIDE = [("none", None, 0.0), *product(("shared", "isotropic"), (1.75,), (0.003, 0.01))]


def _prediction() -> tuple[Config, ...]:
    """Return runs that each have a seed of their own.

    First those to which the prediction applies; then some whose gradients add more and more beside
    the same noise, and some with longer training, a larger learning rate or a second layer.
    """
    ecg = Config(data="ecg5000", kind="shared", alpha=1.75, scale=0.01)
    grid = product(range(5), KINDS, (0.003, 0.01, 0.03))
    found = [replace(ecg, kind=kind, scale=scale) for _, kind, scale in grid]
    trainings = ((0.001, 500), (0.01, 200), (0.01, 1000), (0.1, 300), (0.1, 1000))
    for (lr, steps), kind in product(trainings, KINDS):
        scale = round(0.02 * (lr * steps) ** (-1 / 1.75), 5)
        found.append(replace(ecg, data="mnist", kind=kind, scale=scale, lr=lr, steps=steps))
    found += [replace(ecg, steps=20_000), replace(ecg, lr=0.1), replace(ecg, lr=0.3)]
    found.append(replace(ecg, hidden_layers=2))
    return tuple(replace(config, seed=seed) for seed, config in enumerate(found))


_ECG, _MNIST = Config(data="ecg5000"), Config(data="mnist", steps=STEPS["mnist"])
_FEW = [_MNIST, *_grid(1, data="mnist", alpha=1.75)]  # no noise, and types I and III

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
        _seeds(5, *_grid(scales=CONTROLS, data="ecg5000")),
    ),
    "ecg5000-wide": Table(
        "ECG5000, one hidden layer of 10,000",
        _seeds(3, replace(_ECG, width=10_000), *_grid(width=10_000)),
    ),
    "mnist-table": Table(
        "MNIST, all images, one hidden layer of 2000",
        _seeds(3, _MNIST, *_grid(1, data="mnist"), *_grid(scales=CONTROLS, data="mnist")),
    ),
    "mnist-centred": Table(
        "MNIST with the mean of each image taken away: type I moves nothing",
        _seeds(3, *(replace(config, data="mnist-centred") for config in _FEW[:2])),
    ),
    "ecg5000-deep": Table(
        "ECG5000, two and three hidden layers of 2000",
        _seeds(
            3,
            *(replace(_ECG, hidden_layers=layers) for layers in (2, 3)),
            *_grid(1, hidden_layers=2),
            *_grid(1, hidden_layers=3),
        ),
    ),
    "official": Table(
        "The settings at which the official code was run",
        _seeds(60, *(official(*setting) for setting in OFFICIAL)),
    ),
    "official-wide": Table(
        "The same at width 10,000",
        _seeds(30, *(official(*setting, width=10_000) for setting in OFFICIAL_WIDE)),
    ),
    "prediction": Table(
        "The pruning ratio before training and after: each run with a start and noise of its own",
        _prediction(),
    ),
    "mnist-wide": Table(
        "MNIST, one hidden layer of 10,000",
        _seeds(3, *(replace(config, width=10_000) for config in _FEW)),
    ),
    "cifar10-vgg11": Table(
        "CIFAR-10, the wide VGG-11", _images("cifar10", network="vgg11", width=128)
    ),
    "cifar10-table": Table("CIFAR-10, one hidden layer of 5000", _images("cifar10", width=5000)),
    "cifar100-table": Table("CIFAR-100, one hidden layer of 5000", _images("cifar100", width=5000)),
}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and its standard error, nan of a single one or if the mean is infinite."""

    mean: float
    stderr: float

    def text(self, digits: int, factor: float = 1.0) -> str:
        """Return both with so many digits behind the point."""
        spread = "" if math.isnan(self.stderr) else f" ± {factor * self.stderr:.{digits}f}"
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed only."""

    config: Config  #: of all of them, with seed 0
    results: tuple[Result, ...]  #: of those that are there, in the order of their seeds

    @property
    def finished(self) -> tuple[Result, ...]:
        """Those that did not diverge."""
        return tuple(result for result in self.results if result.diverged is None)

    def estimate(self, measure: Callable[[Any], float]) -> Estimate | None:
        """Return the mean of a measure over the finished runs, None if there are none."""
        values = [measure(result) for result in self.finished]
        if not values:
            return None
        spreads = len(values) > 1 and math.isfinite(sum(values))
        return Estimate(mean(values), stdev(values) / len(values) ** 0.5 if spreads else math.nan)

    def text(self, measure: Callable[[Any], float], digits: int, factor: float = 1.0) -> str:
        """Return that mean and its standard error, "–" if no run finished."""
        found = self.estimate(measure)
        return found.text(digits, factor) if found else "–"

    def noise(self) -> list[str]:
        """Return kind, alpha and sigma."""
        alpha = "–" if self.config.alpha is None else f"{self.config.alpha:g}"
        return [NUMERALS.get(self.config.kind, "none"), alpha, f"{self.config.scale:g}"]

    def predicted(self, digits: int) -> str:
        """Return the predicted median and band of the ratio, means over the runs."""
        bands = [result.noise.predicted for result in self.finished if result.noise is not None]
        if not bands:
            return "–"
        low, middle, high = (f"{mean(band):.{digits}f}" for band in zip(*bands, strict=True))
        return f"{middle} [{low}, {high}]"


def rows(configs: Iterable[Config], results: Iterable[tuple[Config, Result]]) -> list[Row]:
    """Return a row for each setting of a table, in its order, empty where nothing is recorded.

    Of a store's results, in any order, those of other configurations are left out.
    """
    known = dict(results)
    found: dict[Config, list[Result]] = defaultdict(list)
    for config in configs:
        found[replace(config, seed=0)] += [known[config]] if config in known else []
    return [Row(setting, tuple(some)) for setting, some in found.items()]


COLUMNS = ["setting", "noise", "α", "σ", "runs", "ratio", "predicted", "test accuracy, %"]
COLUMNS += ["after pruning, %"]


def cells(row: Row) -> list[str]:
    """Return a row as text, in the order of ``COLUMNS``; "not yet" where there are no runs."""
    config, diverged = row.config, len(row.results) - len(row.finished)
    setting = f"{config.data}, {config.network.replace('_', ' ')}, {config.width:,}"
    if config.hidden_layers > 1:
        setting += f" × {config.hidden_layers}"
    found = [
        row.text(lambda result: result.ratio, 3),
        row.predicted(3),
        row.text(lambda result: result.test.accuracy, 2, 100),
        row.text(lambda result: result.pruned_test.accuracy, 2, 100),
    ]
    runs = f"{len(row.results)}" + (f", {diverged} diverged" if diverged else "")
    return [setting, *row.noise(), runs, *(found if row.results else ["not yet"] * len(found))]
