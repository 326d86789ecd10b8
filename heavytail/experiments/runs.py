r"""One configuration, one result: a network trained, measured, pruned and measured again.

All is measured on one iterate, the weights after the last step and its noise,

    W_K = W_0 + N + G,

with the start W_0, the noise of all steps N and what the gradients added, G. The seed of the noise
gives W_0 + N once more (:func:`replay`), so that the three parts can be told apart.
"""

import copy
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import heavytail
from heavytail import _check
from heavytail.compression.pruning import LayerReport
from heavytail.experiments import data, results
from heavytail.experiments.models import VGG11, FullyConnected
from heavytail.experiments.records import plain
from heavytail.experiments.results import ERROR, Config, Layer, Noise, Pruned, Result
from heavytail.experiments.train import DivergenceError, Score, score, spawn_seeds, train

_DRAWS = 200  # behind a prediction


def run(
    config: Config, checkpoint: Path | None = None, *, device: torch.device | str = "cpu"
) -> Result:
    """Train a network and measure it, with one of torch's threads.

    On a CPU the result depends on the configuration alone, to the bit on one machine, up to
    ``step_seconds``. ``checkpoint`` is where :func:`heavytail.experiments.train.train` keeps its
    state, None for none. A network whose outputs are not numbers has diverged at its last step.
    """
    _check.instance("config", config, Config)
    place, before = _check.where(device), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
        task = loaded(config.data, config.network, place)
        model, steps, seconds = trained(config, task, checkpoint)
        return replace(_measured(config, task, model, steps), step_seconds=seconds, device=name)
    except DivergenceError as divergence:
        return Result(divergence.step, divergence.step, device=name)
    except FloatingPointError:  # of the trained network, or a pruned one
        return Result(steps, steps, device=name)
    finally:
        torch.set_num_threads(before)


def in_sweep(config: Config, checkpoint: Path | None, **options: Any) -> dict[str, Any]:
    """Run for a sweep, which keeps six significant digits."""
    return dict(plain(run(config, checkpoint, **options), digits=6))


@cache
def loaded(name: str, network: str, device: torch.device) -> data.Dataset:
    """Return a data set on the device in the form that a network takes, once a process."""
    task = data.load(name)
    if network == "vgg11" and len(task.shape) != 3:
        raise ValueError(f"vgg11 needs images with channels, got {name} of shape {task.shape}")
    return (task if network == "vgg11" else task.flat()).to(device)


def trained(
    config: Config, task: data.Dataset, checkpoint: Path | None = None
) -> tuple[nn.Module, int, float]:
    """Return a run's network after training, the number of steps taken and the seconds of one."""
    model = _start(config, task)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    began = perf_counter()
    history = train(
        model,
        optimizer,
        task,
        steps=config.steps,
        batch_size=config.batch_size,
        seed=_seeds(config)[2],
        stop_accuracy=config.stop_accuracy,
        evaluate_every=config.steps if config.stop_accuracy is None else 100,
        progress=False,
        checkpoint=checkpoint,
        resumable={} if config.alpha is None else {"noise": _added(config, model, optimizer)},
    )
    taken = max(1, history.steps - history.resumed)
    return model, history.steps, (perf_counter() - began) / taken


def replay(config: Config, start: nn.Module, steps: int) -> nn.Module:
    """Return a copy of a network with the noise of a run that starts at it, and no gradient.

    Over ``steps`` >= 0. The noise is the run's to the bit, its sum up to rounding.
    """
    _check.instance("config", config, Config)
    steps = _check.count("steps", steps)
    model = copy.deepcopy(_check.instance("start", start, nn.Module))
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    if config.alpha is not None:
        _added(config, model, optimizer)
    for _ in range(steps):
        optimizer.step()  # no gradients: only the noise acts
    return model


def _seeds(config: Config) -> list[int]:
    """Return the seeds of the start, the noise, the batches and the draws of a prediction."""
    return spawn_seeds(config.seed, 4)


def _start(config: Config, task: data.Dataset) -> nn.Module:
    source = torch.Generator(task.x_train.device).manual_seed(_seeds(config)[0])
    of: dict[str, Any] = {"generator": source, "dtype": task.x_train.dtype}
    if config.network == "vgg11":
        return VGG11(task.classes, channels=task.shape[0], width=config.width / 128, **of)
    of |= {"width": config.width, "hidden_layers": config.hidden_layers}
    return FullyConnected(task.inputs, task.classes, **of)


def _added(
    config: Config, model: nn.Module, optimizer: torch.optim.Optimizer
) -> heavytail.StableNoise:
    weights = heavytail.hidden_weights(model, exclude=_silent(config))
    return heavytail.StableNoise(optimizer, weights, **_law(config), seed=_seeds(config)[1])


def _law(config: Config) -> dict[str, Any]:
    return {"alpha": config.alpha, "scale": config.scale, "kind": config.kind}


def _silent(config: Config) -> tuple[str, ...]:
    return ("body.0", "head") if config.network == "vgg11" else ("head",)


