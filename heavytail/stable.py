"""The stable laws: draws, the tail constant, and the law as a torch distribution.

A symmetric stable law S(alpha)S(scale) has the characteristic function
E exp(iuX) = exp(-|scale u|^alpha) for a stability index alpha in (0, 2]. Two cases have names:
alpha = 2 is the Gaussian N(0, 2 scale^2), *not* N(0, scale^2), and alpha = 1 is the Cauchy law.
Below 2 the variance is infinite, at 1 and below the mean does not exist.

Every draw is made in two steps. First random bits become an angle and a uniform on the wanted
device; then a pure function turns the two into a stable variable. That function holds all of the
mathematics and is public, so that it can be tested, compiled and differentiated by itself.

References:
    J. M. Chambers, C. L. Mallows, B. W. Stuck, A method for simulating stable random variables,
    J. Amer. Statist. Assoc. 71 (1976) 340-344.
    M. Kanter, Stable densities under change of scale and total variation inequalities,
    Ann. Probab. 3 (1975) 697-707.
    J. P. Nolan, Univariate Stable Distributions, Springer, 2020.
"""

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints, transform_to
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    Transform,
)
from torch.distributions.utils import broadcast_all

from heavytail import _checks, _contour, _draws, _integrals

_HALF_PI = math.pi / 2

# At alpha = 1 the skewed map takes 1 - alpha to be this: 1e-8, rounded to float32.
_NEXT_TO_1 = 9.99999993922529e-09

_PARAMETERS = ("alpha", "beta", "loc", "scale")


def symmetric_from_uniforms(
    alpha: float | Tensor, angle: Tensor, uniform: Tensor, *, scratch: Tensor | None = None
) -> Tensor:
    r"""Turn an angle and a uniform into a draw of S(alpha)S(1): the Chambers-Mallows-Stuck map.

    With U uniform on (-pi/2, pi/2) and W standard exponential,

        X = sin(alpha U) / cos(U)^{1/alpha} * (cos((1 - alpha) U) / W)^{(1 - alpha) / alpha}.

    The tail of X comes from |U| near pi/2, so the map takes the distance to that pole instead,
    V = pi/2 - |U|, which floating point can keep to relative precision, with the sign of U. In V
    every cosine is a sine that cannot turn negative; for alpha >= 1, with delta = 2 - alpha,

        S = |sin(alpha U)| = sin(alpha V + delta pi/2),
        C = cos((1 - alpha) U) = sin((alpha - 1) V + delta pi/2),
        X = sign(U) S (W / C) [C / (W sin V)]^{1/alpha},

    which is right at alpha = 1 and alpha = 2 without a branch. For alpha < 1,
    S = sin(alpha (pi/2 - V)) and C = sin((1 - alpha) V + alpha pi/2).

    W is -log(uniform) for alpha >= 1, whose tail needs large W, and -log(1 - uniform) for
    alpha < 1, whose tail needs small W: ``uniform`` is wanted precise near 0. The map is thus
    smooth in alpha on either side of 1, not across it.

    Args:
        alpha: stability index in (0, 2]; a float, or a tensor that broadcasts with ``angle``.
        angle: any shape, float32 or float64; V with the sign of U, 0 < |angle| <= pi/2.
        uniform: same shape and dtype; in (0, 1).
        scratch: room for the steps of a float ``alpha``, shape (3, *angle.shape), as ``angle``
            else. ``uniform`` is then overwritten too, and the draws lie in the room. None makes
            room and leaves the inputs alone.

    Returns:
        Draws, of the broadcast shape. Inputs are not checked: this is the inner loop.

    Source: Chambers, Mallows and Stuck 1976; Nolan 2020, Theorem 1.3. The form in V is ours.
    """
    if isinstance(alpha, Tensor):
        V, heavy = angle.abs(), alpha < 1
        S = torch.where(heavy, alpha * (_HALF_PI - V), alpha * V + (2 - alpha) * _HALF_PI)
        S = torch.sin(S).clamp_min(0)  # the sine of pi rounded is not 0
        C = torch.sin((1 - alpha).abs() * V + torch.where(heavy, alpha, 2 - alpha) * _HALF_PI)
        ratio = torch.where(heavy, torch.log1p(-uniform), torch.log(uniform)) / -C
        log_power = torch.log2(torch.sin(V) * ratio) * (-1 / alpha)
        return torch.exp2(torch.log2(S * ratio) + log_power).copysign(angle)
    V, S, minus_C, ratio = _room(angle, uniform, scratch)
    torch.abs(angle, out=V)
    if alpha < 1:
        _affine(-1, V, _HALF_PI, S).mul_(alpha).sin_()
        _affine(alpha - 1, V, -alpha * _HALF_PI, minus_C).sin_()
        torch.neg(uniform, out=ratio).log1p_().div_(minus_C)
    else:
        _affine(alpha, V, (2 - alpha) * _HALF_PI, S).sin_()
        _affine(1 - alpha, V, (alpha - 2) * _HALF_PI, minus_C).sin_()
        torch.log(uniform, out=ratio).div_(minus_C)
    # W / C > 0 from here on. Powers of 2 rather than of e: on some processors they cost less.
    log_power = V.sin_().mul_(ratio).log2_().mul_(-1 / alpha)
    if alpha < 0.5:  # the power alone may leave the floats
        return S.mul_(ratio).log2_().add_(log_power).exp2_().copysign_(angle)
    return S.mul_(ratio).mul_(log_power.exp2_()).copysign_(angle)


