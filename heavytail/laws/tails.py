"""The tail index from data: three estimators, each with its standard error.

The tail index of a law is the alpha of P(|X| > x) ~ C x^-alpha; of a stable law of index below 2
it is the stability index. The three assume independent values, and different things of their law:

* :func:`heavytail.hill` a power tail beyond some order statistic; where it is not yet one it has a
  bias, which is large for a stable law of index near 2.
* :func:`heavytail.log_moment` that sums of the values are distributed like the values, up to a
  factor: strictly stable, centred at 0.
* :func:`heavytail.stable_mle` S(alpha)S(scale), and is then the most precise of the three.

A standard error does not show that an assumption fails: two estimators that differ by many standard
errors do. All take finite floating-point tensors of any shape, flattened and moved to the CPU, and
raise ``TypeError`` or ``ValueError`` on anything else.

References:
    - B. M. Hill, A simple general approach to inference about the tail of a distribution,
      Ann. Statist. 3 (1975) 1163-1174; normality: L. de Haan, A. Ferreira, Extreme Value Theory,
      Springer, 2006, Theorem 3.2.5.
    - M. Mohammadi, A. Mohammadpour, H. Ogata, On estimating the tail index and the spectral measure
      of multivariate alpha-stable distributions, Metrika 78 (2015) 549-561.
    - W. H. DuMouchel, On the asymptotic normality of the maximum-likelihood estimate when sampling
      from a stable distribution, Ann. Statist. 1 (1973) 948-957.
    - X. Ma, C. L. Nikias, Parameter estimation and blind channel identification in impulsive signal
      environments, IEEE Trans. Signal Process. 43 (1995) 2884-2897: the start of stable_mle.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heavytail import _check
from heavytail.laws.density import peak_width
from heavytail.laws.distribution import log_density

Array: TypeAlias = NDArray[np.float64]

_BELOW_NONZERO = "below the number of values that are not 0"
_CENTRE = "centre x, as x - x.median() without the 0 that it makes, or take hill"

# The maximum is sought for alpha between these; the upper end stands for 2, where the derivative
# of the likelihood in alpha has no finite variance and the Gaussian takes over.
_LEAST_ALPHA, _NEAR_2 = 0.3, 2 - 1e-6


@dataclass(frozen=True)
class TailEstimate:
    """An estimate of the tail index, and what was chosen for it."""

    alpha: float  #: the estimate; of :func:`hill` and :func:`log_moment` it may exceed 2
    stderr: float  #: its standard error; nan where there is none, see :func:`stable_mle`
    method: str  #: "hill", "log_moment" or "stable_mle"
    n: int  #: number of values used
    k: int | None = None  #: hill: number of upper order statistics
    block: int | None = None  #: log_moment: terms of a sum
    scale: float = math.nan  #: stable_mle: the scale of S(alpha)S(scale)
    scale_stderr: float = math.nan  #: stable_mle: its standard error


@dataclass(frozen=True)
class HillCurve:
    """Hill's estimate for many k: what a Hill plot shows."""

    k: Tensor  #: shape (m,), int64: numbers of upper order statistics
    alpha: Tensor  #: shape (m,), float64: the estimate at each; inf where the k + 1 largest agree
    stderr: Tensor  #: shape (m,), float64: alpha / sqrt(k)
    n: int  #: number of values


def hill(x: Tensor, k: int) -> TailEstimate:
    r"""Estimate the tail index from the k largest absolute values: Hill's estimator.

    With |x|_(1) >= |x|_(2) >= ... the absolute values in falling order,

        1 / alpha_hat = (1/k) sum_{i <= k} log |x|_(i) - log |x|_(k+1),
        stderr = alpha_hat / sqrt(k).

    For exact Pareto data k alpha / alpha_hat is a Gamma(k) variable at every k. For any other law
    the estimate has a bias that falls with k / n while the standard error grows, so look at
    :func:`hill_curve` first. For S(1.9)S with n = 1e5, k = 1000 gives about 2.6 +- 0.08, not 1.9.

    Args:
        x: n >= 2 values. Both signs count; a common factor does not.
        k: >= 1, and below the number of values that are not 0; the k + 1 largest |x| are not all
            equal.
    """
    x = _values(x, least=2)
    sizes = x[x != 0].abs()
    k = _check.count(f"k, {_BELOW_NONZERO},", k, 1, len(sizes) - 1)
    alpha = float(_hill_alphas(sizes.topk(k + 1).values)[-1])
    if math.isinf(alpha):
        raise ValueError(f"the {k + 1} largest |x| must not all be equal, got {float(sizes.max())}")
    return TailEstimate(alpha, alpha / math.sqrt(k), "hill", len(x), k=k)


