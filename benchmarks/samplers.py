"""Time the symmetric sampler against its peers: python -m benchmarks.samplers [--record FILE].

All candidates run in turn in one process on one thread, several rounds; the figure of each is its
fastest round, and what is compared is a ratio within the run. Pyro is timed where it is installed.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import levy_stable
from torch import Tensor

import heavytail
from benchmarks.memory import extra_mebibytes
from heavytail.experiments.provenance import where
from tests.oracles import stable_tail

DRAWS = 1_000_000
ROUNDS = 11


def textbook(alpha: float, n: int, dtype: torch.dtype) -> Tensor:
    """Draw by the Chambers-Mallows-Stuck formula as textbooks print it."""
    U = (torch.rand(n, dtype=dtype) - 0.5) * math.pi
    W = torch.empty(n, dtype=dtype).exponential_()
    power = (torch.cos((1 - alpha) * U) / W) ** ((1 - alpha) / alpha)
    return torch.sin(alpha * U) / torch.cos(U) ** (1 / alpha) * power


def candidates(alpha: float) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; each call makes DRAWS draws."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)

    def ours(dtype: torch.dtype) -> Callable[[], object]:
        return lambda: heavytail.symmetric_stable(alpha, DRAWS, generator=generator, dtype=dtype)

    found: dict[str, Callable[[], object]] = {
        "scipy float64": lambda: levy_stable.rvs(alpha, 0, size=DRAWS, random_state=rng),
        "textbook float32": lambda: textbook(alpha, DRAWS, torch.float32),
        "textbook float64": lambda: textbook(alpha, DRAWS, torch.float64),
        "heavytail float32": ours(torch.float32),
        "heavytail float64": ours(torch.float64),
        "one 64-bit word": lambda: torch.empty(DRAWS, dtype=torch.int64).random_(
            generator=generator
        ),
    }
    try:
        from pyro.distributions import Stable
    except ModuleNotFoundError:
        return found
    for dtype in (torch.float32, torch.float64):
        law = Stable(torch.tensor(alpha, dtype=dtype), torch.tensor(0.0, dtype=dtype))
        name = f"pyro {str(dtype).removeprefix('torch.')}"
        found[name] = partial(law.sample, (DRAWS,))
    return found


def nanoseconds(alpha: float) -> dict[str, float]:
    """Return the fastest time a draw of each candidate, over interleaved rounds."""
    runs = candidates(alpha)
    best = dict.fromkeys(runs, math.inf)
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:  # the first round warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: 1e9 * seconds / DRAWS for name, seconds in best.items()}


def tails(alpha: float = 1.1, draws: int = 100_000_000) -> dict[str, Any]:
    """Count the draws beyond each level, and those that are no numbers, in the far tail."""
    levels = [1e4, 1e5, 1e6, 2e6, 1e7]
    runs = candidates(alpha)
    del runs["one 64-bit word"]
    torch.manual_seed(0)  # for those that read the global generator only
    found: dict[str, Any] = {}
    for name, run in runs.items():
        beyond, invalid = [0] * len(levels), 0
        for _ in range(draws // DRAWS):
            size = torch.as_tensor(run()).abs()
            invalid += int((~torch.isfinite(size)).sum())
            beyond = [
                total + int((size > level).sum())
                for total, level in zip(beyond, levels, strict=True)
            ]
        found[name] = {"beyond": beyond, "inf or nan": invalid}
    expected = [draws * stable_tail(alpha, level) for level in levels]
    return {"alpha": alpha, "draws": draws, "levels": levels, "expected": expected, "found": found}


def memory(draws: int = 50_000_000) -> float:
    """Return the peak memory in MiB of a float32 draw beyond its result."""
    setup = "import heavytail\nheavytail.symmetric_stable(1.75, 100)"
    statement = f"heavytail.symmetric_stable(1.75, {draws}, dtype=torch.float32)"
    return extra_mebibytes(setup, statement) - 4 * draws / 2**20


def record() -> dict[str, Any]:
    """Return the figures with what they were measured on."""
    torch.set_num_threads(1)
    figures = {str(alpha): nanoseconds(alpha) for alpha in (1.1, 1.75)}
    return {
        "what": "nanoseconds a draw, the fastest of the rounds; one thread, interleaved",
        "draws": DRAWS,
        "rounds": ROUNDS,
        "nanoseconds": figures,
        "extra_mebibytes_float32": round(memory(), 2),
        "tails": tails(),
        "command": "python -m benchmarks.samplers --record book/results/samplers.json",
        **where("pyro"),
    }


def main() -> None:
    """Measure, print a table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    figures = record()
    for alpha, times in figures["nanoseconds"].items():
        print(f"alpha = {alpha}")
        for name, value in times.items():
            mine = times["heavytail float64" if "64" in name else "heavytail float32"]
            print(f"  {name:18} {value:7.1f} ns   {value / mine:5.2f} x ours")
    print(f"extra memory of a float32 draw: {figures['extra_mebibytes_float32']:.1f} MiB")
    for name, counts in figures["tails"]["found"].items():
        print(f"  {name:18} beyond {counts['beyond']}, inf or nan {counts['inf or nan']}")
    target = parser.parse_args().record
    if target:
        target.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
