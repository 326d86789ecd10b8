r"""The tables of the experiments: which runs each holds, and what it says of them.

The scale of the noise is chosen before training, by :func:`heavytail.plan_scale`. The pruning ratio
of the start alone is a floor, about 0.11; that of noise alone, however large, is a ceiling, which
depends on its kind and index and on the width. ``SCALES`` has for each the two scales at which the
predicted median stands halfway between the two, and nine tenths of the way up.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean, stdev
from typing import Any

import torch

import heavytail
from heavytail import _checks
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.prediction import ERROR
from heavytail.experiments.runs import Config, Result

SIZES = ("quick", "paper")
WAY = (0.5, 0.9)  # of the way from the floor to the ceiling

_INPUTS = {"ecg5000": (140, 2), "mnist": (784, 10)}
_STEPS = {"ecg5000": 2000, "mnist": 6000}


@dataclass(frozen=True)
class Shape:
    """A network and its training, as far as the noise's scale depends on them.

    Attributes:
        data: ``"ecg5000"`` or ``"mnist"``.
        kind: of the noise.
        alpha: stability index in (0, 2).
        width: columns a hidden layer.
        hidden_layers: number of hidden layers.
    """

    data: str
    kind: str
    alpha: float
    width: int = 2000
    hidden_layers: int = 1


def shapes() -> list[Shape]:
    """Return what ``SCALES`` has scales for."""
    found = [
        Shape("ecg5000", kind, alpha)
        for kind, alpha in product(heavytail.noise.KINDS, (1.75, 1.8, 1.9))
    ]
    found += [Shape("ecg5000", kind, 1.75, width=10_000) for kind in ("shared", "isotropic")]
    found += [Shape("ecg5000", "shared", 1.75, hidden_layers=layers) for layers in (2, 3)]
    found += [
        Shape("mnist", kind, alpha) for kind, alpha in product(("shared", "isotropic"), (1.75, 1.9))
    ]
    return found


def plan(shape: Shape, *, draws: int = 200) -> tuple[float, ...]:
    """Return the scales of a shape, to three digits: those of ``SCALES``, up to their draws.

    Args:
        shape: of the run.
        draws: repetitions behind each median, >= 1.
    """
    inputs, outputs = _INPUTS[shape.data]
    model = FullyConnected(
        inputs,
        outputs,
        width=shape.width,
        hidden_layers=shape.hidden_layers,
        generator=torch.Generator().manual_seed(0),
    )

    law: dict[str, Any] = {"alpha": shape.alpha, "kind": shape.kind, "lr": 0.01, "error": ERROR}
    law |= {"steps": _STEPS[shape.data], "draws": draws}

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    floor, ceiling = (
        heavytail.predict_pruning(model, scale=scale, generator=generator(), **law).quantile(0.5)
        for scale in (0.0, 1e6)
    )
    ratios = (floor + way * (ceiling - floor) for way in WAY)
    return tuple(
        _short(heavytail.plan_scale(model, ratio=ratio, generator=generator(), **law))
        for ratio in ratios
    )


def gaussian_scale(shape: Shape, scale: float) -> float:
    """Return the scale at which alpha = 2 accumulates noise of the same median norm.

    Args:
        shape: of the run with heavy tails.
        scale: its sigma.
    """
    d, steps = _INPUTS[shape.data][0], _STEPS[shape.data]

    def median(alpha: float) -> float:
        generator = torch.Generator().manual_seed(2)
        xi = heavytail.noise_vectors(
            shape.kind, alpha, 100_000, d, generator=generator, dtype=torch.float64
        )
        return float(xi.norm(dim=1).median())

    time = 0.01 * steps
    ratio = time ** (1 / shape.alpha) * median(shape.alpha) / (time**0.5 * median(2.0))
    return _short(scale * ratio)


def _short(number: float) -> float:
    return float(f"{number:.3g}")


# (half way, nine tenths of the way): those of `python -m heavytail.experiments plan` up to draws.
SCALES: dict[Shape, tuple[float, ...]] = {
    Shape("ecg5000", "shared", 1.75): (0.00768, 0.0178),
    Shape("ecg5000", "shared", 1.8): (0.00874, 0.0205),
    Shape("ecg5000", "shared", 1.9): (0.011, 0.0269),
    Shape("ecg5000", "independent", 1.75): (0.00518, 0.0152),
    Shape("ecg5000", "independent", 1.8): (0.00578, 0.0171),
    Shape("ecg5000", "independent", 1.9): (0.00656, 0.0197),
    Shape("ecg5000", "isotropic", 1.75): (0.00707, 0.0209),
    Shape("ecg5000", "isotropic", 1.8): (0.00738, 0.0221),
    Shape("ecg5000", "isotropic", 1.9): (0.00743, 0.0222),
    Shape("ecg5000", "shared", 1.75, 10_000): (0.00747, 0.0175),
    Shape("ecg5000", "isotropic", 1.75, 10_000): (0.00697, 0.0205),
    Shape("ecg5000", "shared", 1.75, 2000, 2): (0.00382, 0.0129),
    Shape("ecg5000", "shared", 1.75, 2000, 3): (0.00271, 0.011),
    Shape("mnist", "shared", 1.75): (0.00173, 0.00401),
    Shape("mnist", "shared", 1.9): (0.00259, 0.00636),
    Shape("mnist", "isotropic", 1.75): (0.00161, 0.00471),
    Shape("mnist", "isotropic", 1.9): (0.00187, 0.0056),
}

# Scales at alpha = 2 whose noise has the median norm of that of SCALES at alpha = 1.75.
CONTROLS: dict[tuple[str, str], tuple[float, ...]] = {
    ("ecg5000", "shared"): (0.00959, 0.0222),
    ("ecg5000", "independent"): (0.00821, 0.0241),
    ("ecg5000", "isotropic"): (0.00828, 0.0245),
    ("mnist", "shared"): (0.00234,),
    ("mnist", "isotropic"): (0.00203,),
}


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
        return self.paper if _checks.one_of("size", size, SIZES) == "paper" else self.quick


def _noisy(shape: Shape, scale: float, alpha: float | None = None) -> Config:
    """Return a run of a shape, seed 0; ``alpha`` in place of the shape's."""
    return Config(
        data=shape.data,
        width=shape.width,
        hidden_layers=shape.hidden_layers,
        kind=shape.kind,
        alpha=shape.alpha if alpha is None else alpha,
        scale=scale,
        steps=_STEPS[shape.data],
    )


