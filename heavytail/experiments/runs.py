r"""One configuration, one result: a network trained, measured, pruned and measured again.

All that is measured is measured on one iterate, the weights after the last step and its noise:

    W_K = W_0 + N + G,

with the start W_0, the noise of all steps N and what the gradients added, G. N is known to the bit,
from the seed of the noise, so that the three parts can be told apart
(:func:`heavytail.experiments.prediction.replay`).
"""

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import heavytail
from heavytail import _checks
from heavytail.experiments import data
from heavytail.experiments.models import VGG11, FullyConnected
from heavytail.experiments.prediction import ERROR, replay
from heavytail.experiments.train import (
    DivergenceError,
    Score,
    accuracy,
    score,
    spawn_seeds,
    train,
)
from heavytail.noise import KINDS

NETWORKS = ("fully_connected", "vgg11")
FRACTIONS = (*(i / 10 for i in range(10)), 0.95, 0.98, 0.99, 0.995, 1.0)  # of columns, removed
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)  # of the quantiles of the norms
HILL = (0.01, 0.02, 0.05, 0.1)  # k / n of Hill's estimator

_DRAWS = 200  # behind a prediction
_LOOK = 100  # steps between two looks at the accuracy, where training stops at one


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run: plain SGD on the cross-entropy, with noise on the hidden weights.

    A seed stands for start, noise and batches together, each drawn apart. Two configurations that
    differ in their noise only have the same start and the same batches.

    Attributes:
        data: a name that :func:`heavytail.experiments.data.load` knows.
        network: ``"fully_connected"`` or ``"vgg11"``.
        width: columns a hidden layer, an integer >= 1; of ``"vgg11"`` the filters of its first
            layer, 128 in the paper, to which the other layers are in proportion.
        hidden_layers: >= 1; 1 for ``"vgg11"``, whose depth is fixed.
        kind: ``"none"``, ``"shared"``, ``"independent"`` or ``"isotropic"``. The first
            convolution of ``"vgg11"`` gets no noise.
        alpha: stability index in (0, 2]; None for no noise.
        scale: sigma >= 0, in the unit of the weights over lr^{1/alpha}; 0 for no noise.
        lr: learning rate > 0.
        steps: the most steps taken, >= 1.
        batch_size: examples a step, >= 1.
        stop_accuracy: of all training examples, in [0, 1], at which training stops; looked at
            every 100 steps. None: after ``steps``.
        seed: >= 0.

    Integers of numpy are taken for integers, and an integer for a real number: equal
    configurations have equal names in a store.

    Raises:
        TypeError, ValueError: on a value outside the sets above.
    """

    data: str
    network: str = "fully_connected"
    width: int = 2000
    hidden_layers: int = 1
    kind: str = "none"
    alpha: float | None = None
    scale: float = 0.0
    lr: float = 0.01
    steps: int = 2000
    batch_size: int = 100
    stop_accuracy: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _checks.one_of("data", self.data, data.NAMES)
        _checks.one_of("network", self.network, NETWORKS)
        _checks.one_of("kind", self.kind, ("none", *KINDS))
        plain: dict[str, Any] = {
            name: _checks.count(name, getattr(self, name), 1)
            for name in ("width", "hidden_layers", "steps", "batch_size")
        }
        if self.network == "vgg11" and self.hidden_layers != 1:
            raise ValueError(f"hidden_layers must be 1 for vgg11, got {self.hidden_layers}")
        plain["lr"] = _checks.positive("lr", self.lr)
        plain["scale"] = _checks.nonnegative("scale", self.scale)
        plain["seed"] = _checks.seed("seed", self.seed)
        if self.stop_accuracy is not None:
            plain["stop_accuracy"] = _checks.fraction("stop_accuracy", self.stop_accuracy)
        if self.kind == "none":
            if self.alpha is not None or self.scale != 0:
                raise ValueError(
                    "alpha must be None and scale 0 without noise, got "
                    f"{self.alpha} and {self.scale:g}"
                )
        elif self.alpha is None:
            raise ValueError(f"alpha must be in (0, 2] for noise of kind {self.kind}, got None")
        else:
            plain["alpha"] = _checks.index("alpha", self.alpha, 2)
        for name, value in plain.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Pruned:
    """A network at one fraction of columns removed in each layer.

    Attributes:
        fraction: removed, in [0, 1].
        error: relative error over all pruned layers; the norm, not its square.
        test: its score on the test examples.
    """

    fraction: float
    error: float
    test: Score


@dataclass(frozen=True)
class Layer:
    """The columns of one pruned layer.

    Attributes:
        name: of the layer.
        columns: how many.
        ratio: fraction of them that can go at squared error 0.1.
        norms: quantiles of their norms, at ``LEVELS``.
        hill: Hill's estimate of the index of the norms, with the k = ``HILL`` times n largest;
            None where it is not defined.
        noise_index: maximum-likelihood estimate of the index of W_K - W_0, projected on the
            direction (1, ..., 1) / sqrt(d), and its standard error: of N it is alpha. None
            without noise on the layer, or where it is not defined.
    """

    name: str
    columns: int
    ratio: float
    norms: tuple[float, ...]
    hill: tuple[float | None, ...]
    noise_index: tuple[float, float] | None


@dataclass(frozen=True)
class Noise:
    """What the noise of a run did, apart from the gradients.

    Attributes:
        replayed: fraction of all columns that can go in W_0 + N.
        predicted: 5, 50 and 95 % quantiles of that fraction, with other noise than the run's.
        norm: ||N||_F over the noisy weights, in the unit of ||W_0||_F.
        span: ||N P||_F / ||N||_F in the first layer, P being the projection on the span of the
            training examples: the part of the noise that the network can see. None for
            convolutions.
        gain: ||N X^T||_F sqrt(d) / (||N||_F ||X||_F) in the first layer, X being the training
            examples: how much it moves the pre-activations, 1 in mean square for isotropic
            noise.
    """

    replayed: float
    predicted: tuple[float, float, float]
    norm: float
    span: float | None
    gain: float | None


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        diverged: the step at which a loss or a weight was first seen to be no finite number;
            None if none was. What follows is None then.
        steps: number of steps taken.
        train: score of the trained network on the training examples.
        test: on the test examples.
        ratio: fraction of all columns that can go at squared error 0.1 in each layer: the
            pruning ratio.
        pruned_train: score on the training examples with these columns gone.
        pruned_test: on the test examples.
        curve: scores at each of ``FRACTIONS``, removed in each layer.
        layers: of the pruned layers, in the model's order.
        gradient: ||G||_F / ||W_0||_F over the hidden weights.
        noise: None without noise, or where its replay is not finite, or rounds to nothing.
        step_seconds: time a step, all steps and the measurements between them together; of a run
            that was resumed, those since then.
    """

    diverged: int | None
    steps: int
    train: Score | None = None
    test: Score | None = None
    ratio: float | None = None
    pruned_train: Score | None = None
    pruned_test: Score | None = None
    curve: tuple[Pruned, ...] | None = None
    layers: tuple[Layer, ...] | None = None
    gradient: float | None = None
    noise: Noise | None = None
    step_seconds: float | None = None