def _measured(config: Config, task: data.Dataset, model: nn.Module, steps: int) -> Result:
    start = _start(config, task)
    noisy = replay(config, start, steps)
    noise = _noise(config, task, start, noisy, steps)

    def scores(of: nn.Module) -> tuple[Score, Score]:
        return score(of, task.x_train, task.y_train), score(of, task.x_test, task.y_test)

    curve = []
    for fraction in results.FRACTIONS:
        pruned = copy.deepcopy(model)
        error = heavytail.prune(pruned, keep=1 - fraction).error
        curve.append(Pruned(fraction, error, score(pruned, task.x_test, task.y_test)))
    pruned = copy.deepcopy(model)
    report = heavytail.prune(pruned, error=ERROR)
    moved = {layer.name for layer in report.layers if noise} - set(_silent(config))
    layers = tuple(_layer(layer, model, start, moved) for layer in report.layers)
    gradient = float((_hidden(model) - _hidden(noisy)).norm() / _hidden(start).norm())
    measured = (*scores(model), report.ratio, *scores(pruned), tuple(curve), layers)
    return Result(None, steps, *measured, gradient, noise)


def _noise(
    config: Config, task: data.Dataset, start: nn.Module, noisy: nn.Module, steps: int
) -> Noise | None:
    noise = _hidden(noisy) - _hidden(start)
    size = float(noise.norm())
    if not math.isfinite(size) or size == 0:
        return None
    span = gain = None
    first = heavytail.hidden_weights(start)[0]
    added = noise[: first.numel()].view_as(first)
    if added.dim() == 2 and bool(added.any()):
        span, gain = seen(added, task.x_train)
    prediction = heavytail.predict_pruning(
        start,
        **_law(config),
        lr=config.lr,
        steps=steps,
        error=ERROR,
        exclude=_silent(config),
        draws=_DRAWS,
        generator=torch.Generator(task.x_train.device).manual_seed(_seeds(config)[3]),
    )
    report = heavytail.prune(copy.deepcopy(noisy), error=ERROR)
    # The prediction is of the noisy layers; what can go in the others is known.
    silent = [layer for layer in report.layers if layer.name in _silent(config)]
    share = 1 - sum(layer.units for layer in silent) / report.units
    known = sum(layer.units - layer.kept for layer in silent) / report.units
    low, middle, high = (known + share * prediction.quantile(p) for p in (0.05, 0.5, 0.95))
    norm = size / float(_hidden(start, _silent(config)).norm())
    return Noise(report.ratio, (low, middle, high), norm, span, gain)


def seen(noise: Tensor, x: Tensor) -> tuple[float, float]:
    r"""Return how much of a layer's noise lies in the span of its inputs, and how much it moves.

    With N the noise, X the inputs and P the projection on the eigenvectors of X^T X whose
    eigenvalue is above 1e-10 times the largest,

        span = ||N P|| / ||N||,    gain = ||N X^T|| sqrt(d) / (||N|| ||X||).

    The span, in [0, 1], is what the network can see; the gain is in [0, sqrt(d)]. For isotropic
    noise the squared gain is 1 on average, the squared span rank(X) / d. ``noise``, shape (n, d),
    and ``x``, shape (N, d), must not be all zero.
    """
    N, X = noise.detach().double(), x.detach().double()
    eigenvalues, vectors = torch.linalg.eigh(X.mT @ X)
    inside = vectors[:, eigenvalues > 1e-10 * eigenvalues[-1]]
    size = float(N.norm())
    moved = float((N @ vectors * eigenvalues.clamp_min(0).sqrt()).norm())
    gain = moved * math.sqrt(X.shape[1]) / (size * float(X.norm()))
    return float((N @ inside).norm()) / size, gain


def _layer(of: LayerReport, model: nn.Module, start: nn.Module, moved: set[str]) -> Layer:
    weight, first = (some.get_parameter(f"{of.name}.weight").detach() for some in (model, start))
    norms, index = heavytail.column_norms(weight).cpu(), None
    if of.name in moved:
        change = (weight.double() - first.double()).flatten(1).cpu()
        with suppress(ValueError, RuntimeError):  # of too few columns, or some that did not move
            estimate = heavytail.stable_mle(change.sum(1) / math.sqrt(change.shape[1]))
            index = estimate.alpha, estimate.stderr
    quantiles = norms.quantile(norms.new_tensor(results.LEVELS)).tolist()
    hill = tuple(_hill(norms, round(part * len(norms))) for part in results.HILL)
    return Layer(of.name, len(norms), of.ratio, tuple(quantiles), hill, index)


def _hill(norms: Tensor, k: int) -> float | None:
    """Return Hill's estimate, None of fewer than two norms, or where one is 0 or all are equal."""
    try:
        return heavytail.hill(norms, k).alpha if k >= 2 and bool(norms.all()) else None
    except ValueError:
        return None


def _hidden(model: nn.Module, exclude: Iterable[str] | None = None) -> Tensor:
    weights = heavytail.hidden_weights(model, exclude=exclude)
    return torch.cat([weight.detach().double().flatten() for weight in weights])