def _affine(slope: float, x: Tensor, offset: float, out: Tensor) -> Tensor:
    """Return slope x + offset in one pass over x."""
    return torch.add(x.new_full((), offset), x, alpha=slope, out=out)


def _room(
    angle: Tensor, uniform: Tensor, scratch: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return room for four tensors like ``angle``: three of the scratch and the uniform's."""
    if scratch is None:
        scratch, uniform = angle.new_empty((3, *angle.shape)), torch.empty_like(uniform)
    first, second, third = scratch.unbind()
    return first, second, third, uniform


def log_positive_from_uniforms(
    alpha: float | Tensor, angle: Tensor, uniform: Tensor, *, scratch: Tensor | None = None
) -> Tensor:
    r"""Turn an angle and a uniform into log A, A standard positive alpha-stable: Kanter's map.

    With U uniform on (0, pi) and W standard exponential,

        A = sin(alpha U) sin((1 - alpha) U)^{(1 - alpha)/alpha} / sin(U)^{1/alpha}
            * W^{-(1 - alpha)/alpha},    E exp(-s A) = exp(-s^alpha).

    Its logarithm is returned because A itself leaves the range of float32 at small alpha; its
    square root, which isotropic noise needs, often does not.

    The pole of sin U at U = pi carries the tail and needs U to relative precision. So U is given
    by its distance to the nearer end: to pi where ``angle`` > 0, to 0 where ``angle`` < 0.

    Args:
        alpha: stability index in (0, 1]; a float, or a tensor that broadcasts with ``angle``.
        angle: any shape, float32 or float64; 0 < |angle| <= pi/2.
        uniform: same shape and dtype; in (0, 1), W = -log(1 - uniform).
        scratch: as for :func:`symmetric_from_uniforms`.

    Returns:
        log A, of the broadcast shape; 0 where alpha = 1, where it has no derivative in alpha.
        Inputs are not checked.

    Source: Kanter 1975, Corollary 4.1. The form in the distance to the ends is ours.
    """
    # The argument of the sine, U or its complement to pi, that is small is kept precise: for
    # S = sin(alpha U) and D = sin((1 - alpha) U) that depends on which index is the smaller.
    if isinstance(alpha, Tensor):
        V, delta, small = angle.abs(), 1 - alpha, alpha < 0.5
        at_pi = (angle > 0).to(angle.dtype)
        U = V + at_pi * (math.pi - 2 * V)
        S = torch.sin(torch.where(small, alpha * U, alpha * V + at_pi * (delta * math.pi)))
        D = torch.sin(torch.where(small, delta * V + at_pi * (alpha * math.pi), delta * U))
        W = -torch.log1p(-uniform)
        # xlogy is 0 at alpha = 1, where D = 0 and its power is 1; there S is sin V itself.
        power: Tensor = torch.special.xlogy(delta / alpha, D / W)
        return torch.log(S) + power - torch.log(torch.sin(V)) / alpha
    if alpha == 1:
        return torch.zeros_like(angle)
    # U = pi [angle > 0] - angle. Few passes over memory: the sampler of type III runs through here.
    V, S, D, minus_W = _room(angle, uniform, scratch)
    precise, plain = (D, S) if alpha < 0.5 else (S, D)
    less: float = min(alpha, 1 - alpha)
    torch.gt(angle, 0, out=precise).mul_(math.pi * less)
    torch.sub(precise, angle, alpha=less, out=plain).sin_()
    precise.add_(torch.abs(angle, out=V), alpha=1 - less).sin_()
    torch.neg(uniform, out=minus_W).log1p_()
    log_power = D.div_(minus_W).neg_().log_()
    return S.log_().add_(log_power, alpha=1 / alpha - 1).sub_(V.sin_().log_(), alpha=1 / alpha)


def stable_from_uniforms(
    alpha: float | Tensor, beta: float | Tensor, angle: Tensor, uniform: Tensor
) -> Tensor:
    r"""Turn an angle and a uniform into a draw of the skewed law, standard in Nolan's S0 form.

    With t = beta tan(pi alpha / 2), e = 1 - alpha, U uniform on (-pi/2, pi/2) and W standard
    exponential, the map of Chambers, Mallows and Stuck is

        X_1 = (sin(alpha U) + t cos(alpha U)) / cos(U) * E,   E = (N / (W cos U))^{e / alpha},
        N = cos(e U) + t sin(e U),

    in the form S1, and X_0 = X_1 - t in the form S0. At alpha = 1 both t and X_1 are infinite, and
    X_0 is not. Collecting what grows with t leaves no difference of large numbers,

        X_0 = sin(alpha U) / cos(U) * E + beta (e tan(pi alpha / 2)) [ expm1(e g) / e
              + E (tan(U) sin(e U) / e - 2 sin(e U / 2)^2 / e) ],   g = log(N / (W cos U)) / alpha,

    and with k = |tan(pi e / 2)| and the distance V = pi/2 - |U| to the pole, N is a product of
    positive terms on either side of it.

    Args:
        alpha: stability index in (0, 2]; a float, or a tensor that broadcasts with ``angle``. At
            1 the law of an index 1e-8 away is drawn.
        beta: skewness in [-1, 1]; a float, or a tensor that broadcasts with ``angle``.
        angle: any shape, float64 (float32 loses digits to cancellation); V with the sign of U,
            0 < |angle| <= pi/2.
        uniform: same shape and dtype; in (0, 1), precise near 0 (see
            :func:`symmetric_from_uniforms`).

    Returns:
        Draws, of the broadcast shape. On the light side of a totally skewed law their absolute
        error is about 1e-16 / |angle|; P(|angle| < v) ~ v makes that harmless. The derivative in
        alpha at 1 has a relative error of about 1e-7. Inputs are not checked.

    Source: Chambers, Mallows and Stuck 1976; Nolan 2020, Theorem 1.3 and Definition 1.4. The
    arrangement of the terms is ours.
    """
    alpha = torch.as_tensor(alpha, dtype=angle.dtype, device=angle.device)
    beta = torch.as_tensor(beta, dtype=angle.dtype, device=angle.device)
    e = 1 - alpha
    e = _with_value(e, torch.where(e.abs() < _NEXT_TO_1, _NEXT_TO_1, e))
    V, side = angle.abs(), torch.sign(angle)
    U = _HALF_PI - V  # |U|
    k = torch.tan(_HALF_PI * e.abs())
    b = side * beta
    # N = cos(eU) + t sin(eU) = sqrt(1 + t^2) sin(phase), where the phase is a sum of positive
    # terms: towards the light tail it vanishes at the pole, towards the heavy one at pi.
    c = (-b).clamp_min(0)  # |b| where that is light, with a derivative at 0 too
    light = e.abs() * V + torch.atan(k * (1 - c) / (k * k + c))
    heavy = e.abs() * U + torch.atan2(k, b)
    # At alpha = 2, where k is 1e16, the derivative of the quotient would cancel to noise.
    size = _with_value(torch.sqrt(1 + (beta / k).square()), torch.hypot(k, beta) / k)
    N = size * torch.sin(torch.where(b > 0, heavy, light))
    W = -torch.where(alpha < 1, torch.log1p(-uniform), torch.log(uniform))
    sin_V = torch.sin(V)
    g = torch.log(N / (W * sin_V)) / alpha
    E = torch.exp(e * g)
    S = torch.sin(torch.where(alpha < 1, alpha * U, alpha * V + (2 - alpha) * _HALF_PI))
    skew = torch.expm1(e * g) / e + E * (
        torch.cos(V) / sin_V * torch.sin(e * U) / e - 2 * torch.sin(e * U / 2).square() / e
    )
    return side * S / sin_V * E + beta * (e / torch.tan(_HALF_PI * e)) * skew


def _with_value(x: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` with the derivatives of ``x``, which must be within a factor 2 of it."""
    return x + (value - x).detach()  # the difference is exact


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
        no gradient: for that use :func:`symmetric_from_uniforms`.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Chambers, Mallows and Stuck 1976, see :func:`symmetric_from_uniforms`.
    """
    alpha = _checks.index_or_tensor("alpha", alpha, 2)
    scale = _checks.nonnegative_or_tensor("scale", scale)
    size = _checks.shape("size", size)
    for name, value in (("alpha", alpha), ("scale", scale)):
        _checks.broadcasts(name, value, size)
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

    Source: Kanter 1975, see :func:`log_positive_from_uniforms`.
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
    alpha = _checks.index_or_tensor("alpha", alpha, 1)
    size = _checks.shape("size", size)
    _checks.broadcasts("alpha", alpha, size)
    return _draws.draw(log_positive_from_uniforms, (alpha,), size, generator, device, dtype)


def symmetric_blocks(
    alpha: float,
    sizes: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """Yield draws of S(alpha)S(1) in blocks, all in the same memory: each overwrites the last.

    The draws are those of :func:`symmetric_stable` with ``sizes`` one after another; arguments are
    its, checked.
    """
    block = torch.empty(max(sizes, default=0), device=device, dtype=dtype)
    room = _draws.Room(block)
    for n in sizes:
        size = torch.Size([n])
        _draws.fill(block[:n], symmetric_from_uniforms, (alpha,), size, generator, room)
        yield block[:n]


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
    alpha = _checks.index_or_tensor("alpha", alpha, 2)
    beta = _checks.skewness_or_tensor("beta", beta)
    loc = _checks.real_or_tensor("loc", loc)
    scale = _checks.nonnegative_or_tensor("scale", scale)
    _checks.one_of("parameterization", parameterization, ("S0", "S1"))
    size = _checks.shape("size", size)
    parameters = (alpha, beta, loc, scale)
    for name, value in zip(_PARAMETERS, parameters, strict=True):
        _checks.broadcasts(name, value, size)
    doubles = tuple(torch.as_tensor(value, dtype=torch.float64) for value in parameters)
    transform = _skewed_s0 if parameterization == "S0" else _skewed_s1
    return _draws.draw(transform, doubles, size, generator, device, dtype)


def _skewed_s0(
    alpha: Tensor, beta: Tensor, loc: Tensor, scale: Tensor, angle: Tensor, uniform: Tensor
) -> Tensor:
    X = stable_from_uniforms(alpha, beta, angle.double(), uniform.double())
    end = loc - s1_shift(alpha, beta, scale)
    return _within_support(scale * X + loc, alpha, beta, end)


def _skewed_s1(
    alpha: Tensor, beta: Tensor, loc: Tensor, scale: Tensor, angle: Tensor, uniform: Tensor
) -> Tensor:
    X = stable_from_uniforms(alpha, beta, angle.double(), uniform.double())
    X = scale * X + loc + s1_shift(alpha, beta, scale)
    return _within_support(X, alpha, beta, loc)


def _within_support(X: Tensor, alpha: Tensor, beta: Tensor, end: Tensor) -> Tensor:
    """Return draws on the half-line from ``end`` of a law that has one: rounding may leave it."""
    half_line = _contour.on_half_line(alpha, beta)
    lower = torch.where(half_line & (beta > 0), end, -math.inf)
    return X.clamp(lower, torch.where(half_line & (beta < 0), end, math.inf))


def s1_shift(alpha: Tensor, beta: Tensor, scale: Tensor) -> Tensor:
    """Return d with S1(loc) = S0(loc + d).

    d = beta scale tan(pi alpha / 2), and beta (2/pi) scale log(scale) at alpha = 1; 0 at alpha = 2.
    All arguments are tensors that broadcast.

    Source: Nolan 2020, Section 1.3.
    """
    at_one, e = alpha == 1, 1 - alpha
    tangent = torch.tan(_HALF_PI * torch.where(at_one, 0.5, alpha))
    # The tangent of pi rounded is not 0, that of pi/2 rounded has lost digits.
    tangent = torch.where(alpha == 2, -torch.tan(_HALF_PI * (2 - alpha)), tangent)
    near_one = (e.abs() < 1e-3) & ~at_one
    tangent = torch.where(
        near_one, 1 / torch.tan(_HALF_PI * torch.where(near_one, e, 0.5)), tangent
    )
    return beta * torch.where(
        at_one, 2 / math.pi * torch.special.xlogy(scale, scale), scale * tangent
    )


def tail_constant(alpha: float) -> float:
    r"""Return C_alpha with P(|X| > x) ~ C_alpha scale^alpha x^-alpha for X ~ S(alpha)S(scale).

        C_alpha = (2 / pi) Gamma(alpha) sin(pi alpha / 2)

    Args:
        alpha: stability index in (0, 2]. At 2 the tail is Gaussian and the constant is 0.

    Raises:
        TypeError, ValueError: on an index outside (0, 2].

    Source: Nolan 2020, Theorem 1.2.
    """
    alpha = _checks.index("alpha", alpha, 2)
    # sin(pi alpha / 2) = sin(pi (2 - alpha) / 2), which is exact at alpha = 2.
    return 2 / math.pi * math.gamma(alpha) * math.sin(_HALF_PI * min(alpha, 2 - alpha))


class _Index(constraints.interval):
    """Numbers in (0, 2]."""

    def __init__(self) -> None:
        super().__init__(0.0, 2.0)

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = (value > self.lower_bound) & (value <= self.upper_bound)
        return inside


class _AtMost(constraints.Constraint):
    """Numbers <= ``upper_bound``, which broadcasts with them."""

    def __init__(self, upper_bound: Tensor) -> None:
        self.upper_bound = upper_bound
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        below: Tensor = value <= self.upper_bound
        return below

    def __repr__(self) -> str:
        return f"_AtMost(upper_bound={self.upper_bound})"


def _to_index(constraint: _Index) -> Transform:
    open_interval = constraints.interval(constraint.lower_bound, constraint.upper_bound)
    transform: Transform = biject_to(open_interval)
    return transform


def _to_at_most(constraint: _AtMost) -> Transform:
    return ComposeTransform([ExpTransform(), AffineTransform(constraint.upper_bound, -1)])


for _registry in (biject_to, transform_to):
    _registry.register(_Index, _to_index)
    _registry.register(_AtMost, _to_at_most)


class Stable(Distribution):
    r"""The stable law S(alpha, beta, scale, loc), in Nolan's form S1 or S0.

    S1, which scipy's ``levy_stable`` takes by default too, has for alpha != 1

        E exp(iuX) = exp(i loc u - |scale u|^alpha (1 - i beta sign(u) tan(pi alpha / 2)))

    and for alpha = 1 the term (2/pi) log|u| in place of -tan(pi alpha / 2). Its loc is the mean
    for alpha > 1. With the same loc, X_S0 = X_S1 - beta scale tan(pi alpha / 2), and
    X_S1 - beta (2/pi) scale log(scale) at alpha = 1; only S0 is continuous there. alpha = 2 is
    N(loc, 2 scale^2), whatever beta.

    Args:
        alpha: stability index in (0, 2]; a float or a floating-point tensor, as all four.
        beta: skewness in [-1, 1].
        loc: location, finite, in the unit of X.
        scale: > 0, in the unit of X.
        parameterization: ``"S1"`` or ``"S0"``.
        validate_args: False skips the checks of arguments.

    The four broadcast to ``batch_shape`` and are promoted to one dtype, which the results have;
    float32 if all four are floats and torch's default is. Computations run in float64 on the
    parameters as stored (a float32 alpha of 1.1 is 1.10000002). A single law asked at 2000 points
    or more is tabulated once, see :func:`heavytail._integrals.log_density`.

    First derivatives exist in the points and in all four parameters; second ones raise
    RuntimeError, and so does ``torch.func.vmap`` over a method. The derivatives of log_prob are
    good to about 1e-7, relative or absolute. Draws of ``rsample`` are differentiable in alpha on
    either side of 1. In the form S1 with beta != 0 the law jumps at alpha = 1, and what backward
    finds in alpha there is no derivative.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Nolan, Univariate Stable Distributions, Springer, 2020, Definitions 1.4 and 1.5.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "alpha": _Index(),
        "beta": constraints.interval(-1, 1),
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    alpha: Tensor
    beta: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor = 0.0,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        parameterization: str = "S1",
        validate_args: bool | None = None,
    ) -> None:
        self.parameterization = _checks.one_of("parameterization", parameterization, ("S0", "S1"))
        check = validate_args is not False  # torch's own default changes as its compiler loads
        if check:
            _checks.index_or_tensor("alpha", alpha, 2)
            _checks.skewness_or_tensor("beta", beta)
            _checks.real_or_tensor("loc", loc)
            _checks.positive_or_tensor("scale", scale)
        values = broadcast_all(alpha, beta, loc, scale)
        tensors = [value for value in (alpha, beta, loc, scale) if isinstance(value, Tensor)]
        # As torch promotes: a tensor without dimensions decides only where there is no other.
        tensors = [value for value in tensors if value.dim()] or tensors or [values[0]]
        dtype = reduce(torch.promote_types, (value.dtype for value in tensors))
        for name, value in zip(_PARAMETERS, values, strict=True):
            setattr(self, name, value.to(dtype))
        if check:
            _checks.positive_or_tensor("scale", self.scale)  # a float may underflow
        super().__init__(self.alpha.shape, validate_args=False)  # done, with better messages
        self._validate_args = check

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Stable":
        """Return the law with its parameters expanded to ``batch_shape``."""
        new: Stable = self._get_checked_instance(Stable, _instance)
        size = torch.Size(batch_shape)
        new.parameterization = self.parameterization
        for name in _PARAMETERS:
            setattr(new, name, getattr(self, name).expand(size))
        super(Stable, new).__init__(size, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _doubles(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return alpha, beta, loc and scale in float64."""
        return self.alpha.double(), self.beta.double(), self.loc.double(), self.scale.double()

    def _loc_s1(self) -> Tensor:
        """Return loc in the form S1, in float64: the end of the support of a half-line law."""
        alpha, beta, loc, scale = self._doubles()
        return loc if self.parameterization == "S1" else loc - s1_shift(alpha, beta, scale)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """A half-line where all laws have alpha < 1 and beta = 1, or all beta = -1; else reals."""
        half_line = _contour.on_half_line(self.alpha, self.beta)
        for sign, half in ((1, constraints.greater_than_eq), (-1, _AtMost)):
            if self.alpha.numel() and bool((half_line & (self.beta == sign)).all()):
                return half(self._loc_s1().detach().to(self.loc.dtype))
        return constraints.real

    @property
    def mean(self) -> Tensor:
        """S1's loc for alpha > 1, else nan: there is no mean."""
        return torch.where(self.alpha > 1, self._loc_s1().to(self.loc.dtype), math.nan)

    @property
    def variance(self) -> Tensor:
        """2 scale^2 for alpha = 2, else inf."""
        return torch.where(self.alpha == 2, 2 * self.scale.square(), math.inf)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        """Draw from torch's global generator, differentiable in the four parameters."""
        shape = self._extended_shape(sample_shape)
        like = self.alpha.new_empty(shape.numel(), dtype=torch.float64)
        angle, uniform = (bits.view(shape) for bits in _draws.uniforms(like, None))
        transform = _skewed_s0 if self.parameterization == "S0" else _skewed_s1
        return transform(*self._doubles(), angle, uniform).to(self.loc.dtype)

    def _standard(self, value: Tensor) -> Tensor:
        """Return the points of S0(alpha, beta), -inf and inf for those off a half-line."""
        _checks.tensor("value", value)
        _checks.broadcasts_with("value", value, self.batch_shape)
        alpha, beta, loc, scale = self._doubles()
        z = (value.double() - loc) / scale
        if self.parameterization == "S1":
            z = z - s1_shift(alpha, beta, scale) / scale
        half_line = _contour.on_half_line(alpha, beta)
        if bool(half_line.any()):
            off = half_line & (beta * (value.double() - self._loc_s1()) <= 0)
            z = torch.where(off, -beta.detach() * math.inf, z)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, see :func:`heavytail._integrals.log_density`."""
        z = self._standard(value)
        if self._validate_args:
            self._validate_sample(value)
        log_f = _integrals.log_density(z, self.alpha.double(), self.beta.double())
        return (log_f - torch.log(self.scale.double())).to(self.loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        F = _integrals.cdf(self._standard(value), self.alpha.double(), self.beta.double())
        return F.to(self.loc.dtype)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), to relative precision where it is small."""
        S = _integrals.sf(self._standard(value), self.alpha.double(), self.beta.double())
        return S.to(self.loc.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of a level in [0, 1]: safeguarded Newton on the log of a tail.

        The ends of the support at 0 and 1, nan outside. Differentiable in the level and in the
        parameters. Near a level of 1 the level's own rounding is the error. It takes some ten
        evaluations of the distribution function, by quadrature for fewer than 2000 levels.
        """
        _checks.tensor("value", value)
        _checks.broadcasts_with("value", value, self.batch_shape)
        bad = ~((value >= 0) & (value <= 1))  # nan too
        if self._validate_args and bool(bad.any()):
            raise ValueError(f"level must be in [0, 1], got {value[bad][0]:g}")
        alpha, beta, loc, scale = self._doubles()
        z = _integrals.quantile(value.double(), alpha, beta)
        x = loc + scale * z
        if self.parameterization == "S1":
            x = x + s1_shift(alpha, beta, scale)
        return _within_support(x, alpha, beta, self._loc_s1()).to(self.loc.dtype)
