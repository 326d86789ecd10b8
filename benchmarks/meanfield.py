"""Time and weigh the particle simulation: python -m benchmarks.meanfield.

The peer is the same Euler scheme as one writes it with numpy and scipy. Both run in turn on one
thread, several rounds; the figure of each is its fastest. Memory is the peak of a new process,
beyond what it holds before.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import levy_stable

import heavytail
from benchmarks.memory import extra_mebibytes
from benchmarks.timing import command_line, fastest

RUN: dict[str, Any] = {"T": 1.0, "alpha": 1.75, "sigma": 0.5, "kind": "independent", "seed": 0}
PARTICLES, DIMENSION, DATA, STEPS = 100_000, 2, 16, 100
SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 3

_SETUP = f"""
import heavytail
x = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
problem = heavytail.MeanField(x, x[:, 0].sin())
run = lambda n, steps: heavytail.simulate(problem, n, steps=steps, dtype=torch.float32, **{RUN})
run(100, 1)
"""


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (DATA, DIMENSION) and targets (DATA,)."""
    x = np.random.default_rng(0).standard_normal((DATA, DIMENSION))
    return x, np.sin(x[:, 0])


def ours(n: int, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the particles at the end."""
    x, y = map(torch.from_numpy, data())
    problem = heavytail.MeanField(x, y)
    return heavytail.simulate(problem, n, steps=steps, dtype=dtype, **RUN).particles


def plain(n: int, steps: int) -> np.ndarray:
    """Return the same by a loop of numpy with scipy's sampler."""
    x, y = data()
    rng, eta, alpha = np.random.default_rng(0), RUN["T"] / steps, RUN["alpha"]
    theta = rng.standard_normal((n, DIMENSION))
    for _ in range(steps):
        value = np.tanh(theta @ x.T)
        error = value.mean(0) - y
        drift = -((1 - value**2) * error) @ x / len(y)
        xi = levy_stable.rvs(alpha, 0.0, size=(n, DIMENSION), random_state=rng)
        theta = theta + eta * drift + RUN["sigma"] * eta ** (1 / alpha) * xi
    return theta


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    torch.set_num_threads(1)
    case = PARTICLES, STEPS
    seconds = fastest(
        {
            "numpy and scipy": partial(plain, *case),
            "heavytail, float64": partial(ours, *case, torch.float64),
            "heavytail, float32": partial(ours, *case, torch.float32),
        },
        rounds,
    )
    steps = {n: max(10, 10_000_000 // n) for n in SIZES}
    by_size = fastest({str(n): partial(ours, n, steps[n], torch.float32) for n in SIZES}, rounds)
    return {
        "what": "one thread, interleaved, the fastest of the rounds",
        "case": f"tanh, {DATA} data in R^{DIMENSION}, kind II, alpha {RUN['alpha']}",
        "particles": PARTICLES,
        "steps": STEPS,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "plain / heavytail": {
            dtype: round(seconds["numpy and scipy"] / seconds[f"heavytail, {dtype}"], 2)
            for dtype in ("float32", "float64")
        },
        "nanoseconds a particle and step, float32": {
            n: round(1e9 * value / int(n) / steps[int(n)], 1) for n, value in by_size.items()
        },
        "extra MiB of 10^6 particles in R^10, 8 data, float32, by steps": {
            str(k): round(extra_mebibytes(_SETUP, f"run(1_000_000, {k})")) for k in (5, 1000)
        },
        "rounds": rounds,
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS)