def run(
    config: Config,
    checkpoint: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    threads: int | None = 1,
    progress: bool = False,
) -> Result:
    """Train a network and measure it.

    On a CPU the result depends on the configuration and the number of threads, to the bit on one
    machine, up to ``step_seconds``.

    Args:
        config: what to run.
        checkpoint: where training keeps its state, see
            :func:`heavytail.experiments.train.train`; None keeps none.
        device: where to run.
        threads: of torch on a CPU, while this runs; None leaves them as they are.
        progress: show a progress bar where the output is a terminal.
    """
    with _threads(threads):
        task = _loaded(config.data, config.network, torch.device(device))
        try:
            model, steps, seconds = _trained(config, task, checkpoint, progress)
        except DivergenceError as divergence:
            return Result(diverged=divergence.step, steps=divergence.step)
        return _measured(config, task, model, steps, seconds)


def step_seconds(
    config: Config, *, device: torch.device | str = "cpu", threads: int | None = 1, steps: int = 12
) -> float:
    """Return the time of a training step, from a few of them.

    Where training stops at an accuracy, with a step's share in the looks at it.
    """
    with _threads(threads):
        whole = _loaded(config.data, config.network, torch.device(device))
        few = slice(config.batch_size)  # the measurement at the end takes its share of the time
        task = replace(whole, x_train=whole.x_train[few], y_train=whole.y_train[few])
        faint = min(config.scale, 1e-9)  # a wild draw must not end it
        for number in (1, steps):  # the first one warms up
            probe = replace(config, steps=number, scale=faint, stop_accuracy=None)
            model, _, seconds = _trained(probe, task, None, False)
        if config.stop_accuracy is not None:
            began = perf_counter()
            accuracy(model, task.x_train, task.y_train)
            looks = len(whole.x_train) / len(task.x_train) / _LOOK
            seconds += (perf_counter() - began) * looks
        return seconds


