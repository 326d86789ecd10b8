"""The training loop, and how a model is measured."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from heavytail import _checks
from heavytail.experiments.data import Dataset


class DivergenceError(ArithmeticError):
    """Training left the finite numbers; ``step`` is the first step seen to have done so."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"training diverged: {what} at step {step}; lower the learning rate or the scale of "
            "the noise"
        )
        self.step = step


@dataclass(frozen=True)
class History:
    """What training saw.

    Attributes:
        losses: shape (steps taken,), mean cross-entropy of each step's batch in nats, before
            the step.
        evaluated: the steps after which the model was measured, ascending; the last is the
            number of steps taken.
        train_accuracies: accuracy on all training examples at these steps, in [0, 1], with the
            noise of the step already added.
    """

    losses: Tensor
    evaluated: tuple[int, ...]
    train_accuracies: tuple[float, ...]

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
) -> History:
    """Minimise the cross-entropy of ``model`` on the training examples.

    The optimizer is the caller's, with whatever is attached to it, :class:`heavytail.StableNoise`
    among others. An epoch is a random permutation of the examples, cut into batches.

    Args:
        model: maps (N, d) to logits (N, classes); on the device of the data.
        optimizer: holds the parameters to train.
        data: the task.
        steps: number of optimizer steps, >= 0.
        batch_size: examples a step, >= 1; the last batch of an epoch may be smaller.
        seed: of the permutations, >= 0.
        stop_accuracy: stop once the accuracy on all training examples reaches this, in [0, 1];
            looked at after every ``evaluate_every`` steps. None trains for all the steps.
        evaluate_every: steps between two measurements, >= 1. One is always made at the end.
        progress: show a progress bar where the output is a terminal.

    Returns:
        The history. The model is left as it is after the last step and its noise.

    Raises:
        DivergenceError: if a loss or a weight is not finite; seen at the next measurement, so
            that no step waits for the device.
        TypeError, ValueError: on an argument outside the sets above.
    """
    steps, seed = _checks.count("steps", steps), _checks.seed("seed", seed)
    batch_size = _checks.count("batch_size", batch_size, 1)
    evaluate_every = _checks.count("evaluate_every", evaluate_every, 1)
    if stop_accuracy is not None:
        stop_accuracy = _checks.fraction("stop_accuracy", stop_accuracy)
    x, y = data.x_train, data.y_train
    if len(x) == 0:
        raise ValueError("training needs at least one example, got none")
    batches = _batches(len(x), batch_size, torch.Generator(x.device).manual_seed(seed))
    losses = torch.empty(steps, device=x.device, dtype=x.dtype)
    evaluated, accuracies = [], []
    taken = 0
    model.train()
    with tqdm(total=steps, unit="step", disable=None if progress else True) as bar:
        while taken < steps:
            batch = next(batches)
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[taken] = loss.detach()
            taken += 1
            bar.update()
            if taken % evaluate_every == 0 or taken == steps:
                _assert_finite(losses[:taken], model)
                evaluated.append(taken)
                accuracies.append(accuracy(model, x, y))
                bar.set_postfix(loss=f"{losses[taken - 1]:.3f}", accuracy=f"{accuracies[-1]:.3f}")
                if stop_accuracy is not None and accuracies[-1] >= stop_accuracy:
                    break
    return History(losses[:taken].cpu(), tuple(evaluated), tuple(accuracies))


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 4096) -> float:
    """Return the share of examples whose largest logit is at their label.

    Args:
        model: maps (N, d) to logits (N, classes); measured in evaluation mode, then put back.
        x: shape (N, d), N >= 1.
        y: shape (N,), int64.
        batch_size: examples a forward pass, >= 1; it bounds the memory and changes no result.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: without examples, with other than one label each, or a bad ``batch_size``.
    """
    batch_size = _checks.count("batch_size", batch_size, 1)
    if len(x) == 0 or y.shape != (len(x),):
        raise ValueError(
            f"accuracy needs examples and a label each, got {len(x)} and shape {tuple(y.shape)}"
        )
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        correct = sum(
            int((model(some_x).argmax(1) == some_y).sum())
            for some_x, some_y in zip(x.split(batch_size), y.split(batch_size), strict=True)
        )
    finally:
        for module in training:  # one by one: some may be kept in evaluation mode
            module.training = True
    return correct / len(x)


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield index tensors of up to ``size`` of n examples, epoch after epoch, without end."""
    while True:
        yield from torch.randperm(n, generator=generator, device=generator.device).split(size)


@torch.no_grad()
def _assert_finite(losses: Tensor, model: nn.Module) -> None:
    """Raise if a batch's loss was not finite, or a weight has become so."""
    bad = ~torch.isfinite(losses)
    if bad.any():
        step = int(bad.nonzero()[0])
        raise DivergenceError(step + 1, f"the loss was {float(losses[step])}")
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise DivergenceError(len(losses), "a weight was not finite")


def spawn_seeds(seed: int, n: int) -> list[int]:
    """Return n seeds in [0, 2^31) that follow from one, for draws that must be independent.

    Generators with the *same* seed emit the same bits: a start, its noise and its batches each
    need a seed of their own.

    Args:
        seed: >= 0.
        n: how many, >= 0.
    """
    generator = torch.Generator().manual_seed(_checks.seed("seed", seed))
    seeds: list[int] = torch.randint(
        2**31, (_checks.count("n", n),), generator=generator, device="cpu"
    ).tolist()
    return seeds
