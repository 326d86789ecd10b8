"""The recorded rates of the mean-field chapters: errors of all seeds, for pages to fit anew."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heavytail import _check
from heavytail.experiments import records
from heavytail.experiments.records import Entry, plain
from heavytail.experiments.runs import thread_count
from heavytail.limit.coupling import Rates, chaos_error, euler_error
from heavytail.limit.particles import MeanField


def problem(h: str, signs: str | None = None) -> MeanField:
    """Return the problem of the chapters: 16 Gaussian inputs in R^3, a smooth target.

    ``"line"`` is the exact case instead: h(x, theta) = theta x in one dimension, one example
    x = y = 1, squared loss, all particles from 0, no signs.
    """
    if h == "line":
        if signs is not None:
            raise ValueError(f"signs must be None for 'line', got {signs!r}")
        one = torch.ones(1, dtype=torch.float64)
        return MeanField(one[:, None], one, h="linear", start=torch.zeros(1))
    seeded = torch.Generator().manual_seed(6)
    x = torch.randn(16, 3, generator=seeded, dtype=torch.float64)
    return MeanField(x, torch.sin(2 * x[:, 0]) + torch.cos(x[:, 1]), h=h, signs=signs)


@dataclass(frozen=True)
class Study:
    """One fit, T = 1.

    Attributes:
        error: ``"chaos"`` or ``"euler"``, the function of :mod:`heavytail.limit.coupling`.
        h: the neuron, see :func:`problem`.
        alpha: stability index in (0, 2].
        x: the widths, or the numbers of steps.
        reference: as the function takes it.
        seeds: how many.
        first_seed: the first of them; they are consecutive.
        size: the number of steps for ``"chaos"``, of particles for ``"euler"``.
        sigma: scale of the noise.
        kind: of the noise.
        signs: of the neurons.
        coupled: False is the control, for ``"chaos"`` only.

    Raises:
        TypeError, ValueError: on an ``error``, ``h``, ``signs`` or ``coupled`` other than these;
            :meth:`run` refuses the rest.
    """

    error: str
    h: str
    alpha: float
    x: tuple[int, ...]
    reference: int | str
    seeds: int
    first_seed: int
    size: int
    sigma: float = 0.5
    kind: str = "independent"
    signs: str | None = None
    coupled: bool = True

    def __post_init__(self) -> None:
        _check.one_of("error", self.error, ("chaos", "euler"))
        if self.error == "euler" and not self.coupled:
            raise ValueError("coupled must be True for 'euler', which has no control, got False")
        problem(self.h, self.signs)

    def run(self, device: torch.device | str = "cpu") -> Rates:
        """Run the study."""
        options: dict[str, Any] = {
            "T": 1.0,
            "alpha": self.alpha,
            "sigma": self.sigma,
            "kind": self.kind,
            "seeds": range(self.first_seed, self.first_seed + self.seeds),
            "reference": self.reference,
            "device": device,
        }
        of = problem(self.h, self.signs)
        if self.error == "euler":
            return euler_error(of, self.x, n=self.size, **options)
        return chaos_error(of, self.x, steps=self.size, coupled=self.coupled, **options)


def _studies() -> Iterator[Study]:
    """Yield the studies of the book; each has seeds of its own."""
    first = iter(range(0, 10**6, 1000))
    wide = tuple(4**k for k in range(2, 8))
    for alpha in (0.7, 1.2, 1.5, 1.75, 1.9, 2.0):
        yield Study("chaos", "tanh", alpha, wide, 65536, 64, next(first), 20)
    narrow = Study("chaos", "tanh", 1.5, wide[:-1], 16384, 64, 0, 20)
    for kind in ("shared", "independent", "isotropic"):
        for signs in (None, "alternating"):
            yield replace(narrow, kind=kind, signs=signs, first_seed=next(first))
    yield replace(narrow, seeds=16, coupled=False, first_seed=next(first))
    for alpha in (1.3, 1.5, 1.75, 1.9):
        widths = (10, 100, 1000, 10_000)
        yield Study("chaos", "line", alpha, widths, "limit", 600, next(first), 20)
    doubling = tuple(2**k for k in range(7, 15))
    for sigma in (0.5, 0.1):
        yield Study("chaos", "relu", 1.3, doubling, "twins", 1000, next(first), 20, sigma=sigma)
    halving = tuple(2**k for k in range(3, 9))
    for h in ("tanh", "relu"):
        for alpha in (1.2, 1.5, 1.75, 1.9):
            yield Study("euler", h, alpha, halving, 4096, 16, next(first), 500)
    for n in (100, 1000, 10_000, 100_000):
        yield Study("euler", "tanh", 1.5, (16, 32), 512, 16, next(first), n)


def _small(study: Study) -> Study:
    """Return a study of the first three x, a few seeds and particles."""
    x, reference = study.x[:3], study.reference
    if isinstance(reference, int):
        reference = min(reference, 16 * x[-1])
    return replace(study, x=x, reference=reference, seeds=8, size=min(study.size, 100))


PAPER = tuple(_studies())
QUICK = tuple({replace(s, first_seed=0): s for s in map(_small, PAPER)}.values())


def in_sweep(
    study: Study, checkpoint: Path | None, *, device: str = "cpu", threads: int | None = 1
) -> Entry:
    """Run a study for :func:`heavytail.experiments.sweep.sweep`; errors have four digits."""
    with thread_count(threads):
        rates = study.run(device)
    assert rates.sup is not None
    errors = plain({"errors": rates.errors, "sup_errors": rates.sup.errors}, digits=4)
    return {"x": rates.x.tolist(), "size": rates.size.tolist(), **errors}


def read(path: str | os.PathLike[str]) -> list[tuple[Study, Rates]]:
    """Return the recorded studies with their rates."""
    return list(map(_decode, records.read(path)))


def _decode(entry: Entry) -> tuple[Study, Rates]:
    def tensor(name: str) -> Tensor:
        return torch.tensor(entry["result"][name], dtype=torch.float64)

    x, size = tensor("x"), tensor("size")
    sup = Rates(x, tensor("sup_errors"), size)
    study = Study(**entry["config"] | {"x": tuple(entry["config"]["x"])})
    return study, Rates(x, tensor("errors"), size, sup=sup)


def lines(studies: Sequence[Study], entries: list[Entry]) -> list[list[str]]:
    """Return a table of the slopes; "not yet" where a study is not recorded."""
    known = dict(map(_decode, entries))
    found = [["error", "h", "α", "noise", "particles or steps", "slope", "of the supremum"]]
    for study in studies:
        names = [study.error, study.h, f"{study.alpha:g}", study.kind, f"{study.size:,}"]
        rates = known.get(study)
        fits = [] if rates is None or rates.sup is None else [rates, rates.sup]
        slopes = [f"{fit.slope:.3f} ± {fit.slope_stderr:.3f}" for fit in fits]
        found.append([*names, *(slopes or ["not yet"] * 2)])
    return found