def hill_curve(
    x: Tensor, ks: Iterable[int] | Tensor | NDArray[np.integer[Any]] | None = None
) -> HillCurve:
    r"""Return Hill's estimate for a whole grid of k, in O(n log n): the data of a Hill plot.

    One sort gives all: with spacings s_i = log |x|_(i) - log |x|_(i+1), Rényi's representation,
    1 / alpha_hat(k) = (1/k) sum_{i <= k} i s_i. A k that may be used lies on a stretch where the
    curve is flat within its standard errors. It is smooth since neighbouring k share their data.

    ``x`` and each k are as for :func:`hill`; ``ks`` is a sequence, tensor or numpy array (m,), None
    all of them. The curve is inf where :func:`hill` finds all |x| equal.
    """
    x = _values(x, least=2)
    sizes = x[x != 0].abs()
    entries = ks.tolist() if isinstance(ks, Tensor) else ks
    if entries is None:
        entries = range(1, len(sizes))
    if not isinstance(entries, Iterable):
        raise TypeError(f"ks must be a sequence, tensor or array of integers, got {ks!r:.60}")
    name, most = f"each of ks, {_BELOW_NONZERO},", len(sizes) - 1
    chosen = [_check.count(name, entry, 1, most) for entry in entries]
    if not chosen:
        raise ValueError(f"ks must hold an integer, {_BELOW_NONZERO}, {len(sizes)}, got none")
    k = torch.tensor(chosen, device="cpu")
    alpha = _hill_alphas(sizes.sort(descending=True).values)[k - 1]
    return HillCurve(k, alpha, alpha / k.double().sqrt(), len(x))