def _seeds(configs: Iterable[Config], n: int) -> tuple[Config, ...]:
    """Return each run with n seeds."""
    return tuple(replace(config, seed=seed) for config in configs for seed in range(n))


def _quick(configs: Iterable[Config]) -> tuple[Config, ...]:
    """Return small runs with the noise of large ones: sigma (lr K)^{1/alpha} is kept.

    Of each two seeds; without noise, or with alpha = 1.75 or 2 at the first of its scales.
    """
    found: dict[Any, Config] = {}
    for config in configs:
        if config.alpha not in (None, 1.75, 2.0):
            continue
        width, steps = max(16, config.width // 10), max(2, config.steps // 10)
        alpha = config.alpha or 1.0
        scale = _short(config.scale * (config.steps / steps) ** (1 / alpha))
        small = replace(config, width=width, steps=steps, scale=scale, seed=0)
        name = (config.kind, config.alpha, config.hidden_layers, config.network, config.data)
        found.setdefault(name, small)
    return _seeds(found.values(), 2)


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
        _noisy(Shape(name, kind, 1.75), scale, alpha=2.0)
        for (name, kind), scales in CONTROLS.items()
        if name == data
        for scale in scales
    ]


def _official() -> list[Config]:
    """Return the settings at which the official code was run, with its laws.

    Its type III is smaller by sqrt(2), and so is its type I at alpha = 2.
    """
    root = math.sqrt(0.5)
    noises: list[tuple[str, float | None, float]] = [("none", None, 0.0)]
    noises += [("shared", 1.75, scale) for scale in (0.001, 0.003, 0.01, 0.03)]
    noises += [("shared", alpha, 0.01) for alpha in (1.8, 1.9)]
    noises += [("shared", 1.9, 0.003), ("shared", 2.0, _short(0.01 * root))]
    noises += [("independent", 1.75, 0.01)]
    noises += [
        ("isotropic", alpha, _short(scale * root))
        for alpha, scale in ((1.75, 0.003), (1.75, 0.01), (1.9, 0.01))
    ]
    return [Config(data="ecg5000", kind=k, alpha=a, scale=s) for k, a, s in noises]


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


