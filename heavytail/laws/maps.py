"""The maps from an angle and a uniform to a stable variable, and a law's half-line and shift.

Pure functions, without randomness of their own: :mod:`heavytail.laws._blocks` feeds them.
Those named ``..._from_uniforms`` are public in :mod:`heavytail.laws.draws`, which lists their
sources.
"""

import math

import torch
from torch import Tensor

from heavytail.laws import _functions

_HALF_PI = math.pi / 2

# At alpha = 1 the skewed map takes 1 - alpha to be this: 1e-8, rounded to float32.
_NEXT_TO_1 = 9.99999993922529e-09


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
        scratch: on a CPU, room for the steps of a float ``alpha``, shape ``(3, *angle.shape)``, as
            ``angle`` else. ``uniform`` is then overwritten too, the draws lie in the room, and are
            those without it up to rounding. None makes room and leaves the inputs alone.

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
    sin_, log_, log2_, log1p_ = _functions.TORCH if scratch is None else _functions.of_blocks()
    torch.abs(angle, out=V)
    if alpha < 1:
        sin_(_affine(-1, V, _HALF_PI, S).mul_(alpha))
        sin_(_affine(alpha - 1, V, -alpha * _HALF_PI, minus_C))
        log1p_(torch.neg(uniform, out=ratio)).div_(minus_C)
    else:
        sin_(_affine(alpha, V, (2 - alpha) * _HALF_PI, S))
        sin_(_affine(1 - alpha, V, (alpha - 2) * _HALF_PI, minus_C))
        # An out= refuses a uniform that needs a gradient: there is none at a float alpha.
        (torch.log(uniform, out=ratio) if scratch is None else log_(ratio)).div_(minus_C)
    # W / C > 0 from here on. Powers of 2 rather than of e: on some processors they cost less.
    log_power = log2_(sin_(V).mul_(ratio)).mul_(-1 / alpha)
    if alpha < 0.5:  # the power alone may leave the floats
        return log2_(S.mul_(ratio)).add_(log_power).exp2_().copysign_(angle)
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
    sin_, log_, _, log1p_ = _functions.TORCH if scratch is None else _functions.of_blocks()
    precise, plain = (D, S) if alpha < 0.5 else (S, D)
    less: float = min(alpha, 1 - alpha)
    torch.gt(angle, 0, out=precise).mul_(math.pi * less)
    sin_(torch.sub(precise, angle, alpha=less, out=plain))
    sin_(precise.add_(torch.abs(angle, out=V), alpha=1 - less))
    log1p_(torch.neg(uniform, out=minus_W))
    log_power = log_(D.div_(minus_W).neg_())
    return log_(S).add_(log_power, alpha=1 / alpha - 1).sub_(log_(sin_(V)), alpha=1 / alpha)


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


def on_half_line(alpha: Tensor, beta: Tensor) -> Tensor:
    """Return whether the law lives on a half-line."""
    return (alpha < 1) & (beta.abs() == 1)


def within_support(X: Tensor, alpha: Tensor, beta: Tensor, end: Tensor) -> Tensor:
    """Return draws on the half-line from ``end`` of a law that has one: rounding may leave it."""
    half_line = on_half_line(alpha, beta)
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


def _skewed_s0(
    alpha: Tensor, beta: Tensor, loc: Tensor, scale: Tensor, angle: Tensor, uniform: Tensor
) -> Tensor:
    X = stable_from_uniforms(alpha, beta, angle.double(), uniform.double())
    end = loc - s1_shift(alpha, beta, scale)
    return within_support(scale * X + loc, alpha, beta, end)


def _skewed_s1(
    alpha: Tensor, beta: Tensor, loc: Tensor, scale: Tensor, angle: Tensor, uniform: Tensor
) -> Tensor:
    X = stable_from_uniforms(alpha, beta, angle.double(), uniform.double())
    X = scale * X + loc + s1_shift(alpha, beta, scale)
    return within_support(X, alpha, beta, loc)


# The forms of the skewed law, each with its map, and what the maps take before the angle.
FORMS = {"S0": _skewed_s0, "S1": _skewed_s1}
PARAMETERS = ("alpha", "beta", "loc", "scale")
