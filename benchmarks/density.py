"""Time and check the log density beside scipy's: python -m benchmarks.density.

Errors are those of log f on a grid of points and laws, against tanh-sinh quadrature in 30 digits
or more. Times are the fastest of several interleaved rounds, on one thread.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import levy_stable

from benchmarks.timing import command_line, fastest
from heavytail import Stable
from heavytail.laws import _integrals
from tests.oracles import stable_log_density

ALPHAS = (0.5, 0.8, 0.99, 1 - 1e-6, 1.0, 1 + 1e-6, 1.01, 1.1, 1.5, 1.75, 1.9, 2 - 1e-6)
BETAS = (0.0, 0.5, -0.9)
POINTS = (
    *(-1e6, -1e4, -100.0, -20.0, -8.0, -3.0, -1.0, -0.2),
    *(0.0, 0.1, 0.5, 2.0, 5.0, 30.0, 1e3, 1e6),
)
BODY = 8.0
ROUNDS = 9


def ours(alpha: float, beta: float, x: np.ndarray) -> np.ndarray:
    """Return log f(x) of S0(alpha, beta)."""
    law = Stable(torch.tensor(alpha, dtype=torch.float64), beta, parameterization="S0")
    return law.log_prob(torch.from_numpy(x)).numpy()


def scipys(alpha: float, beta: float, x: np.ndarray) -> np.ndarray:
    """Return the same from scipy."""
    with np.errstate(all="ignore"):
        return np.asarray(levy_stable.logpdf(x, alpha, beta))


def errors() -> dict[str, Any]:
    """Return the largest errors of each over the grid, in the body and beyond."""
    levy_stable.parameterization = "S0"
    x = np.array(POINTS)
    found: dict[str, Any] = {}
    lost: list[tuple[float, float, float]] = []
    for beta, alpha in itertools.product(BETAS, ALPHAS):
        exact = np.array([stable_log_density(alpha, beta, point) for point in POINTS])
        good = ~np.isnan(exact)
        lost += [(alpha, beta, float(point)) for point in x[~good]]
        for name, log_density in (("heavytail", ours), ("scipy", scipys)):
            error = np.abs(log_density(alpha, beta, x) - exact)
            error = np.where(np.isnan(error), math.inf, error)
            for part, inside in (("body", np.abs(x) <= BODY), ("tail", np.abs(x) > BODY)):
                law = "symmetric" if beta == 0 else "skewed"
                worst = found.setdefault(name, {}).setdefault(f"{law}, {part}", [])
                worst += error[inside & good].tolist()
    summary = {
        name: {part: summary_of(np.array(values)) for part, values in parts.items()}
        for name, parts in found.items()
    }
    return {"errors": summary, "without a reference (alpha, beta, x)": lost}


def summary_of(errors: np.ndarray) -> dict[str, float]:
    """Return what is said of a set of errors."""
    finite = errors[np.isfinite(errors)]
    return {
        "points": len(errors),
        "median": float(np.median(errors)),
        "above 1e-6": int((errors > 1e-6).sum()),
        "infinite": len(errors) - len(finite),
        "largest finite": float(finite.max()),
    }


def microseconds(alpha: float, beta: float, rounds: int) -> dict[str, float]:
    """Return the fastest time a point of each."""
    rng = np.random.default_rng(0)
    many = np.tan((rng.random(1_000_000) - 0.5) * 3.1415)
    few = many[:1000]

    def fresh() -> object:
        _integrals._tables.clear()
        return ours(alpha, beta, many)

    runs: dict[str, tuple[Callable[[], object], int]] = {
        "heavytail, 10^6 points": (fresh, len(many)),
        "heavytail, 10^3 points": (lambda: ours(alpha, beta, few), len(few)),
        "scipy, 10^3 points": (lambda: scipys(alpha, beta, few), len(few)),
    }
    best = fastest({name: run for name, (run, _) in runs.items()}, rounds)
    return {name: 1e6 * best[name] / points for name, (_, points) in runs.items()}


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    torch.set_num_threads(1)
    return {
        "what": "errors of log f against tanh-sinh quadrature; microseconds a point, one thread",
        "grid": {"alpha": ALPHAS, "beta": BETAS, "x": POINTS, "form": "S0", "body": BODY},
        **errors(),
        "microseconds": {
            f"{a}, {b}": microseconds(a, b, rounds) for a, b in ((1.75, 0.0), (1.5, 0.5))
        },
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS)
