"""Tests of laws with infinite variance: bounded functions of the draws, and exact tails.

Each returns what a fixed bar is held against: a z-score, |z| < 4, or a p-value, p > 1e-5.
"""

import math
from collections.abc import Callable

import mpmath
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


def textbook(alpha: float, U: Tensor, W: Tensor) -> Tensor:
    """Return S(alpha)S(1), alpha != 1, by the Chambers-Mallows-Stuck formula as textbooks print it.

    U is uniform in (-pi/2, pi/2), W exponential. Its cos(U) loses digits near the poles.
    """
    power = (torch.cos((1 - alpha) * U) / W) ** ((1 - alpha) / alpha)
    return torch.sin(alpha * U) / torch.cos(U) ** (1 / alpha) * power


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


def stable_log_density(alpha: float, beta: float, x: float) -> float:
    """Return log f(x) of S0(alpha, beta) by tanh-sinh quadrature, 30 digits or more; nan if unsure.

    The inversion integral (1/pi) Re int exp(-iux) phi(u) du, along a ray u = r exp(-i turn) that
    makes it decay. Not for a light tail, where f is smaller than its integrand.
    """
    with mpmath.workdps(30 if alpha < 1.99 else 50):  # a thin tail needs more
        alpha, beta, x = (mpmath.mpf(v) for v in (alpha, beta, x))
        tangent = 0 if alpha == 1 else beta * mpmath.tan(mpmath.pi * alpha / 2)
        z = x + tangent
        end = mpmath.inf
        if abs(alpha - 1) < 0.01 and beta != 0:  # z is of no use there
            turn = mpmath.sign(x if abs(x) > 5 else beta) * mpmath.mpf("0.3")
            end = 400 / (1 + abs(x) / 4)  # where the integrand has gone
        else:
            most = (mpmath.pi / 2 - mpmath.atan(tangent) * mpmath.sign(z)) / alpha
            turn = mpmath.sign(z) * min(most, mpmath.pi / 2) * mpmath.mpf("0.7")
        ray = mpmath.expj(-turn)

        def integrand(r):
            u = r * ray
            if alpha == 1:
                skew = beta * 2 / mpmath.pi * u * mpmath.log(u)
            else:
                skew = tangent * (u - u**alpha)
            return mpmath.re(ray * mpmath.exp(-1j * u * x - u**alpha - 1j * skew))

        unit = 1 / (1 + abs(x if end < mpmath.inf else z))
        breaks = [unit * mpmath.mpf(2) ** k for k in (*range(-12, 0, 2), *range(11))]
        value, error = mpmath.quad(integrand, [0, *breaks, end], error=True, maxdegree=8)
        trusted = value > 0 and error < 1e-13 * value
        return float(mpmath.log(value / mpmath.pi)) if trusted else math.nan


def p_of_count(count: int, expected: float) -> float:
    """Return the two-sided p-value of a Poisson count."""
    below, above = stats.poisson.cdf(count, expected), stats.poisson.sf(count - 1, expected)
    return min(1.0, 2 * float(min(below, above)))
