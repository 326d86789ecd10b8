"""The maps from an angle and a uniform to a stable variable, and the two from random words.

Written for U uniform on (-pi/2, pi/2) and W standard exponential, as the literature has them. The
tails come from |U| near pi/2, so each map takes the distance to that pole instead,
V = pi/2 - |U|, with the sign of U: floating point keeps it to relative precision. In V, a cosine
that may be small is the sine of a sum of positive terms. W is -log(uniform) for alpha >= 1, whose
tail needs large W, and -log(1 - uniform) below, whose tail needs small W: a uniform is wanted
precise near 0. Maps are thus smooth in alpha on either side of 1, not across it.

``angle`` has any shape and float32 or float64, 0 < |angle| <= pi/2; ``uniform``, in (0, 1), has the
same. ``alpha`` and ``beta`` are floats, or tensors that broadcast with them. Inputs are not
checked. Maps can be differentiated, traced and compiled.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

_HALF_PI = math.pi / 2

# At alpha = 1 the skewed map takes 1 - alpha to be this: 1e-8, rounded to float32.
_NEXT_TO_1 = 9.99999993922529e-09

# The bits of this many draws lie together, first all angles, then all uniforms: whole rows convert
# faster than pairs, and a draw still begins like a longer one.
_ROW = 1 << 9


def words_for(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw integers (rows, 2, k), the bits of angles and uniforms for the entries of ``like``."""
    integer = torch.int32 if like.dtype == torch.float32 else torch.int64
    rows = -(-len(like) // _ROW)
    words = torch.empty((rows, 2, _ROW), dtype=integer, device=like.device)
    words.view(torch.int64).random_(-(2**63), None, generator=generator)  # the cheapest way
    return words


def uniforms_from_words(words: Tensor) -> tuple[Tensor, Tensor]:
    """Make an angle in [-pi/2, pi/2] without 0, and a uniform in (0, 1), each precise near 0.

    From random bits (rows, 2, k), int32 for float32 and int64 for float64, both of shape (rows k,)
    and of 31 or 63 bits beside the sign. The uniform stays below 1 by one rounding unit.
    """
    dtype = torch.float32 if words.dtype == torch.int32 else torch.float64
    grid = 2.0 ** (torch.iinfo(words.dtype).bits - 1)
    # The halves centre the grid: it is symmetric about 0 and does not contain it.
    halves = words.transpose(0, 1).to(dtype, memory_format=torch.contiguous_format)
    angle, uniform = halves.view(2, -1).add_(0.5).unbind()
    below_1 = 1 - torch.finfo(dtype).eps / 2
    return angle.mul_(_HALF_PI / grid), uniform.abs_().mul_(below_1 / grid)


def uniforms(like: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw an angle and a uniform for each entry of ``like``, which must be one-dimensional."""
    angle, uniform = uniforms_from_words(words_for(like, generator))
    return angle[: len(like)], uniform[: len(like)]


def symmetric_from_uniforms(alpha: float | Tensor, angle: Tensor, uniform: Tensor) -> Tensor:
    r"""Turn an angle and a uniform into a draw of S(alpha)S(1): the Chambers-Mallows-Stuck map.

        X = sin(alpha U) / cos(U)^{1/alpha} * (cos((1 - alpha) U) / W)^{(1 - alpha) / alpha}

    With S = |sin(alpha U)| and C = cos((1 - alpha) U) this is

        X = sign(U) S / sin V * (W sin V / C)^{1 - 1/alpha},

    right for alpha in (0, 2], at 1 and 2 without a branch. It is inf where X leaves the floats.

    Source: Chambers, Mallows and Stuck 1976; Nolan 2020, Theorem 1.3. The form in V is ours.
    """
    alpha, V = _at_least(alpha), angle.abs()
    S, C = _sines(alpha, V)
    sin_V = torch.sin(V)
    # In place on what is ours, which costs less than fresh memory, as powers of 2 than those of e.
    # At small alpha the power may leave the floats where X does not; its root does not.
    ratio = _exponential(alpha, uniform).mul_(sin_V).div_(C)
    root = ratio.log2_().mul_(0.5 - 0.5 / alpha).exp2_()
    return S.div_(sin_V).mul_(root).mul_(root).copysign_(angle)


def log_positive_from_uniforms(alpha: float | Tensor, angle: Tensor, uniform: Tensor) -> Tensor:
    r"""Turn an angle and a uniform into log A, A standard positive alpha-stable: Kanter's map.

    With U uniform on (0, pi) and W standard exponential,

        A = sin(alpha U) sin((1 - alpha) U)^{(1 - alpha)/alpha} / sin(U)^{1/alpha}
            * W^{-(1 - alpha)/alpha},    E exp(-s A) = exp(-s^alpha).

    Its logarithm is returned because A itself leaves the range of float32 at small alpha; its
    square root, which isotropic noise needs, often does not. ``alpha`` is in (0, 1]; at 1 log A is
    0, without a derivative in alpha. ``angle`` is here the distance V of U to pi where positive, to
    0 where negative, and W = -log(1 - uniform).

    Source: Kanter 1975, Corollary 4.1. The form in the distance to the ends is ours.
    """
    alpha, V, at_pi = _at_least(alpha), angle.abs(), math.pi * (angle > 0).to(angle.dtype)
    # Of the two sines, that of the larger index is taken at the complement to pi, precise there.
    small = alpha < 0.5
    less = _where(small, lambda: alpha, lambda: 1 - alpha)
    of_less = (less * (at_pi - angle)).sin_()
    of_more = ((1 - less) * V).add_(less * at_pi).sin_()
    S = _where(small, lambda: of_less, lambda: of_more)  # sin(alpha U)
    D = _where(small, lambda: of_more, lambda: of_less)  # sin((1 - alpha) U)
    # At alpha = 1 D is 0, and its power is 1; there S is sin V itself.
    D_by_W = D.div_(torch.log1p(-uniform).neg_()).clamp_min_(torch.finfo(D.dtype).tiny)
    log_A: Tensor = D_by_W.log_().mul_(1 / alpha - 1).add_(S.log_())
    return log_A.sub_(torch.sin(V).log_() / alpha)


def stable_from_uniforms(
    alpha: float | Tensor, beta: float | Tensor, angle: Tensor, uniform: Tensor
) -> Tensor:
    r"""Turn an angle and a uniform into a draw of the skewed law, standard in Nolan's S0 form.

    With t = beta tan(pi alpha / 2) and e = 1 - alpha, the map of Chambers, Mallows and Stuck is

        X_1 = (sin(alpha U) + t cos(alpha U)) / cos(U) * E,   E = (N / (W cos U))^{e / alpha},
        N = cos(e U) + t sin(e U),

    in the form S1, and X_0 = X_1 - t in the form S0. At alpha = 1 both t and X_1 are infinite, and
    X_0 is not. Collecting what grows with t leaves, from alpha = 1/2 on, no difference of large
    numbers,

        X_0 = sin(alpha U) / cos(U) * E + beta (e tan(pi alpha / 2)) [ expm1(e g) / e
              + E (tan(U) sin(e U) / e - 2 sin(e U / 2)^2 / e) ],   g = log(N / (W cos U)) / alpha.

    On the light side of a totally skewed law the absolute error is about 1e-16 / |angle|;
    P(|angle| < v) ~ v makes that harmless. At alpha = 1 the law of an index 1e-8 away is drawn, and
    the derivative in alpha has a relative error of about 1e-7. ``alpha`` is in (0, 2], ``beta`` in
    [-1, 1]; angle and uniform are float64, or digits are lost.

    Source: Chambers, Mallows and Stuck 1976; Nolan 2020, Theorem 1.3 and Definition 1.4. The
    arrangement of the terms is ours.
    """
    alpha = torch.as_tensor(_at_least(alpha), dtype=angle.dtype, device=angle.device)
    beta = torch.as_tensor(beta, dtype=angle.dtype, device=angle.device)
    e = 1 - alpha
    away_from_0 = torch.where(e.abs() < _NEXT_TO_1, _NEXT_TO_1, e)
    e = e + (away_from_0 - e).detach()  # its value, with the derivative of e
    V, side = angle.abs(), torch.sign(angle)
    U = _HALF_PI - V  # |U|
    sin_V = torch.sin(V)
    S, C = _sines(alpha, V)
    sine = torch.sin(_HALF_PI * e.abs())
    tangent = torch.sin(_HALF_PI * torch.where(alpha < 1, alpha, 2 - alpha)) / sine  # |t / beta|
    # N and the numerator of X_1 are linear in b. Below 0 they are taken from 0 and -1, where a sine
    # is known: no line of N and, at b = +-1, none of the numerator subtracts.
    b = side * beta
    N = torch.where(
        b > 0,
        C + b * tangent * torch.sin(e.abs() * U),
        (1 + b) * C - b * torch.sin(e.abs() * V) / sine,
    )
    power = e * torch.log(N / (_exponential(alpha, uniform) * sin_V)) / alpha
    # Far below 1, t is harmless and E may leave the floats: X_0 is X_1 - t.
    numerator = torch.where(
        b > 0,
        S + b * tangent * torch.cos(alpha * U),
        (1 + b) * S + b * torch.sin(alpha * V) / sine,
    )
    far_below_1 = side * numerator / sin_V * torch.exp(power) - beta * tangent
    power = power.clamp_max(90.0)  # which it never exceeds from alpha = 1/2 on
    E = torch.exp(power)
    skew = torch.expm1(power) / e + E * (
        torch.cos(V) / sin_V * torch.sin(e * U) / e - 2 * torch.sin(e * U / 2).square() / e
    )
    collected = side * S / sin_V * E + beta * (e.abs() * tangent) * skew
    return torch.where(alpha < 0.5, far_below_1, collected)


def _where(condition: bool | Tensor, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """Return ``yes()`` where the condition holds and ``no()`` elsewhere; a bool runs only one."""
    if isinstance(condition, Tensor):
        return torch.where(condition, yes(), no())
    return yes() if condition else no()


def _at_least(alpha: float | Tensor) -> Any:
    """Return the index, or 1e-30, where draws are 0 or inf anyway: 1/alpha must be finite."""
    return alpha.clamp_min(1e-30) if isinstance(alpha, Tensor) else max(alpha, 1e-30)


def _sines(alpha: Any, V: Tensor) -> tuple[Tensor, Tensor]:
    """Return S = |sin(alpha U)| and C = cos((1 - alpha) U), both positive."""
    below_1 = alpha < 1
    less = _where(below_1, lambda: alpha, lambda: 2 - alpha)
    least = torch.finfo(V.dtype).eps ** 2  # a U that is rounded to 0 is not 0
    angle_of_S = _where(
        below_1,
        lambda: (_HALF_PI - V).clamp_min_(least) * alpha,
        lambda: (alpha * V).add_(less * _HALF_PI),
    )
    return angle_of_S.sin_(), (abs(1 - alpha) * V).add_(less * _HALF_PI).sin_()


def _exponential(alpha: float | Tensor, uniform: Tensor) -> Tensor:
    """Return W, precise where the tail needs it."""
    log: Tensor = _where(alpha < 1, lambda: torch.log1p(-uniform), lambda: torch.log(uniform))
    return log.neg_()


def on_half_line(alpha: Tensor, beta: Tensor) -> Tensor:
    """Return whether the law lives on a half-line."""
    return (alpha < 1) & (beta.abs() == 1)


def within_support(X: Tensor, alpha: Tensor, beta: Tensor, end: Tensor) -> Tensor:
    """Return draws on the half-line from ``end`` of a law that has one: rounding may leave it."""
    half_line = on_half_line(alpha, beta)
    lower = torch.where(half_line & (beta > 0), end, -math.inf)
    return X.clamp(lower, torch.where(half_line & (beta < 0), end, math.inf))


def s1_shift(alpha: Tensor, beta: Tensor, scale: Tensor) -> Tensor:
    """Return d with S1(loc) = S0(loc + d), of tensors that broadcast.

    d = beta scale tan(pi alpha / 2), and beta (2/pi) scale log(scale) at alpha = 1; 0 at alpha = 2.

    Source: Nolan 2020, Section 1.3.
    """
    at_one, e = alpha == 1, 1 - alpha
    # The tangent of pi/2 rounded has lost digits, that of pi rounded is not 0.
    tangent = torch.where(
        e.abs() < 1e-3,
        1 / torch.tan(_HALF_PI * torch.where(at_one, 1.0, e)),
        torch.tan(_HALF_PI * torch.where(alpha == 2, alpha - 2, alpha)),
    )
    at_1 = 2 / math.pi * torch.special.xlogy(scale, scale)
    return beta * torch.where(at_one, at_1, scale * tangent)


def _skewed(
    form: str, alpha: Tensor, beta: Tensor, loc: Tensor, scale: Tensor, *bits: Tensor
) -> Tensor:
    """Turn an angle and a uniform into a draw of a form's law, in float64."""
    X = stable_from_uniforms(alpha, beta, *(some.double() for some in bits))
    X = torch.where(scale == 0, 0.0, scale * X) + loc  # 0 times what may be infinite is 0
    shift = s1_shift(alpha, beta, scale)
    if form == "S0":
        return within_support(X, alpha, beta, loc - shift)
    return within_support(X + shift, alpha, beta, loc)


# The forms of the skewed law, each with its map, and what the maps take before the angle.
FORMS = {form: partial(_skewed, form) for form in ("S0", "S1")}
PARAMETERS = ("alpha", "beta", "loc", "scale")
