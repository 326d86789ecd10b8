"""The stable laws: draws, the tail constant, and the law as a torch distribution.

A symmetric stable law S(alpha)S(scale) has the characteristic function
E exp(iuX) = exp(-|scale u|^alpha) for a stability index alpha in (0, 2]. Two cases have names:
alpha = 2 is the Gaussian N(0, 2 scale^2), *not* N(0, scale^2), and alpha = 1 is the Cauchy law.
Below 2 the variance is infinite, at 1 and below the mean does not exist.

Every draw is made in two steps. First random bits become an angle and a uniform on the wanted
device; then a pure function turns the two into a stable variable. That function holds all of the
mathematics and is public, so that it can be tested, compiled and differentiated by itself.

References:
    - J. M. Chambers, C. L. Mallows, B. W. Stuck, A method for simulating stable random variables,
      J. Amer. Statist. Assoc. 71 (1976) 340-344.
    - M. Kanter, Stable densities under change of scale and total variation inequalities,
      Ann. Probab. 3 (1975) 697-707.
    - J. P. Nolan, Univariate Stable Distributions,
      Springer, 2020.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from heavytail import _check
from heavytail.laws import _blocks as _draws
from heavytail.laws.density import Stable
from heavytail.laws.maps import (
    FORMS,
    PARAMETERS,
    log_positive_from_uniforms,
    stable_from_uniforms,
    symmetric_from_uniforms,
)

__all__ = [
    "Stable",
    "log_positive_from_uniforms",
    "positive_stable",
    "stable",
    "stable_from_uniforms",
    "symmetric_from_uniforms",
    "symmetric_stable",
    "tail_constant",
]


def symmetric_stable(
    alpha: float | Tensor,
    size: int | Sequence[int],
    *,
    scale: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the symmetric stable law S(alpha)S(scale), E exp(iuX) = exp(-|scale u|^alpha).

    Args:
        alpha: stability index in (0, 2]; a float, or a tensor that broadcasts to ``size``.
        size: shape of the result.
        scale: >= 0, in the unit of X; a float, or a tensor that broadcasts to ``size``.
            At alpha = 2 the standard deviation is sqrt(2) * scale.
        generator: source of the random bits; None is torch's global generator.
        device: where to draw; None is the generator's device, else torch's default device.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.

    Returns:
        Tensor of shape ``size``. In float32 the angle has 31 bits: no draw comes from a
        quantile beyond 1 - 2^-32, which caps |X| near 4e8 at alpha = 1.1; float64 has 63 bits.
        Where |X| exceeds the largest float (alpha well below 1), the draw is inf. Draws carry
        no gradient: for that use :func:`heavytail.laws.draws.symmetric_from_uniforms`.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Chambers, Mallows and Stuck 1976, see
    :func:`heavytail.laws.draws.symmetric_from_uniforms`.
    """
    alpha = _check.index_or_tensor("alpha", alpha, 2)
    scale = _check.nonnegative_or_tensor("scale", scale)
    size = _check.shape("size", size)
    for name, value in (("alpha", alpha), ("scale", scale)):
        _check.broadcasts(name, value, size)
    out = _draws.draw(symmetric_from_uniforms, (alpha,), size, generator, device, dtype)
    if isinstance(scale, Tensor):
        return out.mul_(scale.to(out))
    return out if scale == 1 else out.mul_(scale)


