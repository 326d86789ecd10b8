"""Time the symmetric sampler against its peers: python -m benchmarks.samplers.

All candidates run in turn in one process on one thread, several rounds; the figure of each is its
fastest round, and what is compared is a ratio within the run. Pyro is timed where it is installed.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import levy_stable

from benchmarks.timing import command_line, fastest
from heavytail import symmetric_stable
from tests.oracles import stable_tail, textbook

DRAWS = 1_000_000
ROUNDS = 11
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def textbook_draws(alpha: float, dtype: torch.dtype) -> torch.Tensor:
    """Make the draws by the formula as textbooks print it, whose far tail is wrong."""
    U = (torch.rand(DRAWS, dtype=dtype) - 0.5) * math.pi
    return textbook(alpha, U, torch.empty(DRAWS, dtype=dtype).exponential_())


def candidates(alpha: float) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; each call makes DRAWS draws."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Callable[[], object]] = {
        "scipy float64": lambda: levy_stable.rvs(alpha, 0, size=DRAWS, random_state=rng),
        "one 64-bit word": lambda: torch.empty(DRAWS, dtype=torch.int64).random_(
            generator=generator
        ),
    }
    for name, dtype in DTYPES.items():
        found[f"textbook {name}"] = partial(textbook_draws, alpha, dtype)
        found[f"heavytail {name}"] = partial(
            symmetric_stable, alpha, DRAWS, generator=generator, dtype=dtype
        )
    try:
        from pyro.distributions import Stable
    except ModuleNotFoundError:
        return found
    for name, dtype in DTYPES.items():
        law = Stable(torch.tensor(alpha, dtype=dtype), torch.tensor(0.0, dtype=dtype))
        found[f"pyro {name}"] = partial(law.sample, (DRAWS,))
    return found


def nanoseconds(alpha: float, rounds: int) -> dict[str, float]:
    """Return the fastest time a draw of each candidate."""
    best = fastest(candidates(alpha), rounds, warm_up=True)
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
            more = [int((size > level).sum()) for level in levels]
            beyond = [total + some for total, some in zip(beyond, more, strict=True)]
        found[name] = {"beyond": beyond, "inf or nan": invalid}
    expected = [draws * stable_tail(alpha, level) for level in levels]
    return {"alpha": alpha, "draws": draws, "levels": levels, "expected": expected, "found": found}


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    torch.set_num_threads(1)
    figures = {str(alpha): nanoseconds(alpha, rounds) for alpha in (1.1, 1.75)}
    return {
        "what": "nanoseconds a draw, the fastest of the rounds; one thread, interleaved",
        "draws": DRAWS,
        "rounds": rounds,
        "nanoseconds": figures,
        "tails": tails(),
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS, peers=("pyro",))
