"""Time and check the log density beside scipy's: python -m benchmarks.density.

Errors are those of log f on a grid of points and laws, against tanh-sinh quadrature in 30 digits
or more. Times are the fastest of several interleaved rounds, on one thread.
"""

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy.stats import levy_stable

from benchmarks.timing import command_line, fastest
from heavytail import Stable
from heavytail.laws import distribution
from tests.oracles import stable_log_density

ALPHAS = (0.5, 0.8, 0.99, 1 - 1e-6, 1.0, 1 + 1e-6, 1.01, 1.1, 1.5, 1.75, 1.9, 2 - 1e-6)
BETAS = (0.0, 0.5, -0.9)
LEFT, RIGHT = (-1e6, -1e4, -100.0, -20.0, -8.0, -3.0, -1.0, -0.2), (0.1, 0.5, 2.0, 5.0)
POINTS = (*LEFT, 0.0, *RIGHT, 30.0, 1e3, 1e6)
BODY = 8.0
LAWS = ((1.75, 0.0), (1.5, 0.5))


def ours(alpha: float, beta: float, x: np.ndarray) -> np.ndarray:
    """Return log f(x) of S0(alpha, beta)."""
    law = Stable(torch.tensor(alpha, dtype=torch.float64), beta, parameterization="S0")
    return law.log_prob(torch.from_numpy(x)).numpy()


def scipys(alpha: float, beta: float, x: np.ndarray) -> np.ndarray:
    """Return the same from scipy."""
    with np.errstate(all="ignore"):
        return np.asarray(levy_stable.logpdf(x, alpha, beta))


def errors() -> dict[str, Any]:
    """Return the errors of each over the grid, in the body and beyond."""
    levy_stable.parameterization = "S0"
    x, laws = np.array(POINTS), list(itertools.product(ALPHAS, BETAS))
    exact = np.array([[stable_log_density(*law, point) for point in POINTS] for law in laws])
    known, symmetric = ~np.isnan(exact), np.array([beta == 0 for _, beta in laws])[:, None]
    found = {}
    for name, log_density in (("heavytail", ours), ("scipy", scipys)):
        error = np.abs(np.array([log_density(*law, x) for law in laws]) - exact)
        error = np.where(np.isnan(error), math.inf, error)
        found[name] = {
            f"{law}, {part}": summary_of(error[known & of_law & of_part])
            for law, of_law in (("symmetric", symmetric), ("skewed", ~symmetric))
            for part, of_part in (("body", np.abs(x) <= BODY), ("tail", np.abs(x) > BODY))
        }
    lost = [(*laws[i], POINTS[j]) for i, j in np.argwhere(~known)]
    return {"errors": found, "without a reference (alpha, beta, x)": lost}


def summary_of(errors: np.ndarray) -> dict[str, float]:
    """Return what is said of a set of errors."""
    return {
        "points": len(errors),
        "median": float(np.median(errors)),
        "above 1e-6": int((errors > 1e-6).sum()),
        "infinite": int(np.isinf(errors).sum()),
        "largest finite": float(errors[np.isfinite(errors)].max()),
    }


def microseconds(alpha: float, beta: float, rounds: int) -> dict[str, float]:
    """Return the fastest time a point of each."""
    many = np.tan((np.random.default_rng(0).random(1_000_000) - 0.5) * 3.1415)

    def fresh() -> np.ndarray:
        distribution._table.cache_clear()
        return ours(alpha, beta, many)

    runs = {
        "heavytail, 10^6 points": fresh,
        "heavytail, 10^3 points": lambda: ours(alpha, beta, many[:1000]),
        "scipy, 10^3 points": lambda: scipys(alpha, beta, many[:1000]),
    }
    best = fastest(runs, rounds)
    return {name: seconds * (1 if "10^6" in name else 1000) for name, seconds in best.items()}


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    torch.set_num_threads(1)
    return {
        "what": "errors of log f against tanh-sinh quadrature; microseconds a point, one thread",
        "grid": {"alpha": ALPHAS, "beta": BETAS, "x": POINTS, "form": "S0", "body": BODY},
        **errors(),
        "microseconds": {f"{a}, {b}": microseconds(a, b, rounds) for a, b in LAWS},
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=9)