def positive_stable(
    alpha: float | Tensor,
    size: int | Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the standard positive stable law, E exp(-s A) = exp(-s^alpha) for s >= 0.

    Args:
        alpha: stability index in (0, 1]; a float, or a tensor that broadcasts to ``size``.
            At alpha = 1 the law is the constant 1.
        size: shape of the result.
        generator: source of the random bits; None is torch's global generator.
        device: where to draw; None is the generator's device, else torch's default device.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.

    Returns:
        Tensor of shape ``size``; P(A > x) ~ x^-alpha / Gamma(1 - alpha). At small alpha A leaves
        the floats: a draw beyond the largest is inf, one below the smallest 0. Draws carry no
        gradient.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Kanter 1975, see :func:`heavytail.laws.draws.log_positive_from_uniforms`.
    """
    return log_positive_stable(alpha, size, generator=generator, device=device, dtype=dtype).exp_()


def log_positive_stable(
    alpha: float | Tensor,
    size: int | Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw log A for a standard positive alpha-stable A, which itself may leave the floats.

    Arguments and errors are those of :func:`positive_stable`.

    Returns:
        Tensor of shape ``size``, float32 or float64, finite.

    Source: Kanter 1975, see :func:`log_positive_from_uniforms`.
    """
    alpha = _check.index_or_tensor("alpha", alpha, 1)
    size = _check.shape("size", size)
    _check.broadcasts("alpha", alpha, size)
    return _draws.draw(log_positive_from_uniforms, (alpha,), size, generator, device, dtype)


def symmetric_blocks(
    alpha: float,
    sizes: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """Yield draws of S(alpha)S(1) in blocks of these sizes.

    A block is good until the next one is asked for. Several short ones are drawn at once, which is
    faster: nothing else may draw from the generator in between. On a CPU the draws are those of
    :func:`symmetric_stable` with ``sizes`` one after another. Arguments are its, checked.
    """
    lengths = [_draws.rows_of(n) * _draws.ROW for n in sizes]  # each begins with fresh words
    longest = max(lengths, default=0)
    together = max(1, _draws.block_length(device, dtype) // max(longest, 1))
    flat = torch.empty(min(together, len(sizes)) * longest, device=device, dtype=dtype)
    room = _draws.Room(flat)
    for start in range(0, len(sizes), together):
        group = lengths[start : start + together]
        draws = flat[: sum(group)]
        _draws.fill(draws, symmetric_from_uniforms, (alpha,), draws.shape, generator, room)
        for piece, n in zip(draws.split(group), sizes[start : start + together], strict=True):
            yield piece[:n]


def stable(
    alpha: float | Tensor,
    beta: float | Tensor,
    size: int | Sequence[int],
    *,
    loc: float | Tensor = 0.0,
    scale: float | Tensor = 1.0,
    parameterization: str = "S1",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the general stable law S(alpha, beta, scale, loc), in Nolan's form S0 or S1.

    S1, the form most texts use, has for alpha != 1

        E exp(iuX) = exp(i loc u - |scale u|^alpha (1 - i beta sign(u) tan(pi alpha / 2))),

    and for alpha = 1 the term (2/pi) log|u| in place of -tan(pi alpha / 2). Its loc is the mean
    for alpha > 1, and the law jumps at alpha = 1. S0 is continuous in all parameters: with the
    same loc, X_S0 = X_S1 - beta scale tan(pi alpha / 2), and X_S1 - beta (2/pi) scale log(scale)
    at alpha = 1.

    Args:
        alpha: stability index in (0, 2]; a float, or a tensor that broadcasts to ``size``.
        beta: skewness in [-1, 1]; a float, or a tensor that broadcasts to ``size``. At +-1 and
            alpha < 1 the law lives on a half-line. Without effect at alpha = 2.
        size: shape of the result.
        loc: location in the unit of X; a float, or a tensor that broadcasts to ``size``.
        scale: >= 0, in the unit of X; a float, or a tensor that broadcasts to ``size``.
        parameterization: ``"S1"`` or ``"S0"``.
        generator: source of the random bits; None is torch's global generator.
        device: where to draw; None is the generator's device, else torch's default device.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.

    Returns:
        Tensor of shape ``size``, computed in float64 and rounded once, to about 1e-16 scale next
        to the end of a half-line (for relative precision there see :func:`positive_stable`).
        Draws carry no gradient.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Chambers, Mallows and Stuck 1976; Nolan 2020, Definitions 1.4 and 1.5.
    """
    alpha = _check.index_or_tensor("alpha", alpha, 2)
    beta = _check.skewness_or_tensor("beta", beta)
    loc = _check.real_or_tensor("loc", loc)
    scale = _check.nonnegative_or_tensor("scale", scale)
    _check.one_of("parameterization", parameterization, FORMS)
    size = _check.shape("size", size)
    parameters = (alpha, beta, loc, scale)
    for name, value in zip(PARAMETERS, parameters, strict=True):
        _check.broadcasts(name, value, size)
    doubles = tuple(torch.as_tensor(value, dtype=torch.float64) for value in parameters)
    return _draws.draw(FORMS[parameterization], doubles, size, generator, device, dtype)


def tail_constant(alpha: float) -> float:
    r"""Return C_alpha with P(|X| > x) ~ C_alpha scale^alpha x^-alpha for X ~ S(alpha)S(scale).

        C_alpha = (2 / pi) Gamma(alpha) sin(pi alpha / 2)

    Args:
        alpha: stability index in (0, 2]. At 2 the tail is Gaussian and the constant is 0.

    Raises:
        TypeError, ValueError: on an index outside (0, 2].

    Source: Nolan 2020, Theorem 1.2.
    """
    alpha = _check.index("alpha", alpha, 2)
    # sin(pi alpha / 2) = sin(pi (2 - alpha) / 2), which is exact at alpha = 2.
    return 2 / math.pi * math.gamma(alpha) * math.sin(math.pi / 2 * min(alpha, 2 - alpha))
