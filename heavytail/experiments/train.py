"""The training loop, its checkpoints, and how a model is measured.

An argument outside its set is a TypeError or ValueError, and changes nothing.
"""

import copy
import hashlib
import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from heavytail import _check
from heavytail.experiments._files import file, replaced
from heavytail.experiments.data import Dataset, check_examples, check_labels


class DivergenceError(ArithmeticError):
    """Training left the finite numbers; ``step`` is the first step seen to have done so."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"training diverged: {what} at step {step}; lower lr or the noise's scale")
        self.step = step


@dataclass(frozen=True)
class History:
    """What training saw."""

    losses: Tensor  #: shape (steps,), mean cross-entropy in nats of each batch before its step
    evaluated: tuple[int, ...]  #: steps after which the model was measured, the last one among them
    train_accuracies: tuple[float, ...]  #: on all training examples then, the step's noise added
    resumed: int = 0  #: the step from which training went on, 0 without a checkpoint

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.losses)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    stop_accuracy: float | None = None,
    evaluate_every: int = 100,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    resumable: Mapping[str, Any] | None = None,
) -> History:
    """Minimise the cross-entropy of ``model`` on the training examples.

    The optimizer comes with whatever is attached to it, as :class:`heavytail.StableNoise`. An epoch
    is a random permutation of the examples, cut into batches.

    Args:
        model: maps examples (N, ...) to logits (N, classes); left with the last step's noise.
        optimizer: holds the parameters to train.
        data: the task, on the device of the model.
        steps: number of optimizer steps, >= 0.
        batch_size: examples a step, >= 1; the last batch of an epoch may be smaller.
        seed: of the permutations, in [0, 2^64).
        stop_accuracy: stop when a measured training accuracy is as high, in [0, 1]; or None.
        evaluate_every: steps between two measurements, >= 1. One is always made at the end.
        progress: show a progress bar where the output is a terminal.
        checkpoint: file for the state of the training, left behind at the end. If it is there at
            the start, training goes on from it, with its learning rate and noise, and ends with the
            bits it would have had without the break; only ``steps`` may differ. It runs no code.
        checkpoint_every: steps between two states, >= 1.
        resumable: by any names, what else has a ``state_dict`` that the checkpoint must hold: the
            noise, schedules. Draws from torch's global generator, as dropout's, are not resumed.

    Raises:
        DivergenceError: if a loss or a weight is not finite, which the next measurement sees.
        ValueError: if the checkpoint is damaged or of another training.
    """
    _check.instance("optimizer", optimizer, torch.optim.Optimizer)
    x, y = _check.instance("data", data, Dataset).x_train, data.y_train
    steps, batch_size = _check.count("steps", steps), _check.count("batch_size", batch_size, 1)
    seed = _check.seed("seed", seed)
    evaluate_every = _check.count("evaluate_every", evaluate_every, 1)
    checkpoint_every = _check.count("checkpoint_every", checkpoint_every, 1)
    if stop_accuracy is not None:
        stop_accuracy = _check.number("stop_accuracy", stop_accuracy, "[0, 1]")
    _check.flag("progress", progress)
    _check.instance("model", model, nn.Module)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    others = {} if resumable is None else resumable
    for name, part in _check.instance("resumable", others, Mapping).items():
        if not isinstance(name, str) or name in parts or not hasattr(part, "load_state_dict"):
            raise ValueError(f"resumable must hold states by other names, got {name}={part!r:.60}")
        parts[name] = part
    tensors = (*model.named_parameters(), *model.named_buffers())  # loading would cast their types
    weights = {name: (tuple(w.shape), str(w.dtype)) for name, w in tensors}
    identity = {"data": (data.name, len(x)), "batch_size": batch_size, "seed": seed}
    identity |= {"optimizer": type(optimizer).__name__, "weights": weights, "parts": sorted(parts)}
    path = None if checkpoint is None else file("checkpoint", checkpoint)
    losses = torch.empty(steps, device=x.device, dtype=x.dtype)
    accuracies: dict[int, float] = {}  # by the number of steps taken
    taken = resumed = 0
    if path is not None and path.exists():
        seen, accuracies = _resume(path, identity, parts, steps)
        taken = resumed = len(seen)
        losses[:taken] = seen
    batches = islice(_batches(x, batch_size, seed), taken, None)
    model.train()
    with tqdm(total=steps, initial=taken, unit="step", disable=None if progress else True) as bar:
        while True:
            if taken > 0 and (taken % evaluate_every == 0 or taken == steps):
                accuracies[taken] = found = _measured(losses[:taken], model, x, y)
                bar.set_postfix(loss=f"{losses[taken - 1]:.3f}", accuracy=f"{found:.3f}")
                if stop_accuracy is not None and found >= stop_accuracy:
                    break
            if taken == steps:
                break
            if path is not None and taken > resumed and taken % checkpoint_every == 0:
                state = {"losses": losses[:taken].clone(), "accuracies": accuracies}
                _write(path, {"identity": identity, **state}, parts)
            batch = next(batches)
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[taken] = loss.detach()
            taken += 1
            bar.update()
    return History(losses[:taken].cpu(), tuple(accuracies), tuple(accuracies.values()), resumed)


def _batches(x: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Yield the indices of up to ``size`` of the examples x, epoch after epoch, without end."""
    generator = torch.Generator(x.device).manual_seed(seed)
    while True:
        yield from torch.randperm(len(x), generator=generator, device=x.device).split(size)