_gate = threading.Lock()
_inside: list[int] = []  # of the runs of this process: the number of threads each found


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Let torch have so many threads for a while; the last of several runs puts them back."""
    with _gate:
        _inside.append(torch.get_num_threads())
        torch.set_num_threads(threads or _inside[-1])
    try:
        yield
    finally:
        with _gate:
            before = _inside[0]
            _inside[:] = [before] * (len(_inside) - 1)
            if not _inside:
                torch.set_num_threads(before)


def _trained(
    config: Config, task: data.Dataset, checkpoint: Path | None, progress: bool
) -> tuple[nn.Module, int, float]:
    """Return the network after training, the number of steps taken and the seconds of one."""
    start_seed, noise_seed, batch_seed, _ = spawn_seeds(config.seed, 4)
    model = _network(config, task, start_seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    resumable = {}
    if config.alpha is not None:
        resumable["noise"] = heavytail.StableNoise(
            optimizer,
            heavytail.hidden_weights(model, exclude=_without_noise(config)),
            alpha=config.alpha,
            scale=config.scale,
            kind=config.kind,
            seed=noise_seed,
        )
    began = perf_counter()
    history = train(
        model,
        optimizer,
        task,
        steps=config.steps,
        batch_size=config.batch_size,
        seed=batch_seed,
        stop_accuracy=config.stop_accuracy,
        evaluate_every=config.steps if config.stop_accuracy is None else _LOOK,
        progress=progress,
        checkpoint=checkpoint,
        resumable=resumable,
    )
    new = max(1, history.steps - history.resumed)
    return model, history.steps, (perf_counter() - began) / new


def _measured(
    config: Config, task: data.Dataset, model: nn.Module, steps: int, seconds: float
) -> Result:
    """Return what is to be said of a trained network."""
    start_seed, noise_seed, _, draw_seed = spawn_seeds(config.seed, 4)
    start = _network(config, task, start_seed)
    noise, without = None, start
    law: dict[str, Any] = {"alpha": config.alpha, "scale": config.scale, "kind": config.kind}
    law |= {"lr": config.lr, "steps": steps}
    if config.alpha is not None:
        without = replay(start, seed=noise_seed, exclude=_without_noise(config), **law)
    gradient = _norm(_difference(model, without)) / _norm(_weights(start))
    if config.alpha is not None:
        noise = _noise(config, start, without, law, draw_seed, task)

    trained = {name: weight.clone() for name, weight in model.state_dict().items()}
    whole = score(model, task.x_train, task.y_train), score(model, task.x_test, task.y_test)
    curve = []
    for fraction in FRACTIONS:
        report = heavytail.prune(model, keep=1 - fraction)
        test = score(model, task.x_test, task.y_test)
        curve.append(Pruned(fraction, report.error, test))
        _unmask(model, trained)
    report = heavytail.prune(model, error=ERROR)
    cut = score(model, task.x_train, task.y_train), score(model, task.x_test, task.y_test)
    _unmask(model, trained)
    noisy = {layer.name for layer in report.layers} - set(_without_noise(config))
    layers = tuple(
        _layer(layer.name, layer.ratio, model, start, noise is not None and layer.name in noisy)
        for layer in report.layers
    )
    return Result(
        diverged=None,
        steps=steps,
        train=whole[0],
        test=whole[1],
        ratio=report.ratio,
        pruned_train=cut[0],
        pruned_test=cut[1],
        curve=tuple(curve),
        layers=layers,
        gradient=gradient,
        noise=noise,
        step_seconds=seconds,
    )


@cache
def _loaded(name: str, network: str, device: torch.device) -> data.Dataset:
    """Return a data set on the device, once for each process."""
    task = data.load(name)
    if network == "vgg11" and len(task.shape) != 3:
        raise ValueError(f"vgg11 needs images with channels, got {name} of shape {task.shape}")
    return (task if network == "vgg11" else task.flat()).to(device)


def _network(config: Config, task: data.Dataset, seed: int) -> nn.Module:
    """Return the network at its start."""
    source = torch.Generator(task.x_train.device).manual_seed(seed)
    if config.network == "vgg11":
        width = config.width / 128
        return VGG11(task.classes, channels=task.shape[0], width=width, generator=source)
    return FullyConnected(
        task.inputs,
        task.classes,
        width=config.width,
        hidden_layers=config.hidden_layers,
        generator=source,
    )


def _without_noise(config: Config) -> tuple[str, ...]:
    """Return the layers that get no noise."""
    return ("body.0", "head") if config.network == "vgg11" else ("head",)


def _noise(
    config: Config,
    start: nn.Module,
    replayed: nn.Module,
    law: dict[str, Any],
    seed: int,
    task: data.Dataset,
) -> Noise | None:
    """Return what the noise did, from the start with it and without."""
    difference = _difference(replayed, start)
    size = _norm(difference)
    if not math.isfinite(size) or size == 0:
        return None
    span = gain = None
    if config.network == "fully_connected" and bool(difference[0].any()):
        span, gain = seen(difference[0], task.x_train)
    source = torch.Generator(task.x_train.device).manual_seed(seed)
    prediction = heavytail.predict_pruning(
        start, **law, exclude=_without_noise(config), error=ERROR, draws=_DRAWS, generator=source
    )
    noisy = heavytail.hidden_weights(start, exclude=_without_noise(config))
    report = heavytail.prune(replayed, error=ERROR)
    # The prediction is of the noisy layers; what can go in the others is known.
    silent = [layer for layer in report.layers if layer.name in _without_noise(config)]
    share = 1 - sum(layer.units for layer in silent) / report.units
    known = sum(layer.units - layer.kept for layer in silent) / report.units
    low, middle, high = (known + share * prediction.quantile(p) for p in (0.05, 0.5, 0.95))
    return Noise(
        replayed=report.ratio,
        predicted=(low, middle, high),
        norm=size / _norm([weight.detach().double() for weight in noisy]),
        span=span,
        gain=gain,
    )


def seen(noise: Tensor, x: Tensor) -> tuple[float, float]:
    r"""Return how much of a layer's noise lies in the span of its inputs, and how much it moves.

    With N the noise and X the inputs, G = X^T X, P the projection on the eigenvectors of G whose
    eigenvalue is above 1e-10 times the largest,

        span = \|\|N P\|\| / \|\|N\|\|,    gain = \|\|N X^T\|\| sqrt(d) / (\|\|N\|\| \|\|X\|\|).

    For isotropic noise the squared gain is 1 on average, the squared span rank(X) / d.

    Args:
        noise: shape (n, d), floating point, not all zero.
        x: shape (N, d), floating point, not all zero.

    Returns:
        The span, in [0, 1], and the gain, in [0, sqrt(d)].
    """
    N, X = noise.detach().double(), x.detach().double()
    eigenvalues, vectors = torch.linalg.eigh(X.mT @ X)
    inside = vectors[:, eigenvalues > 1e-10 * eigenvalues[-1]]
    size = float(N.norm())
    moved = float((N @ vectors * eigenvalues.clamp_min(0).sqrt()).norm())
    gain = moved * math.sqrt(X.shape[1]) / (size * float(X.norm()))
    return float((N @ inside).norm()) / size, gain


def _layer(name: str, ratio: float, model: nn.Module, start: nn.Module, with_noise: bool) -> Layer:
    """Return what a layer's columns are like."""
    weight, first = (some.get_parameter(f"{name}.weight").detach() for some in (model, start))
    norms = heavytail.column_norms(weight).cpu()
    n = len(norms)
    index = None
    if with_noise:
        change = (weight.double() - first.double()).flatten(1).cpu()
        projected = change.sum(1) / math.sqrt(change.shape[1])
        try:
            estimate = heavytail.stable_mle(projected)
            index = (estimate.alpha, estimate.stderr)
        except (ValueError, RuntimeError):  # too few columns, or some that did not move
            pass
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    return Layer(
        name=name,
        columns=n,
        ratio=ratio,
        norms=tuple(norms.quantile(levels).tolist()),
        hill=tuple(_hill(norms, round(part * n)) for part in HILL),
        noise_index=index,
    )


