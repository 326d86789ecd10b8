"""The recorded rates of the mean-field chapters: errors of all seeds, for pages to fit anew.

``python book/rates.py --record book/results/rates.json`` runs what is missing of them.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heavytail.experiments import records
from heavytail.experiments.records import Store, plain
from heavytail.experiments.sweep import sweep
from heavytail.limit.coupling import chaos_error, euler_error
from heavytail.limit.problem import MeanField
from heavytail.limit.rates import Rates


def problem(h: str, signs: str | None = None) -> MeanField:
    """Return the problem of the chapters: 16 Gaussian inputs in R^3, a smooth target.

    ``"line"`` is the exact case instead: h(x, theta) = theta x in one dimension, one example
    x = y = 1, squared loss, all particles from 0, no signs.
    """
    if h == "line":
        if signs is not None:
            raise ValueError(
                f"signs must be None for 'line', got {signs!r}"
            )
        one = torch.ones(1, dtype=torch.float64)
        return MeanField(
            one[:, None], one, h="linear", start=torch.zeros(1)
        )
    seeded = torch.Generator().manual_seed(6)
    x = torch.randn(16, 3, generator=seeded, dtype=torch.float64)
    return MeanField(
        x, torch.sin(2 * x[:, 0]) + torch.cos(x[:, 1]), h=h, signs=signs
    )


@dataclass(frozen=True)
class Study:
    """One fit, T = 1; :meth:`fit` refuses what its function does."""

    error: str  #: "chaos" or "euler", the function of heavytail.limit.coupling
    h: str  #: the neuron, see problem
    alpha: float  #: stability index in (0, 2]
    x: tuple[int, ...]  #: the widths, or the numbers of steps
    reference: int | str  #: as the function takes it
    seeds: int  #: how many
    first_seed: int  #: the first of them; they are consecutive
    size: int  #: the number of steps for "chaos", of particles for "euler"
    sigma: float = 0.5  #: scale of the noise
    kind: str = "independent"  #: of the noise
    signs: str | None = None  #: of the neurons
    coupled: bool = True  #: False is the control, for "chaos" only

    def fit(self) -> Rates:
        """Run the study."""
        options: dict[str, Any] = {
            "T": 1.0,
            "alpha": self.alpha,
            "sigma": self.sigma,
            "kind": self.kind,
            "seeds": range(
                self.first_seed, self.first_seed + self.seeds
            ),
            "reference": self.reference,
        }
        of = problem(self.h, self.signs)
        if self.error == "chaos":
            return chaos_error(
                of,
                self.x,
                steps=self.size,
                coupled=self.coupled,
                **options,
            )
        if self.error != "euler" or not self.coupled:
            raise ValueError(
                f"a study must be of 'chaos', or coupled and of 'euler', got {self}"
            )
        return euler_error(of, self.x, n=self.size, **options)


def _studies() -> Iterator[Study]:
    """Yield the studies of the book; each has seeds of its own."""
    first = iter(range(0, 10**6, 1000))
    wide = tuple(4**k for k in range(2, 8))
    for alpha in (0.7, 1.2, 1.5, 1.75, 1.9, 2.0):
        yield Study(
            "chaos", "tanh", alpha, wide, 65536, 64, next(first), 20
        )
    narrow = Study("chaos", "tanh", 1.5, wide[:-1], 16384, 64, 0, 20)
    for kind in ("shared", "independent", "isotropic"):
        for signs in (None, "alternating"):
            yield replace(
                narrow, kind=kind, signs=signs, first_seed=next(first)
            )
    yield replace(
        narrow, seeds=16, coupled=False, first_seed=next(first)
    )
    for alpha in (1.3, 1.5, 1.75, 1.9):
        widths = (10, 100, 1000, 10_000)
        yield Study(
            "chaos",
            "line",
            alpha,
            widths,
            "limit",
            600,
            next(first),
            20,
        )
    doubling = tuple(2**k for k in range(7, 15))
    for sigma in (0.5, 0.1):
        yield Study(
            "chaos",
            "relu",
            1.3,
            doubling,
            "twins",
            1000,
            next(first),
            20,
            sigma=sigma,
        )
    halving = tuple(2**k for k in range(3, 9))
    for h in ("tanh", "relu"):
        for alpha in (1.2, 1.5, 1.75, 1.9):
            yield Study(
                "euler", h, alpha, halving, 4096, 16, next(first), 500
            )
    for n in (100, 1000, 10_000, 100_000):
        yield Study(
            "euler", "tanh", 1.5, (16, 32), 512, 16, next(first), n
        )


STUDIES = tuple(_studies())


def run(study: Study, checkpoint: Path) -> dict[str, Any]:
    """Run a study for a sweep; errors have four digits."""
    rates = study.fit()
    assert rates.sup is not None
    errors = plain(
        {"errors": rates.errors, "sup_errors": rates.sup.errors},
        digits=4,
    )
    return {
        "x": rates.x.tolist(),
        "size": rates.size.tolist(),
        **errors,
    }


def read(path: str | os.PathLike[str]) -> list[tuple[Study, Rates]]:
    """Return the recorded studies with their rates."""
    found = []
    for entry in records.read(path):
        study = Study(
            **entry["config"] | {"x": tuple(entry["config"]["x"])}
        )
        part: dict[str, Tensor] = {
            name: torch.tensor(values, dtype=torch.float64)
            for name, values in entry["result"].items()
        }
        sup = Rates(part["x"], part["sup_errors"], part["size"])
        found.append(
            (
                study,
                Rates(part["x"], part["errors"], part["size"], sup=sup),
            )
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--record", type=Path, required=True, metavar="FILE"
    )
    path = parser.parse_args().record
    command = f"python book/rates.py --record {path}"
    what = "errors of each seed, at each width or step size; sup_errors: see Rates.sup"
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # of the processes that a sweep begins
    )
    print(sweep(run, STUDIES, Store(path, what=what, command=command)))
