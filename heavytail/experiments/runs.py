r"""One configuration, one result: a network trained, measured, pruned and measured again.

All that is measured is measured on one iterate, the weights after the last step and its noise:

    W_K = W_0 + N + G,

with the start W_0, the noise of all steps N and what the gradients added, G. N is known, from the
seed of the noise, so that the three parts can be told apart
(:func:`heavytail.experiments.replay.replay`).
"""

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import heavytail
from heavytail.experiments import data
from heavytail.experiments.models import VGG11, FullyConnected
from heavytail.experiments.replay import replay
from heavytail.experiments.results import (
    ERROR,
    FRACTIONS,
    HILL,
    LEVELS,
    Config,
    Layer,
    Noise,
    Pruned,
    Result,
    encode,
)
from heavytail.experiments.train import (
    DivergenceError,
    accuracy,
    score,
    spawn_seeds,
    train,
)

_DRAWS = 200  # behind a prediction
_LOOK = 100  # steps between two looks at the accuracy, where training stops at one


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
            return Result(divergence.step, divergence.step, device=_name_of(task))
        return _measured(config, task, model, steps, seconds)


def _name_of(task: data.Dataset) -> str:
    """Return what the data lie on, and the run runs on."""
    device = task.x_train.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


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
        device=_name_of(task),
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

        span = ||N P|| / ||N||,    gain = ||N X^T|| sqrt(d) / (||N|| ||X||).

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


def in_sweep(
    config: Config, checkpoint: Path, *, device: str = "cpu", threads: int | None = 1
) -> dict[str, Any]:
    """Run a configuration for :func:`heavytail.experiments.sweep.sweep`."""
    return encode(run(config, checkpoint, device=device, threads=threads))