def _hill(norms: Tensor, k: int) -> float | None:
    if k < 2 or k >= len(norms) or bool((norms == 0).any()):
        return None
    try:
        return heavytail.hill(norms, k).alpha
    except ValueError:  # all of them equal
        return None


def _weights(model: nn.Module) -> list[Tensor]:
    """Return the hidden weights in double precision."""
    return [weight.detach().double() for weight in heavytail.hidden_weights(model)]


def _difference(a: nn.Module, b: nn.Module) -> list[Tensor]:
    return [left - right for left, right in zip(_weights(a), _weights(b), strict=True)]


def _norm(weights: Iterable[Tensor]) -> float:
    """Return the norm of all weights together."""
    return math.hypot(*(float(weight.norm()) for weight in weights))


def _unmask(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Take the masks off, and put the weights back."""
    for module in model.modules():
        if "weight_mask" in module._buffers:
            nn.utils.prune.remove(module, "weight")
    model.load_state_dict(weights)


def plain(result: Result) -> dict[str, Any]:
    """Return a result as JSON has it: six significant digits, None for what is not finite."""
    rounded: dict[str, Any] = _rounded(asdict(result))
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def read(entry: Mapping[str, Any]) -> tuple[Config, Result]:
    """Return configuration and result of an entry of a store; nan is what was not finite."""
    found = dict(entry["result"])
    for name in ("train", "test", "pruned_train", "pruned_test"):
        found[name] = _score(found[name])
    if found["diverged"] is None:
        for name in ("ratio", "gradient", "step_seconds"):
            found[name] = _number(found[name])
        if found["curve"] is not None:  # a brief record leaves both out
            found["curve"] = tuple(
                Pruned(point["fraction"], point["error"], _score(point["test"]))
                for point in found["curve"]
            )
        if found["layers"] is not None:
            found["layers"] = tuple(map(_layer_of, found["layers"]))
        if found["noise"] is not None:
            found["noise"] = Noise(**_tuples(found["noise"]))
    return Config(**entry["config"]), Result(**found)


def _score(plain: dict[str, float | None] | None) -> Any:
    if plain is None:
        return None
    return Score(**{name: _number(part) for name, part in plain.items()})


def _layer_of(plain: dict[str, Any]) -> Layer:
    found = _tuples(plain)
    if found["noise_index"] is not None:
        found["noise_index"] = tuple(map(_number, found["noise_index"]))
    return Layer(**found)


def _number(part: float | None) -> float:
    return math.nan if part is None else part


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(part) if isinstance(part, list) else part for name, part in plain.items()}


def in_sweep(
    config: Config, checkpoint: Path, *, device: str = "cpu", threads: int | None = 1
) -> dict[str, Any]:
    """Run a configuration for :func:`heavytail.experiments.sweep.sweep`."""
    return plain(run(config, checkpoint, device=device, threads=threads))
