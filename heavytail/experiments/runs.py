r"""One configuration, one result: a network trained, measured, pruned and measured again.

All is measured on one iterate, the weights after the last step and its noise,

    W_K = W_0 + N + G,

with the start W_0, the noise of all steps N and what the gradients added, G. The seed of the noise
gives W_0 + N once more (:func:`replay`), so that the three parts can be told apart.
"""

import copy
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
from heavytail import _check
from heavytail.experiments import data
from heavytail.experiments.models import VGG11, FullyConnected
from heavytail.experiments.records import plain
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
)
from heavytail.experiments.train import DivergenceError, score, spawn_seeds, train

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
    with thread_count(threads):
        place = torch.device(device)
        name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
        task = loaded(config.data, config.network, place)
        try:
            model, steps, seconds = trained(config, task, checkpoint, progress=progress)
        except DivergenceError as divergence:
            return Result(divergence.step, divergence.step, device=name)
        result = _measured(config, task, model, steps)
        return replace(result, step_seconds=seconds, device=name)


_gate = threading.Lock()
_inside: list[int] = []  # of the runs of this process: the number of threads each found


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
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


@cache
def loaded(name: str, network: str, device: torch.device) -> data.Dataset:
    """Return a data set on the device in the form that a network takes, once a process."""
    task = data.load(name)
    if network == "vgg11" and len(task.shape) != 3:
        raise ValueError(f"vgg11 needs images with channels, got {name} of shape {task.shape}")
    return (task if network == "vgg11" else task.flat()).to(device)


