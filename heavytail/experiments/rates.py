r"""The recorded rates of the mean-field chapters.

``python -m heavytail.experiments.rates --record FILE`` runs the studies of the book and writes each
as soon as it is done; studies that FILE holds already are not repeated.

The errors of all seeds are recorded, so that a page can fit them anew.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from heavytail import _check
from heavytail.experiments._files import write_text
from heavytail.experiments.provenance import origin
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
    """One fit.

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

    def run(self) -> Rates:
        """Run the study, T = 1."""
        options: dict[str, Any] = {
            "T": 1.0,
            "alpha": self.alpha,
            "sigma": self.sigma,
            "kind": self.kind,
            "seeds": range(self.first_seed, self.first_seed + self.seeds),
            "reference": self.reference,
        }
        of = problem(self.h, self.signs)
        if self.error == "euler":
            return euler_error(of, self.x, n=self.size, **options)
        return chaos_error(of, self.x, steps=self.size, coupled=self.coupled, **options)


def studies() -> list[Study]:
    """Return the studies of the book; each has seeds of its own."""
    first = iter(range(0, 10**6, 1000))
    wide = tuple(4**k for k in range(2, 8))
    found = [
        Study("chaos", "tanh", alpha, wide, 65536, 64, next(first), 20)
        for alpha in (0.7, 1.2, 1.5, 1.75, 1.9, 2.0)
    ]
    found += [
        Study("chaos", "tanh", 1.5, wide[:-1], 16384, 64, next(first), 20, kind=kind, signs=signs)
        for kind in ("shared", "independent", "isotropic")
        for signs in (None, "alternating")
    ]
    found.append(Study("chaos", "tanh", 1.5, wide[:-1], 16384, 16, next(first), 20, coupled=False))
    found += [
        Study("chaos", "line", alpha, (10, 100, 1000, 10_000), "limit", 600, next(first), 20)
        for alpha in (1.3, 1.5, 1.75, 1.9)
    ]
    doubling = tuple(2**k for k in range(7, 15))
    found += [
        Study("chaos", "relu", 1.3, doubling, "twins", 1000, next(first), 20, sigma=sigma)
        for sigma in (0.5, 0.1)
    ]
    halving = tuple(2**k for k in range(3, 9))
    found += [
        Study("euler", h, alpha, halving, 4096, 16, next(first), 500)
        for h in ("tanh", "relu")
        for alpha in (1.2, 1.5, 1.75, 1.9)
    ]
    found += [
        Study("euler", "tanh", 1.5, (16, 32), 512, 16, next(first), n)
        for n in (100, 1000, 10_000, 100_000)
    ]
    return found


def read(path: Path) -> list[tuple[Study, Rates]]:
    """Return the recorded studies with their rates."""
    found = []
    for entry in json.loads(path.read_text())["studies"]:
        config = entry["config"] | {"x": tuple(entry["config"]["x"])}

        def tensor(name: str, entry: dict[str, Any] = entry) -> Tensor:
            return torch.tensor(entry[name], dtype=torch.float64)

        at = tensor("x"), tensor("errors"), tensor("size")
        sup = Rates(at[0], tensor("sup_errors"), at[2])
        found.append((Study(**config), Rates(*at, sup=sup)))
    return found


def _rounded(errors: Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in errors.tolist()]


def record(path: Path, wanted: Iterable[Study]) -> None:
    """Run what the file does not hold yet, and write it after each study, in one move."""
    done = json.loads(path.read_text())["studies"] if path.exists() else []
    known = [entry["config"] for entry in done]
    configs = [json.loads(json.dumps(asdict(study))) for study in wanted]
    for config in tqdm([config for config in configs if config not in known], unit="study"):
        start = time.perf_counter()
        rates = Study(**config | {"x": tuple(config["x"])}).run()
        assert rates.sup is not None
        done.append(
            {
                "config": config,
                "x": rates.x.tolist(),
                "size": rates.size.tolist(),
                "errors": _rounded(rates.errors),
                "sup_errors": _rounded(rates.sup.errors),
                "seconds": round(time.perf_counter() - start, 1),
                **origin(),
            }
        )
        content = {
            "what": "errors of each seed, at each width or step size; sup_errors: see Rates.sup",
            "studies": done,
            "command": f"python -m heavytail.experiments.rates --record {path}",
        }
        write_text(path, json.dumps(content) + "\n")


def main() -> None:
    """Run the studies, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, required=True, help="the JSON file to go on with")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    record(arguments.record, studies())


if __name__ == "__main__":
    main()
