r"""Couplings: how far particles are from their limit, and the Euler scheme from the equation.

Systems that share starts and noise are compared particle by particle: the noise is additive and
cancels, and what the drift did is left. A power is fitted to the errors of several seeds.

Sources: Wan et al. 2024, as for the particles; for the coupling A.-S. Sznitman, Topics in
propagation of chaos, Lecture Notes in Mathematics 1464, Springer, 1991, Theorem 1.4. The twins, the
measurement of the Euler scheme and the scale of the linear gap are ours.
"""

import math
import reprlib
from collections.abc import Callable, Iterable
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.linalg import vector_norm as norm

from heavytail import _check
from heavytail.limit.particles import MOST, Scheme, entries_of
from heavytail.limit.problem import MeanField, System
from heavytail.limit.rates import STATISTICS, Rates

Integers = Iterable[int] | Tensor
_MOST_ENTRIES = 10**5


def chaos_error(
    problem: MeanField,
    widths: Integers,
    *,
    T: float,
    steps: int,
    alpha: float,
    sigma: float,
    kind: str,
    seeds: int | Integers,
    reference: int | str,
    statistic: str = "geometric",
    coupled: bool = True,
    tracers: int = 256,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Rates:
    r"""Measure how the distance of n particles from their limit falls with n.

    Particle i and its copy in a reference share the start and the noise. The error of a seed is the
    mean over particles of |theta^i - copy^i| at time T; ``Rates.sup`` has the mean over
    particles of the supremum over the steps. With h and its gradient bounded and Lipschitz it falls
    like n^{-1/2}; with unbounded h and alpha > 1 like n^{-(1 - 1/alpha)}. Errors that are 0 or not
    finite are a ValueError.

    The arguments are those of :func:`simulate`, but for

    - ``widths``: the n, 2 or more;
    - ``seeds``: a number of seeds, then 0, 1, ..., or different seeds; 2 to 10^5;
    - ``reference``: what stands for the limit. An integer N above all widths is a system of N
      particles, of which those of width n are the first n; the slope is that on 1 / (1/n - 1/N),
      exact for the rate 1/2; slower ones appear too slow, which a large N hardly cures.
      ``"limit"`` is the limit itself, for h = "linear", one start for all, no signs and alpha > 1.
      ``"twins"`` needs none: two independent systems of n particles each drive their own copy of
      further particles, the ``tracers``, and the error is the distance of the copies;
    - ``statistic``: over seeds, ``"mean"``, ``"geometric"`` or ``"median"``. Where h is unbounded
      the errors have infinite variance, and their mean says nothing;
    - ``coupled``: False gives the copies other noise: the control, whose slope is 0.
    """
    scheme = Scheme(problem, T, steps, alpha, sigma, kind, dtype, device)
    ns, tracers = _integers("widths", widths), _check.count("tracers", tracers, 1, MOST)
    _check.flag("coupled", coupled)
    most, inverse = max(ns), 0.0
    if isinstance(reference, str):
        _check.one_of("reference", reference, ("limit", "twins"))
    else:
        most = _check.count("reference, if not 'limit' or 'twins',", reference, most + 1, MOST)
        inverse = 1 / most
    linear = problem.h == "linear" and isinstance(problem.start, Tensor) and problem.signs is None
    if reference == "limit" and not (linear and alpha > 1):
        needs = "h = 'linear', a tensor start, no signs and alpha > 1"
        raise ValueError(f"reference 'limit' needs {needs}, got {problem!r}, alpha {alpha:g}")

    def system(theta: Tensor, driver: System | None = None) -> System:
        return System(problem, theta.clone(), driver)

    def measure(generator: torch.Generator) -> Tensor:
        def starts(n: int) -> Tensor:
            return problem._starts(n, generator, scheme.dtype)[None]

        drivers: list[System] = []
        sources: list[list[System]] = []
        if reference == "twins":
            A, B = ([system(s[:, :n]) for n in ns] for s in (starts(most), starts(most)))
            drivers, sources, start = A + B, [A, B], starts(tracers)
            ones, copies = ([system(start, driver) for driver in twin] for twin in (A, B))
        else:
            start = starts(most)
            ones = [system(start[:, :n]) for n in ns]
            if reference == "limit":  # all its particles have one drift: one of them is enough
                start = start[:, :1]
                drivers = [system(start)]
            copies = [system(start, *drivers)]
        sources += [ones + copies] if coupled else [ones, copies]
        pairs = [(a.theta[0], b.theta[0]) for a, b in zip(ones, cycle(copies), strict=False)]
        now: list[Tensor] = []
        worst: list[Tensor] = []
        for _ in scheme.run(drivers + ones + copies, sources, generator):
            now = [norm(a[: len(b)] - b[: len(a)], dim=1) for a, b in pairs]
            worst = [torch.maximum(*both) for both in zip(worst or now, now, strict=True)]
        return torch.stack([gap.mean() for gap in now + worst]).view(2, -1)

    size = [1 / (1 / n - inverse) for n in ns]
    return _rates("width", ns, size, statistic, seeds, scheme, measure)


def euler_error(
    problem: MeanField,
    steps: Integers,
    *,
    T: float,
    n: int,
    alpha: float,
    sigma: float,
    kind: str,
    seeds: int | Integers,
    reference: int | None = None,
    statistic: str = "geometric",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Rates:
    r"""Measure how the error of the Euler scheme at time T falls with the step size eta = T / K.

    One path of the noise, in the steps of the finest scheme, drives all: the increment over a long
    step is the sum of those over its short ones. The error of a seed is the mean over particles of
    the distance from the finest scheme; ``Rates.sup`` has the largest over particles. For
    additive symmetric noise and a smooth drift the power of eta is 1.

    The arguments are those of :func:`simulate` and :func:`chaos_error`, but for

    - ``steps``: the numbers of steps K, 2 or more;
    - ``reference``: steps of the finest scheme, a multiple of each K above all, up to 10^9; None is
      8 times their least common multiple. The slope is that on eta minus the finest eta: exact for
      an error c eta; one that is random and centred reads 0.976 instead of 1 between 8 and 16 times
      the finest eta, 0.988 between 16 and 32 times.
    """
    counts = _integers("steps", steps)
    finest = 8 * math.lcm(*counts) if reference is None else reference
    finest = _check.count("reference (None: 8 lcm(steps))", finest, max(counts) + 1, MOST)
    if any(finest % K for K in counts):
        raise ValueError(f"each of steps must divide the reference, {finest}, got {counts}")
    scheme = Scheme(problem, T, finest, alpha, sigma, kind, dtype, device)
    n = _check.count("n", n, 1, MOST)

    def measure(generator: torch.Generator) -> Tensor:
        start = problem._starts(n, generator, scheme.dtype)[None]
        systems = [System(problem, start.clone(), stride=finest // K) for K in [*counts, finest]]
        for _ in scheme.run(systems, [systems], generator):
            pass
        gaps = norm(torch.cat([s.theta for s in systems[:-1]]) - systems[-1].theta, dim=2)
        return torch.stack([gaps.mean(1), gaps.amax(1)])

    etas = [T / K for K in counts]
    size = [eta - T / finest for eta in etas]
    return _rates("step size", etas, size, statistic, seeds, scheme, measure)


def _rates(
    name: str,
    x: list[int] | list[float],
    size: list[float],
    statistic: str,
    seeds: int | Integers,
    scheme: Scheme,
    measure: Callable[[torch.Generator], Tensor],
) -> Rates:
    """Measure each seed's errors and suprema, (2, m); return their rates."""
    _check.one_of("statistic", statistic, STATISTICS)
    if not isinstance(seeds, Iterable):
        seeds = range(_check.count("seeds", seeds, 2, _MOST_ENTRIES))
    seeds = _integers("seeds", seeds, 0, 2**64 - 1)
    generator = torch.Generator(scheme.device)
    with torch.no_grad():
        each = [measure(generator.manual_seed(seed)) for seed in seeds]
    errors = torch.stack(each, 1).double().cpu()
    for which, s, j in (~(errors.isfinite() & (errors > 0))).nonzero().tolist():
        value, seed = float(errors[which, s, j]), seeds[s]
        why = "is nothing random, or no drift?" if value == 0 else "it blew up, take more steps"
        got = f"{value:g} at {name} {x[j]:g}, seed {seed}"
        raise ValueError(f"an error has no logarithm: got {got}: {why}")
    at, of = torch.tensor([x, size], dtype=torch.float64, device="cpu")
    return Rates(at, errors[0], of, statistic, Rates(at, errors[1], of, statistic))


def _integers(name: str, values: Integers, least: int = 1, most: int = MOST) -> list[int]:
    """Return 2 or more different integers."""
    some = islice(entries_of(name, values), _MOST_ENTRIES + 1)
    numbers = [_check.count(f"each of {name}", entry, least, most) for entry in some]
    if len(set(numbers)) != len(numbers) or not 2 <= len(numbers) <= _MOST_ENTRIES:
        needs = f"{name} must be 2 to {_MOST_ENTRIES} different integers"
        raise ValueError(f"{needs}, got {reprlib.repr(numbers)}")
    return numbers


def linear_gap_scale(
    n: int, *, T: float, steps: int | None, alpha: float, sigma: float, curvature: float = 1.0
) -> float:
    r"""Return the scale of theta^{i,n} - theta^{i,infinity} where the problem is linear.

    Let d = 1, h(x, theta) = theta x, all particles start at one point, alpha > 1, and l'' E x^2 = A
    constant. Then the difference at time T = K eta has the law S(alpha)S(gamma), the same draw for
    every particle i: for K steps of the Euler scheme, and in the limit of many steps,

        gamma = sigma n^{1/alpha - 1} (eta sum_{k < K} |1 - (1 - A eta)^k|^alpha)^{1/alpha},
        gamma = sigma n^{1/alpha - 1} (int_0^T (1 - e^{-A u})^alpha du)^{1/alpha}.

    For the mean of n stable increments is stable, of scale n^{1/alpha - 1}. Arguments are those of
    :func:`simulate`, but alpha is in (1, 2], below which there is no limit; ``steps`` is K, up to
    10^7, or None for the limit of many steps; ``curvature`` is A >= 0, per unit of time.
    """
    n, T = _check.count("n", n, 1, MOST), _check.number("T", T, _check.POSITIVE)
    alpha = _check.number("alpha", alpha, "(1, 2]")
    sigma = _check.number("sigma", sigma, _check.NONNEGATIVE)
    A = _check.number("curvature", curvature, _check.NONNEGATIVE)
    if steps is None:
        from scipy import integrate  # slow to import

        total = float(integrate.quad(lambda u: (-math.expm1(-A * u)) ** alpha, 0, T)[0])
    else:
        K = _check.count("steps", steps, 1, 10**7)
        left = (1 - A * T / K) ** torch.arange(K, dtype=torch.float64, device="cpu")
        total = T / K * float((1 - left).abs().pow(alpha).sum())
    scale = sigma * n ** (1 / alpha - 1) * total ** (1 / alpha)
    return _check.number("the scale for T, steps, alpha, sigma and curvature", scale)
