"""Tests of laws with infinite variance: bounded functions of the draws, and exact tails.

Each returns what a fixed bar is held against: a z-score, |z| < 4, or a p-value, p > 1e-5.
"""

import math
from collections.abc import Callable

import torch
from scipy import integrate, stats
from torch import Tensor


def z_of_cosines(x: Tensor, u: float, characteristic: Callable[[float], float]) -> float:
    """Return the z-score of the mean of cos(u x) for a symmetric law, phi = ``characteristic``.

    cos(uX) has mean phi(u) and variance (1 + phi(2u)) / 2 - phi(u)^2.
    """
    mean = float(torch.cos(u * x.double()).mean())
    variance = (1 + characteristic(2 * u)) / 2 - characteristic(u) ** 2
    return (mean - characteristic(u)) / math.sqrt(variance / x.numel())


def z_of_laplace(x: Tensor, s: float, laplace: Callable[[float], float]) -> float:
    """Return the z-score of the mean of exp(-s x) for a positive law, L = ``laplace``.

    exp(-sA) has mean L(s) and variance L(2s) - L(s)^2.
    """
    mean = float(torch.exp(-s * x.double()).mean())
    return (mean - laplace(s)) / math.sqrt((laplace(2 * s) - laplace(s) ** 2) / x.numel())


def stable_phi(alpha: float, scale: float = 1.0) -> Callable[[float], float]:
    """Return the characteristic function of S(alpha)S(scale)."""
    return lambda u: math.exp(-(abs(scale * u) ** alpha))


def stable_tail(alpha: float, x: float) -> float:
    """Return P(|X| > x) for X ~ S(alpha)S(1), 1 < alpha < 2, by quadrature.

    Given the angle, |X| > x is W > (x / T)^{alpha / (alpha - 1)} for an exponential W, with
    T = |sin(alpha U)| cos(U)^{-1/alpha} cos((alpha - 1) U)^{(1 - alpha)/alpha}.
    """

    def integrand(log_v: float) -> float:
        v = math.exp(log_v)  # the distance to the pole: the tail is where it is small
        u = math.pi / 2 - v
        t = abs(math.sin(alpha * u)) * math.sin(v) ** (-1 / alpha)
        t *= math.cos((alpha - 1) * u) ** ((1 - alpha) / alpha)
        return v * math.exp(-((x / t) ** (alpha / (alpha - 1)))) if t > 0 else 0.0

    value, _ = integrate.quad(
        integrand, -60, math.log(math.pi / 2), limit=500, epsabs=0, epsrel=1e-9
    )
    return 2 / math.pi * float(value)


def p_of_count(count: int, expected: float) -> float:
    """Return the two-sided p-value of a Poisson count."""
    below, above = stats.poisson.cdf(count, expected), stats.poisson.sf(count - 1, expected)
    return min(1.0, 2 * float(min(below, above)))