def log_moment(x: Tensor, block: int) -> TailEstimate:
    r"""Estimate the stability index from sums: the sum of K stable terms is K^{1/alpha} times one.

    With n = K m values in m blocks of K = ``block`` terms, and for block j the difference
    D_j = log |sum of its terms| - mean of log |term|,

        1 / alpha_hat = mean(D) / log K,
        stderr = alpha_hat^2 sd(D) / (sqrt(m) log K).

    The D_j are independent with mean log(K) / alpha and finite variance, so 1 / alpha_hat has no
    bias; alpha_hat has one of about stderr^2 / alpha. At alpha = 1.9, alpha_hat +- 1.96 stderr
    holds alpha in 89, 92 and 95 of 100 samples of 20, 50 and 200 blocks. At a given n the standard
    error is least for K of 4 to 10; larger blocks are for terms whose sums only come near stable.
    With a shift the sums grow like K, and the estimate falls towards 1: a ``UserWarning`` says so
    where sums are positive more often, or less, than terms. Independent terms of finite variance
    give 2 as K grows, and not before.

    Args:
        x: values of which none is 0, nor the sum of a block; blocks are consecutive in row-major
            order. The first m * block values are used, m = n // block >= 2.
        block: K, the number of terms of a sum, >= 2; too few blocks, whose estimate of 1/alpha is
            not positive, are a ValueError.

    Source: Mohammadi, Mohammadpour and Ogata 2015, Corollary 2.4. The standard error is ours.
    """
    x = _values(x, least=4)
    block = _check.count("block", block, 2, len(x) // 2)
    m = len(x) // block
    terms = _without_zeros(x[: m * block]).view(m, block)
    largest = terms.abs().amax(1, keepdim=True)  # a sum of large floats may overflow
    sums = (terms / largest).sum(1)
    if not sums.all():
        zeros = int((sums == 0).sum())
        raise ValueError(
            f"no block of {block} values may sum to 0, got {zeros} of {m}: values on a grid, as of "
            "rounded prices, may do so; take larger blocks, or stable_mle"
        )
    differences = sums.abs().log() + largest.squeeze(1).log() - terms.abs().log().mean(1)
    inverse = float(differences.mean()) / math.log(block)
    inverse_stderr = float(differences.std()) / math.sqrt(m) / math.log(block)
    if inverse <= 0:
        raise ValueError(
            f"1/alpha is estimated as {inverse:g} +- {inverse_stderr:g}, which must be > 0: {m} "
            "blocks are too few, or the values are not independent"
        )
    of_sums, of_terms = (float((v > 0).double().mean()) for v in (sums, terms))
    if abs(of_sums - of_terms) > 2.5 / math.sqrt(m):  # they agree in law; 5 standard deviations
        warnings.warn(
            f"x is not centred at 0: {of_terms:.0%} of its values are positive, {of_sums:.0%} of "
            f"sums of {block}; log_moment and its stderr are for laws centred at 0: {_CENTRE}",
            stacklevel=2,
        )
    alpha = 1 / inverse
    return TailEstimate(alpha, alpha**2 * inverse_stderr, "log_moment", m * block, block=block)


def stable_mle(x: Tensor) -> TailEstimate:
    r"""Fit S(alpha)S(scale), centred at 0, by maximum likelihood.

    Maximises sum_i [log f_alpha(x_i / scale) - log scale] over alpha in [0.3, 2] and scale > 0,
    f_alpha the density of S(alpha)S(1). The standard errors come from the observed information,
    the negative Hessian at the maximum in (alpha, log scale).

    At the ends of the range they do not exist. Where the maximum is at alpha = 2, the estimate is
    2 exactly, ``stderr`` is nan, and ``scale`` is the Gaussian sqrt(mean(x^2) / 2) with the
    standard error scale / sqrt(2 n); so it is for eight or nine Gaussian samples of ten, and for
    four in ten of S(1.95)S, n = 250. Where it is at 0.3, both standard errors are nan. The interval
    alpha_hat +- 1.96 stderr is to be cut at 2; alpha_hat is normal where n (2 - alpha) is large.

    ``x`` has n >= 10 values, none 0 or beyond e^300 scales. A ``RuntimeError`` says that no maximum
    was found, a ``UserWarning`` that x is not symmetric about 0, which the standard errors do not
    cover: more than five standard deviations too many of one sign, or the sizes of the two signs
    differ (Kolmogorov and Smirnov, p < 1e-6).
    """
    from scipy import optimize  # half a second to import, and needed here only

    x = _without_zeros(_values(x, least=10))
    n = len(x)
    _warn_if_lopsided(x)
    logs = x.abs().log()
    shift = float(logs.median())  # near the log of the scale
    if float(logs.max()) - shift > 300:  # beyond reach of an index of 0.3
        raise ValueError(f"x must be within a factor e^300 of its scale, got {logs.max().exp():g}")
    # The law is symmetric: sizes will do; in order splines are fast.
    z: Array = (logs - shift).exp().sort().values.numpy()

    # Var log|X| = (pi^2 / 6) (1/alpha^2 + 1/2)
    start = np.clip(float(logs.var()) * 6 / math.pi**2 - 0.5, 1.95**-2, 0.4**-2) ** -0.5
    low, high = np.array([_LEAST_ALPHA, -20.0]), np.array([_NEAR_2, 20.0])
    settings = {"bounds": optimize.Bounds(low, high), "options": {"gtol": 1e-6, "ftol": 1e-13}}
    for first in (start, 0.7, 1.0, 1.6):  # the others if need be: a wild value may mislead a step
        found = optimize.minimize(
            _negative_log_likelihood, [first, 0.0], (z,), method="L-BFGS-B", jac=True, **settings
        )
        step = np.clip(found.x - found.jac, low, high) - found.x  # at an end, outwards is no matter
        if np.abs(step).max() < 1e-4:
            break
    else:
        raise RuntimeError(f"no maximum of the likelihood was found: {found.message}")
    alpha, log_scale = found.x.tolist()

    stderr = relative = math.nan
    square = float(np.square(z).mean())
    gaussian = 0.5 * math.log(2 * math.pi * square) + 0.5  # its -(mean log-likelihood)
    if alpha >= _NEAR_2 or gaussian <= found.fun:
        alpha, log_scale, relative = 2.0, math.log(square / 2) / 2, 1 / math.sqrt(2 * n)
    elif alpha > _LEAST_ALPHA:
        information = optimize.approx_fprime(  # backwards: the index ends at 2
            found.x, lambda at: _negative_log_likelihood(at, z)[1], -1e-5
        )
        variance = np.diag(np.linalg.inv(information + information.T)) * 2 / n
        if (variance > 0).all():
            stderr, relative = np.sqrt(variance).tolist()
    scale = math.exp(shift + log_scale)
    return TailEstimate(alpha, stderr, "stable_mle", n, scale=scale, scale_stderr=scale * relative)


def _values(x: object, least: int) -> Tensor:
    """Return finite floating-point values in float64, flat, without a gradient, on the CPU."""
    flat = _check.tensor("x", x).detach().flatten().cpu().double()
    if flat.numel() < least:
        raise ValueError(f"x must have at least {least} values, got {flat.numel()}")
    _check.numbers("x", flat)
    return flat


def _without_zeros(x: Tensor) -> Tensor:
    """Return x, or refuse it for its zeros, which have no logarithm."""
    if zeros := x.numel() - int(x.count_nonzero()):
        raise ValueError(
            f"x must have no value 0, got {zeros} of {x.numel()}: a stable law makes none; take "
            "x[x != 0] for the law of those that are not 0"
        )
    return x


def _warn_if_lopsided(x: Tensor) -> None:
    """Warn of values that are shifted or skewed.

    Of a law symmetric about 0, the signs in order of size are the steps of a random walk: its end
    shows a shift, its way there, a bridge, whether the two signs differ in size.
    """
    n = len(x)
    walk = x[x.abs().argsort()].sign().cumsum(0) / math.sqrt(n)
    end = float(walk[-1])
    straight = torch.arange(1, n + 1, device="cpu") * (end / n)
    bridge = float((walk - straight).abs().max())
    if abs(end) > 5 or bridge > 2.75:  # each by chance 6 times in ten million
        warnings.warn(
            f"x is not symmetric about 0: its median is {x.median():g}, its signs are "
            f"{abs(end):.1f} standard deviations off balance, their sizes {bridge:.1f} apart "
            f"(Kolmogorov); stable_mle and its stderr are for laws symmetric about 0: {_CENTRE}",
            stacklevel=3,
        )


def _hill_alphas(sizes: Tensor) -> Tensor:
    """Return Hill's estimate at k = 1, 2, ... from positive sizes in falling order."""
    k = torch.arange(1, len(sizes), dtype=torch.float64, device="cpu")
    # Spacings are summed, all >= 0: a large common factor costs no digits.
    return k / (k * -sizes.log().diff()).cumsum(0)


def _negative_log_likelihood(parameters: Array, z: Array) -> tuple[float, Array]:
    """Return -(mean log-likelihood) of sizes and its gradient in (alpha, log scale).

    Cubic splines stand for log f and its derivative in alpha: the density is asked at a hundred
    points, however many values there are. They are splines in u, x = width sinh(u), with the width
    sqrt(f(0) / -f''(0)) of the peak: smooth at 0, and nearly linear where the tail is a power.
    """
    from scipy import interpolate  # slow to import too

    alpha, log_scale = parameters.tolist()
    width = float(peak_width(torch.tensor(alpha, dtype=torch.float64, device="cpu")))
    u = np.arcsinh(z * math.exp(-log_scale) / width)
    nodes = np.concatenate([np.arange(0, 3.2, 0.04), np.arange(3.2, max(u.max(), 3.2) + 0.6, 0.2)])
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.from_numpy(width * np.sinh(nodes))
        index = torch.full_like(x, alpha, requires_grad=True)
        log_f = log_density(x, index, 0.0)
        (slopes,) = torch.autograd.grad(log_f.sum(), index)
    table = np.stack([log_f.detach().numpy(), slopes.numpy()], 1)
    spline = interpolate.CubicSpline(nodes, table, bc_type=((1, np.zeros(2)), "not-a-knot"))
    value, in_alpha = spline(u).mean(0)
    in_log_scale = -(spline(u, 1)[:, 0] * np.tanh(u)).mean()
    return log_scale - value, np.array([-in_alpha, 1 - in_log_scale])