_MNIST = Config(data="mnist", steps=_STEPS["mnist"])

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
            for config in (_MNIST, _noisy(Shape("mnist", "shared", 1.75), 0.00173))
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
        [
            replace(config, width=10_000)
            for config in _official()
            if (config.kind, config.alpha, config.scale)
            in {
                ("none", None, 0.0),
                ("shared", 1.75, 0.003),
                ("shared", 1.75, 0.01),
                ("isotropic", 1.75, 0.00212),
                ("isotropic", 1.75, 0.00707),
            }
        ],
        30,
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


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and its standard error, nan of a single one."""

    mean: float
    stderr: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Return that of some numbers, at least one."""
        spread = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(mean(values), spread)

    def text(self, digits: int, factor: float = 1.0) -> str:
        """Return mean and standard error with so many digits behind the point."""
        spread = "" if math.isnan(self.stderr) else f" ± {factor * self.stderr:.{digits}f}"
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed only.

    Attributes:
        config: of the first.
        results: of all of them that are there.
    """

    config: Config
    results: tuple[Result, ...]

    @property
    def finished(self) -> tuple[Result, ...]:
        """Those that did not diverge."""
        return tuple(result for result in self.results if result.diverged is None)

    def estimate(self, measure: Callable[[Result], float]) -> Estimate | None:
        """Return the mean of a measure over the finished runs, None if there are none."""
        values = [measure(result) for result in self.finished]
        return Estimate.of(values) if values else None


def rows(configs: Iterable[Config], results: Iterable[tuple[Config, Result]]) -> list[Row]:
    """Return a row for each setting of a table, in its order, empty where nothing is recorded.

    Args:
        configs: of the table.
        results: of a store or a record, in any order; others than the table's are left out.
    """
    known = dict(results)
    found: dict[Config, list[Result]] = defaultdict(list)
    for config in configs:
        setting = replace(config, seed=0)
        found[setting] += [known[config]] if config in known else []
    return [Row(setting, tuple(some)) for setting, some in found.items()]


COLUMNS = (
    "setting",
    "noise",
    "α",
    "σ",
    "runs",
    "ratio",
    "predicted",
    "test accuracy, %",
    "after pruning, %",
)


def cells(row: Row) -> list[str]:
    """Return a row as text, in the order of ``COLUMNS``; "not yet" where there are no runs."""
    config = row.config
    setting = f"{config.data}, {config.network.replace('_', ' ')}, {config.width:,}"
    if config.hidden_layers > 1:
        setting += f" × {config.hidden_layers}"
    noise = {"none": "none", "shared": "I", "independent": "II", "isotropic": "III"}[config.kind]
    head = [setting, noise, f"{config.alpha or '–'}", f"{config.scale:g}"]
    diverged = len(row.results) - len(row.finished)
    runs = f"{len(row.results)}" + (f", {diverged} diverged" if diverged else "")
    if not row.finished:
        return [*head, runs, *["not yet" if not row.results else "–"] * 4]
    ratio = row.estimate(lambda r: r.ratio or 0.0)
    whole = row.estimate(lambda r: math.nan if r.test is None else r.test.accuracy)
    cut = row.estimate(lambda r: math.nan if r.pruned_test is None else r.pruned_test.accuracy)
    assert ratio is not None
    assert whole is not None
    assert cut is not None
    bands = [r.noise.predicted for r in row.finished if r.noise is not None]
    low, middle, high = (mean(b[i] for b in bands) if bands else math.nan for i in range(3))
    predicted = f"{middle:.3f} [{low:.3f}, {high:.3f}]" if bands else "–"
    return [*head, runs, ratio.text(3), predicted, whole.text(2, 100), cut.text(2, 100)]


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