def trained(
    config: Config, task: data.Dataset, checkpoint: Path | None = None, *, progress: bool = False
) -> tuple[nn.Module, int, float]:
    """Return a run's network after training, the number of steps taken and the seconds of one."""
    start_seed, noise_seed, batch_seed, _ = spawn_seeds(config.seed, 4)
    model = _network(config, task, start_seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    resumable = {}
    if config.alpha is not None:
        weights = heavytail.hidden_weights(model, exclude=_silent(config))
        law: dict[str, Any] = {"alpha": config.alpha, "scale": config.scale, "kind": config.kind}
        resumable["noise"] = heavytail.StableNoise(optimizer, weights, **law, seed=noise_seed)
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
    taken = max(1, history.steps - history.resumed)
    return model, history.steps, (perf_counter() - began) / taken


def _network(config: Config, task: data.Dataset, seed: int) -> nn.Module:
    """Return the network at its start."""
    source = torch.Generator(task.x_train.device).manual_seed(seed)
    if config.network == "vgg11":
        width = config.width / 128
        return VGG11(task.classes, channels=task.shape[0], width=width, generator=source)
    sizes: dict[str, Any] = {"width": config.width, "hidden_layers": config.hidden_layers}
    return FullyConnected(task.inputs, task.classes, **sizes, generator=source)


def _silent(config: Config) -> tuple[str, ...]:
    """Return the layers that get no noise."""
    return ("body.0", "head") if config.network == "vgg11" else ("head",)


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

    Raises:
        TypeError, ValueError: on an argument outside the sets above.
    """
    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    weights = heavytail.hidden_weights(model, exclude=exclude)
    heavytail.StableNoise(optimizer, weights, alpha=alpha, scale=scale, kind=kind, seed=seed)
    for _ in range(_check.count("steps", steps)):
        optimizer.step()  # no gradients: only the noise acts
    return model


def _measured(config: Config, task: data.Dataset, model: nn.Module, steps: int) -> Result:
    """Return what is to be said of a trained network."""
    start_seed, noise_seed, _, draw_seed = spawn_seeds(config.seed, 4)
    start = _network(config, task, start_seed)
    noise, noisy = None, start
    law: dict[str, Any] = {"alpha": config.alpha, "scale": config.scale, "kind": config.kind}
    law |= {"lr": config.lr, "steps": steps, "exclude": _silent(config)}
    if config.alpha is not None:
        noisy = replay(start, seed=noise_seed, **law)
    gradient = _norm(_difference(model, noisy)) / _norm(_weights(start))
    if config.alpha is not None:
        noise = _noise(config, task, start, noisy, law, draw_seed)

    weights = {name: weight.clone() for name, weight in model.state_dict().items()}

    def scores() -> tuple[Any, Any]:
        return score(model, task.x_train, task.y_train), score(model, task.x_test, task.y_test)

    train_score, test_score = scores()
    curve = []
    for fraction in FRACTIONS:
        error = heavytail.prune(model, keep=1 - fraction).error
        curve.append(Pruned(fraction, error, score(model, task.x_test, task.y_test)))
        _unmask(model, weights)
    report = heavytail.prune(model, error=ERROR)
    pruned_train, pruned_test = scores()
    _unmask(model, weights)
    moved = {layer.name for layer in report.layers if noise} - set(law["exclude"])
    layers = tuple(
        _layer(layer.name, layer.ratio, model, start, layer.name in moved)
        for layer in report.layers
    )
    return Result(
        diverged=None,
        steps=steps,
        train=train_score,
        test=test_score,
        ratio=report.ratio,
        pruned_train=pruned_train,
        pruned_test=pruned_test,
        curve=tuple(curve),
        layers=layers,
        gradient=gradient,
        noise=noise,
    )


def _noise(
    config: Config,
    task: data.Dataset,
    start: nn.Module,
    noisy: nn.Module,
    law: dict[str, Any],
    seed: int,
) -> Noise | None:
    """Return what the noise did, from the start with it and without."""
    difference = _difference(noisy, start)
    size = _norm(difference)
    if not math.isfinite(size) or size == 0:
        return None
    span = gain = None
    if config.network == "fully_connected" and bool(difference[0].any()):
        span, gain = seen(difference[0], task.x_train)
    source = torch.Generator(task.x_train.device).manual_seed(seed)
    prediction = heavytail.predict_pruning(
        start, **law, error=ERROR, draws=_DRAWS, generator=source
    )
    weights = heavytail.hidden_weights(start, exclude=law["exclude"])
    report = heavytail.prune(noisy, error=ERROR)
    # The prediction is of the noisy layers; what can go in the others is known.
    silent = [layer for layer in report.layers if layer.name in law["exclude"]]
    share = 1 - sum(layer.units for layer in silent) / report.units
    known = sum(layer.units - layer.kept for layer in silent) / report.units
    low, middle, high = (known + share * prediction.quantile(p) for p in (0.05, 0.5, 0.95))
    norm = size / _norm(weight.detach().double() for weight in weights)
    return Noise(report.ratio, (low, middle, high), norm, span, gain)


def seen(noise: Tensor, x: Tensor) -> tuple[float, float]:
    r"""Return how much of a layer's noise lies in the span of its inputs, and how much it moves.

    With N the noise, X the inputs and P the projection on the eigenvectors of X^T X whose
    eigenvalue is above 1e-10 times the largest,

        span = ||N P|| / ||N||,    gain = ||N X^T|| sqrt(d) / (||N|| ||X||).

    The span is the part of the noise that the network can see. For isotropic noise the squared
    gain is 1 on average, the squared span rank(X) / d.

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


def _layer(name: str, ratio: float, model: nn.Module, start: nn.Module, moved: bool) -> Layer:
    """Return what a layer's columns are like."""
    weight, first = (some.get_parameter(f"{name}.weight").detach() for some in (model, start))
    norms = heavytail.column_norms(weight).cpu()
    index = None
    if moved:
        change = (weight.double() - first.double()).flatten(1).cpu()
        try:
            estimate = heavytail.stable_mle(change.sum(1) / math.sqrt(change.shape[1]))
            index = (estimate.alpha, estimate.stderr)
        except (ValueError, RuntimeError):  # too few columns, or some that did not move
            pass
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    hill = tuple(_hill(norms, round(part * len(norms))) for part in HILL)
    quantiles = tuple(norms.quantile(levels).tolist())
    return Layer(name, len(norms), ratio, quantiles, hill, index)


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
    config: Config,
    checkpoint: Path | None,
    *,
    device: str = "cpu",
    threads: int | None = 1,
    brief: bool = False,
) -> dict[str, Any]:
    """Run a configuration for :func:`heavytail.experiments.sweep.sweep`.

    Numbers have six significant digits. A brief result leaves out what is told of each fraction
    removed and of each layer.
    """
    result = run(config, checkpoint, device=device, threads=threads)
    if brief:
        result = replace(result, curve=None, layers=None)
    found: dict[str, Any] = plain(result, digits=6)
    return found
