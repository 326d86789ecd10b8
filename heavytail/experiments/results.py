"""A run's configuration and its result, and how both are read from JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin

import numpy as np

from heavytail import _check
from heavytail.experiments import data
from heavytail.experiments.train import Score
from heavytail.noise import KINDS

ERROR = 0.1**0.5  # relative error allowed in each layer: its square is 0.1
FRACTIONS = (*(i / 10 for i in range(10)), 0.95, 0.98, 0.99, 0.995, 1.0)  # of columns, removed
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)  # of the quantiles of the norms
HILL = (0.01, 0.02, 0.05, 0.1)  # k / n of Hill's estimator


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run: plain SGD on the cross-entropy, with noise on the hidden weights.

    Two configurations that differ in their noise only have the same start and the same batches.
    Numbers of any type become plain ones, so that equal configurations have equal names in a store.
    A value outside the sets below is a TypeError or a ValueError.
    """

    data: str  #: a name that :func:`heavytail.experiments.data.load` knows
    network: str = "fully_connected"  #: or ``"vgg11"``, whose first convolution gets no noise
    #: columns a hidden layer, >= 1; of ``"vgg11"`` the filters of its first layer, 128 in the paper
    width: int = 2000
    hidden_layers: int = 1  #: >= 1; 1 for ``"vgg11"``, whose depth is fixed
    kind: str = "none"  #: or ``"shared"``, ``"independent"``, ``"isotropic"``
    alpha: float | None = None  #: stability index in (0, 2]; None for no noise
    scale: float = 0.0  #: sigma >= 0, in the unit of the weights over lr^{1/alpha}
    lr: float = 0.01  #: learning rate in (0, 1e38], below the largest float32
    steps: int = 2000  #: the most steps taken, >= 1
    batch_size: int = 100  #: examples a step, >= 1
    #: of all training examples, in [0, 1], at which training stops; looked at every 100 steps
    stop_accuracy: float | None = None
    seed: int = 0  #: in [0, 2^64)

    def __post_init__(self) -> None:
        _check.one_of("data", self.data, data.NAMES)
        _check.one_of("network", self.network, ("fully_connected", "vgg11"))
        _check.one_of("kind", self.kind, ("none", *KINDS))
        counts = ("width", "hidden_layers", "steps", "batch_size")
        plain: dict[str, Any] = {n: _check.count(n, getattr(self, n), 1) for n in counts}
        if self.network == "vgg11" and self.hidden_layers != 1:
            raise ValueError(f"hidden_layers must be 1 for vgg11, got {self.hidden_layers}")
        plain["lr"] = _check.number("lr", self.lr, "(0, 1e38]")
        plain["scale"] = _check.number("scale", self.scale, _check.NONNEGATIVE)
        plain["seed"] = _check.seed("seed", self.seed)
        if self.stop_accuracy is not None:
            plain["stop_accuracy"] = _check.number("stop_accuracy", self.stop_accuracy, "[0, 1]")
        if self.kind != "none":
            plain["alpha"] = _check.number("alpha", self.alpha, "(0, 2]")
        elif self.alpha is not None or self.scale != 0:
            got = f"{self.alpha} and {self.scale:g}"
            raise ValueError(f"alpha must be None and scale 0 without noise, got {got}")
        vars(self).update(plain)


@dataclass(frozen=True)
class Pruned:
    """A network at one fraction of columns removed in each layer."""

    fraction: float  #: removed, in [0, 1]
    error: float  #: relative error over all pruned layers; the norm, not its square
    test: Score  #: on the test examples


@dataclass(frozen=True)
class Layer:
    """The columns of one pruned layer."""

    name: str  #: of the layer
    columns: int  #: how many
    ratio: float  #: fraction of them that can go at squared error 0.1
    norms: tuple[float, ...]  #: quantiles of their norms, at ``LEVELS``
    #: Hill's estimate of their index, of the ``HILL`` times n largest; None where it is not defined
    hill: tuple[float | None, ...]
    #: maximum-likelihood estimate of the index of W_K - W_0 along (1, ..., 1) / sqrt(d), and its
    #: standard error: of N it is alpha. None without noise on it, or where it is not defined
    noise_index: tuple[float, float] | None


@dataclass(frozen=True)
class Noise:
    """What the noise of a run did, apart from the gradients."""

    replayed: float  #: fraction of all columns that can go in W_0 + N
    predicted: tuple[float, float, float]  #: its 5, 50 and 95 % quantiles, with other noise
    norm: float  #: of the noise, ||N||_F over the noisy weights, in the unit of ||W_0||_F
    span: float | None  #: of the first layer, see :func:`heavytail.experiments.runs.seen`
    gain: float | None  #: likewise; both None for convolutions


@dataclass(frozen=True)
class Result:
    """What came of a run; of one that diverged, no more than steps and device."""

    diverged: int | None  #: step at which a loss or a weight was first seen not to be finite
    steps: int  #: number of steps taken
    train: Score | None = None  #: of the trained network on the training examples
    test: Score | None = None  #: on the test examples
    ratio: float | None = None  #: of all columns that can go at squared error 0.1 in each layer
    pruned_train: Score | None = None  #: on the training examples with these columns gone
    pruned_test: Score | None = None  #: on the test examples
    curve: tuple[Pruned, ...] | None = None  #: at each of ``FRACTIONS``; None in some records
    layers: tuple[Layer, ...] | None = None  #: in the model's order; likewise
    gradient: float | None = None  #: its size, ||G||_F / ||W_0||_F over the hidden weights
    noise: Noise | None = None  #: None without, or where its replay is not finite or rounds to 0
    step_seconds: float | None = None  #: of the steps since the last break, measurements included
    device: str | None = None  #: ``"cpu"`` or the name of a GPU; None in early records

    @property
    def inside(self) -> bool:
        """Whether the ratio lies between the 5 and 95 % quantiles of its prediction."""
        if self.noise is None or self.ratio is None:
            raise ValueError("ratio and noise must be there: the run diverged, or had no noise")
        return self.noise.predicted[0] <= self.ratio <= self.noise.predicted[2]

    def accuracy_without(self, fraction: float) -> float:
        """Return the test accuracy with a fraction of columns removed: linear on the curve."""
        if self.curve is None:
            raise ValueError("curve must be there: the run diverged, or its record has none")
        fractions = [point.fraction for point in self.curve]
        scores = [point.test.accuracy for point in self.curve]
        return float(np.interp(_check.number("fraction", fraction, "[0, 1]"), fractions, scores))


def decode(entry: Mapping[str, Any]) -> tuple[Config, Result]:
    """Return configuration and result of an entry of a store or a record."""
    return Config(**entry["config"]), _built(Result, entry["result"])


def _built(form: Any, value: Any) -> Any:
    """Return what JSON holds as the type that a dataclass above asks for."""
    if form is float:
        return math.nan if value is None else float(value)  # of 0.5, "nan" or "inf"
    if isinstance(form, type) and is_dataclass(form):
        types = {part.name: part.type for part in fields(form)}
        return form(**{name: _built(types[name], part) for name, part in value.items()})
    if value is None or not get_args(form):
        return value
    first = get_args(form)[0]  # and all parts of a tuple are of this type
    if get_origin(form) is tuple:
        return tuple(_built(first, part) for part in value)
    return _built(first, value)