def _measured(losses: Tensor, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the accuracy after steps with these losses; all numbers must have stayed finite."""
    bad = ~losses.isfinite()
    if bad.any():
        step = int(bad.nonzero()[0])
        raise DivergenceError(step + 1, f"the loss was {float(losses[step])}")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise DivergenceError(len(losses), "a weight was not finite")
    try:
        return accuracy(model, x, y)
    except FloatingPointError as failure:
        raise DivergenceError(len(losses), str(failure)) from failure


def _write(path: Path, state: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Write a checkpoint: the sha256 of what follows, 32 bytes, then what torch.save makes."""
    buffer = io.BytesIO()
    torch.save(state | {"parts": {name: part.state_dict() for name, part in parts.items()}}, buffer)
    content = buffer.getvalue()
    try:
        _loaded(content)
    except UnpicklingError as failure:
        raise TypeError(f"a state must hold tensors, numbers and strings: {failure}") from failure
    with replaced(path) as draft:
        draft.write_bytes(hashlib.sha256(content).digest() + content)


def _loaded(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _resume(
    path: Path, identity: dict[str, Any], parts: Mapping[str, Any], steps: int
) -> tuple[Tensor, dict[int, float]]:
    """Load all parts from a checkpoint of this training, or none; return losses and accuracies."""
    written = path.read_bytes()
    try:
        if hashlib.sha256(written[32:]).digest() != written[:32]:
            raise ValueError("bytes with another checksum")
        state = _loaded(written[32:])
        theirs, losses, accuracies = (state[key] for key in ("identity", "losses", "accuracies"))
    except (UnpicklingError, ValueError, KeyError) as failure:
        raise ValueError(f"{path} must be a whole checkpoint, got {failure}") from failure
    for name, mine in identity.items():
        if (found := theirs.get(name)) != mine:
            raise ValueError(f"{path} must be of a training with the {name} {mine}, got {found}")
    if len(losses) > steps:
        raise ValueError(f"steps must be >= those of the checkpoint, {len(losses)}, got {steps}")
    before = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
    try:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
    except Exception as failure:
        for other, part in parts.items():
            with suppress(Exception):  # of one that takes no state
                part.load_state_dict(before[other])
        raise ValueError(f"the checkpoint {path} must fit the {name}: {failure}") from failure
    return losses, accuracies


@dataclass(frozen=True)
class Score:
    """How well a model does on some examples."""

    loss: float  #: mean cross-entropy in nats, infinite where a label has probability 0
    accuracy: float  #: share of the examples whose largest logit is at their label, in [0, 1]


@torch.no_grad()
def score(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 4096) -> Score:
    """Measure a model; outputs that are nan, or infinite and the largest, raise FloatingPointError.

    Args:
        model: maps examples to logits (N, classes); measured in evaluation mode, then put back.
        x: shape (N, ...), N >= 1, floating point.
        y: shape (N,), int64, in [0, classes).
        batch_size: examples a forward pass, >= 1; it bounds the memory and changes no result.
    """
    batch_size, n = _check.count("batch_size", batch_size, 1), check_examples("x", x)
    training = [m for m in _check.instance("model", model, nn.Module).modules() if m.training]
    model.eval()
    try:
        logits = torch.cat([model(some) for some in x.split(batch_size)])
    finally:
        for module in training:  # one by one: some may be kept in evaluation mode
            module.training = True
    check_labels("y", y, n, logits.shape[1])
    # As cross_entropy, which leaves out the label -100; a pruned net's losses may lie far apart.
    loss = float(-logits.log_softmax(1).gather(1, y[:, None]).double().sum()) / n
    if math.isnan(loss):
        raise FloatingPointError("the loss was nan")
    return Score(loss, int((logits.argmax(1) == y).sum()) / n)


def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 4096) -> float:
    """Return the accuracy of :func:`score`; a FloatingPointError where that raises one."""
    return score(model, x, y, batch_size=batch_size).accuracy


def spawn_seeds(seed: int, n: int) -> list[int]:
    """Return n >= 0 seeds in [0, 2^31) that follow from one in [0, 2^64).

    Generators with the *same* seed emit the same bits: a start, its noise and its batches, which
    must be independent, each need a seed of their own.
    """
    generator = torch.Generator().manual_seed(_check.seed("seed", seed))
    size = (_check.count("n", n),)
    seeds: list[int] = torch.randint(2**31, size, generator=generator, device="cpu").tolist()
    return seeds
