r"""The inversion integrals of the standard stable law in the form S0, along a path of descent.

Nolan's S0(alpha, beta) law has the characteristic function exp(h(u) + iux) for u > 0 with

    h(u) = -iux - u^alpha - i beta T (u - u^alpha),    T = tan(pi alpha / 2),

where T (u - u^alpha) stands for (2/pi) u log u at alpha = 1: it is continuous in all parameters.
With u = exp(w) the function h is entire in w, and the inversion integral (1/pi) Re int exp(h) du
may be taken along the path on which h is real, h = -g with g rising from 0 to infinity. Written
w = s + i (psi - pi/2), partial integration leaves three integrals of positive terms,

    f = (1/pi) int e^s sin(psi) e^{-g} dg,      1 - F = (1/pi) int psi e^{-g} dg,
    F = (1/pi) int (pi - psi) e^{-g} dg,

so nothing cancels, however far in the tail. Along the path p = s + psi is monotone, even next to
the Cauchy law, where psi is constant and the usual integral over the angle degenerates. For each
of some hundred values of p a safeguarded Newton iteration finds psi; the trapezoidal rule in t,
p = centre + width sinh(t), does the rest. Towards a light tail the path runs down the imaginary
axis and turns off at a saddle: there lies the centre, and the width is that of the turn.

With nodes and weights held fixed, sum weight e^{w + h(w; x, alpha, beta)} is analytic in the
parameters, and that gives the derivatives.

References:
    V. M. Zolotarev, One-dimensional Stable Distributions, AMS, 1986, Section 2.2.
    J. P. Nolan, Numerical calculation of stable densities and distribution functions,
    Comm. Statist. Stochastic Models 13 (1997) 759-774. The choice of the coordinate is ours.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_PI = math.pi
_HALF_PI = math.pi / 2

# Nodes in a block: the temporaries stay in a core's cache.
_NODES = 1 << 14

# Steps of the trapezoidal rule: on a smooth path, and on one that turns sharply. Below alpha =
# _NARROW, where the peak narrows, they are multiplied by 0.3 + alpha: an error of 1e-10 wants that.
_STEP, _STEP_AT_TURN, _NARROW = 0.065, 0.045, 0.45

# The ends of the rule. Where g ~ r^least with least = min(alpha, 1), _ABOVE / least e-folds of r
# from g = 1 lead to g = e^6 and _BELOW / least to g = e^-38: what lies beyond is below rounding.
# e^s must stay a float, which cuts off part of the integral for alpha < 0.055.
_ABOVE, _BELOW, _LONGEST = 6.0, 38.0, 690.0

# On a half-line p = centre + exp(t - exp(-t)) from t = -_FIRST on, where it is 1e-19.
_FIRST = 3.7

_MOST_NODES = 4000

# A turn is followed where g > _SEEN there: F and 1 - F give smaller g a weight of g, f one of g^2.
# It is out of sight where g > _HIDDEN, e^-g being nothing beside the power tail, unless there is
# no power tail.
_SEEN = {"density": 1e-5, "cdf": 1e-11, "all": 1e-11}
_HIDDEN = 50.0

# How many values there are of each kind, see quadrature.
ROWS = {"density": 1, "cdf": 2, "all": 3}
_NARROWEST = 1e-6  # the least width of a turn

# From here on exp(-g) is no float on the whole path.
_DEEPEST = 1e8

# What the integral of e^-g dg = 1 may miss by.
_MISSED = 1e-2


class _Law(NamedTuple):
    """What the exponent needs; each a tensor, all of one shape or broadcasting."""

    x: Tensor
    alpha: Tensor
    beta: Tensor
    e: Tensor  # 1 - alpha
    sin: Tensor  # of pi alpha / 2
    cos: Tensor
    tau: Tensor  # e tan(pi alpha / 2), 2/pi at alpha = 1
    lift: Tensor  # sin tan(pi e / 4) = tan(pi alpha / 2) (1 - sin)


class _Field(NamedTuple):
    """The exponent at a point of the path, divided by r = e^s: h = r (i im - g)."""

    im: Tensor
    g: Tensor
    d_re: Tensor  # dh/dw / r, its real part
    d_im: Tensor


def sine(alpha: Tensor) -> Tensor:
    """Return sin(pi alpha / 2), exact at alpha = 2."""
    return torch.sin(_HALF_PI * torch.minimum(alpha, 2 - alpha))


def law_of(x: Tensor, alpha: Tensor, beta: Tensor) -> _Law:
    e = 1 - alpha
    sin = sine(alpha)
    cos = torch.sin(_HALF_PI * e)
    tau = 2 / _PI * sin / torch.sinc(e / 2)
    return _Law(x, alpha, beta, e, sin, cos, tau, sin * torch.tan(_PI / 4 * e))


def _field(law: _Law, s: Tensor, psi: Tensor) -> _Field:
    """Return h and dh/dw at w = s + i (psi - pi/2).

    Differences that vanish at alpha = 1 are expanded analytically.
    """
    x, alpha, beta, e, sin, cos, tau, lift = law
    z = -e * s
    q = torch.exp(z)  # r^alpha / r
    small = e.abs() < 1e-5
    series = -s * (1 + z / 2 * (1 + z / 3 * (1 + z / 4)))
    growth = tau * torch.where(small, series, torch.expm1(z) / torch.where(small, 1.0, e))
    sin_a, cos_a = torch.sin(alpha * psi), torch.cos(alpha * psi)
    sin_1, cos_1 = torch.sin(psi), torch.cos(psi)
    half = tau * psi * torch.sinc(e * psi / (2 * _PI))  # 2 T sin(e psi / 2)
    middle = (1 + alpha) / 2 * psi
    ahead = (1 + beta) * sin * cos_a - cos * sin_a
    down = cos * cos_a + sin * sin_a
    turn = growth * sin - lift
    im = q * ahead - x * sin_1 + beta * (turn * sin_a - half * torch.cos(middle))
    g = x * cos_1 + q * (down + beta * sin * sin_a)
    g = g - beta * (turn * cos_a + half * torch.sin(middle))
    im_s = -q * (e * ahead + beta * tau * sin * sin_a)
    g_s = q * (beta * sin * (tau * cos_a - e * sin_a) - e * down)
    return _Field(im, g, -(g + g_s), im + im_s)


def _psi_at(
    law: _Law, sign: Tensor, p: Tensor, psi: Tensor, iterations: int, noise: Tensor | None = None
) -> Tensor:
    """Solve Im h = 0 on the lines s + sign psi = p: Newton's iteration inside a bracket.

    A step out of the bracket is replaced by its geometric middle, with a lower end of 0 by a
    fraction of the upper that falls from step to step: the root may be 1e-40. Steps smaller than
    ``noise``, what the rounding of p moves psi by, end the iteration.
    """
    least = torch.zeros_like(sign) if noise is None else noise
    low, high = torch.zeros_like(p), torch.full_like(p, _PI)
    for k in range(iterations):
        at = _field(law, p - sign * psi, psi)
        low = torch.where(at.im > 0, psi, low)
        high = torch.where(at.im < 0, psi, high)
        move = at.im / (sign * (at.d_im - at.im) - at.d_re)
        new = psi + move
        # A last step may leave the bracket by a rounding error.
        within = ((new >= low) & (new <= high)) | (move.abs() < 1e-10 * psi)
        if not bool(within.all()):
            middle = torch.sqrt(torch.maximum(low, 10.0 ** -(k + 1) * high)) * torch.sqrt(high)
            new = torch.where(within, new, torch.where(low > high / 4, (low + high) / 2, middle))
        new = torch.where(at.im == 0, psi, new)
        moved = (new - psi).abs() > 1e-8 * psi + least  # the step after this is below rounding
        psi = new
        if not bool(moved.any()):
            break
        if k == 6 and p.dim() == 2:  # the few nodes next to a turn go on by themselves
            row, column = moved.nonzero(as_tuple=True)
            rest = _Law(*(v[row, 0] for v in law))
            psi = psi.clone()
            start, left, few = psi[row, column], iterations - k, (row, 0)
            psi[row, column] = _psi_at(rest, sign[few], p[row, column], start, left, least[few])
            break
    return psi


class _Path(NamedTuple):
    """Where the nodes of each point lie; each (points,)."""

    law: _Law  # reflected to x >= 0
    sign: Tensor  # psi rises (+1) or falls (-1) along the path
    centre: Tensor
    psi: Tensor  # at the centre, roughly
    width: Tensor
    left: Tensor
    right: Tensor
    start: Tensor  # g where the path of a totally skewed law leaves the axis, else 0
    from_start: Tensor  # whether the nodes begin there
    nodes: Tensor  # how many


class _Turn(NamedTuple):
    """The saddle on the axis of the totally skewed law next to a law; each (points,)."""

    s: Tensor
    depth: Tensor  # g there
    width: Tensor  # of the turn around it
    exists: Tensor
    on_axis: Tensor  # whether the law is totally skewed itself


def _slope(law: _Law) -> Tensor:
    """Return (1 - alpha) (x - zeta), with zeta = -beta T the location in the form S1."""
    return law.e * law.x + law.beta * law.tau


def _centre(law: _Law, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Return p and psi where g = 1, where most of the integrals lie.

    Newton's iteration for log g = 0 in p = s + sign psi, along which

        d log g / dp = |dh/dw|^2 / ((sign Im - Re) dh/dw) / g.
    """
    p = sign * (_PI / 4) - torch.log1p(law.x)
    psi = torch.full_like(p, _PI / 4)
    for _ in range(8):
        psi = _psi_at(law, sign, p, psi, 8)
        s = p - sign * psi
        at = _field(law, s, psi)
        across = sign * at.d_im - at.d_re
        rate = (at.d_re / across * at.d_re + at.d_im / across * at.d_im) / at.g
        step = (torch.log(at.g) + s) / rate
        p = p - torch.nan_to_num(step, nan=0.0, posinf=3.0, neginf=-3.0).clamp(-3, 3)
    return p, psi


def _turn(law: _Law, sign: Tensor) -> _Turn:
    """Return the saddle of the totally skewed law, reflected by ``sign`` so that psi = 0 there.

    On that axis g = r (A + q B) with r = e^s, q = r^{alpha - 1},

        A = x + beta (tau sin(pi alpha/2) / e + lift),    B = cos(pi alpha/2) - beta tau sin / e,

    which is least where q = -A / (alpha B). Around it the path is the hyperbola
    psi (s - s_0) = q (1 + beta) sin / |slope|, with the slope of :func:`_slope`.
    """
    x, alpha, beta, e = sign * law.x, law.alpha, sign * law.beta, law.e
    excess = (x + beta * (law.lift + law.sin * law.tau) + alpha * law.cos) / (
        alpha * (beta * law.tau * law.sin - e * law.cos)
    )
    z = e * excess  # q - 1
    small = (e.abs() < 1e-5) & (z.abs() < 1e-4)
    s = torch.where(  # -log(q) / e
        small,
        -excess * (1 - z / 2 * (1 - 2 * z / 3 * (1 - 3 * z / 4))),
        -torch.log1p(z) / torch.where(small, 1.0, e),
    )
    at = _field(law._replace(x=x, beta=beta), s, torch.zeros_like(s))
    gap = (1 + beta) * law.sin
    width = 2 * torch.sqrt(torch.exp(-e * s) * gap / _slope(law).abs())
    return _Turn(s, at.g * torch.exp(s), width, z > -1, gap == 0)


def _locate(x: Tensor, alpha: Tensor, beta: Tensor, derivatives: bool, least_depth: float) -> _Path:
    """Return where the nodes lie: around the turn where there is a sharp one, else around g = 1.

    A totally skewed law needs no nodes on the axis, where psi and f's integrand are 0; its
    derivatives do.
    """
    flip = torch.where(x < 0, -1.0, 1.0).to(x)
    law = law_of(flip * x, alpha, flip * beta)
    sign = torch.where(_slope(law) <= 0, 1.0, -1.0).to(x)
    p, psi = _centre(law, sign)
    turn = _turn(law, sign)
    sharp = turn.exists & (turn.width < 1) & (turn.depth > least_depth)
    sharp &= (turn.depth < _HIDDEN) | turn.on_axis
    p = torch.where(sharp, turn.s - _PI * (sign < 0).to(p), p)
    at_turn = torch.where(sign > 0, (turn.width / 2).clamp(1e-7, 1), _PI - 1e-3)
    psi = torch.where(sharp, at_turn, psi)
    width = torch.where(sharp, turn.width.clamp_min(_NARROWEST), 1.0)
    start = torch.where(sharp & turn.on_axis, turn.depth, 0.0)
    from_start = sharp & turn.on_axis & (not derivatives)
    least = alpha.clamp_max(1)
    below = torch.where(sharp, -torch.log(turn.depth), 0.0).clamp_min(0)  # the turn is below g = 1
    above = _ABOVE / least + below
    left = torch.asinh((_BELOW / least).clamp_max(_LONGEST) / width)
    left = torch.where(from_start, _FIRST, left)
    right = torch.where(from_start, torch.log(above), torch.asinh(above / width))
    step = torch.where(sharp, _STEP_AT_TURN, torch.full_like(psi, _STEP)) / (1 + below / 6)
    step = torch.where(alpha < _NARROW, 0.3 + alpha, 1.0) * step
    nodes = torch.nan_to_num((left + right) / step).clamp_max(_MOST_NODES).to(torch.int64) + 2
    return _Path(law, sign, p, psi, width, left, right, start, from_start, nodes)


def quadrature(
    x: Tensor, alpha: Tensor, beta: Tensor, kind: str, derivatives: bool
) -> tuple[Tensor, ...]:
    """Return one block of values, (points,) each; with derivatives in x, alpha and beta after them.

    kind: "density" for log f, "cdf" for F and 1 - F, "all" for F, 1 - F and log f. The derivatives
    are those of the first.
    """
    path = _locate(x, alpha, beta, derivatives, _SEEN[kind])
    order = torch.argsort(path.nodes)
    counts = path.nodes[order].tolist()
    pieces: list[tuple[Tensor, ...]] = []
    start = 0
    while start < len(counts):
        stop = start + 1
        while (
            stop < len(counts)
            and counts[stop] * (stop + 1 - start) <= _NODES
            and counts[stop] <= 1.3 * counts[start]
        ):
            stop += 1
        rows = order[start:stop]
        part = _Path(_Law(*(v[rows] for v in path.law)), *(v[rows] for v in path[1:]))
        values = x[rows], alpha[rows], beta[rows]
        pieces.append(_rule(part, *values, counts[stop - 1], kind, derivatives))
        start = stop
    back = torch.argsort(order)
    return tuple(torch.cat(column)[back] for column in zip(*pieces, strict=True))


def _rule(
    path: _Path, x: Tensor, alpha: Tensor, beta: Tensor, n: int, kind: str, derivatives: bool
) -> tuple[Tensor, ...]:
    left, width, sign = path.left[:, None], path.width[:, None], path.sign[:, None]
    law = _Law(*(v[:, None] for v in path.law))
    step = (path.left + path.right)[:, None] / n
    t = step * torch.arange(n + 1, dtype=x.dtype, device=x.device) - left
    from_start = path.from_start[:, None]
    # There the double exponential rule: p - centre = exp(t - exp(-t)).
    shrink = torch.exp(-t) * from_start
    away = torch.where(from_start, torch.exp(t - shrink), width * torch.sinh(t))
    dp = step * torch.where(from_start, away * (1 + shrink), width * torch.cosh(t))
    p = path.centre[:, None] + away
    turned = torch.where(sign > 0, away, _PI - away).clamp(1e-12, _PI)
    start = torch.where(from_start & (away < 1), turned, path.psi[:, None])
    noise = 4e-16 * (1 + path.centre[:, None].abs()) * from_start
    psi = _psi_at(law, sign, p, start, 50, noise)
    s = p - sign * psi
    at = _field(law, s, psi)
    r = torch.exp(s)
    g = r * at.g
    scale = 1 / (sign * at.d_im - at.d_re) * dp
    dg = torch.nan_to_num(r * at.d_re * (at.d_re * scale) + r * at.d_im * (at.d_im * scale))
    floor = torch.where(path.from_start, g.amin(1), 0.0)
    if derivatives and kind == "density":
        middle = torch.argmin(t.abs(), 1, keepdim=True)
        floor = torch.where(path.width < 1, g.gather(1, middle)[:, 0], 0.0)
    weight = dg * torch.exp((floor[:, None] - g).clamp_max(600))
    # int e^-g dg = 1 over all of the path: a node astray does not pass unseen.
    skipped = torch.where(path.from_start, path.start, 0.0)
    whole = torch.exp((floor - skipped).clamp_max(600))
    missed = torch.where(path.start > _HIDDEN, 0.5, torch.full_like(x, _MISSED))
    astray = ~((weight.sum(1) - whole).abs() <= missed * whole) & ~(floor - skipped >= _HIDDEN)
    # Here e^-g is no float, and where g moves by more than that with the rounding of x, next to the
    # end of a half-line, the sum is noise: f = r / sqrt(2 pi r |slope|) e^-g at the saddle, to 1/g.
    bottom = path.start > _DEEPEST
    bottom |= astray & path.from_start & (path.start > _HIDDEN)
    density = (weight * r * torch.sin(psi)).sum(1) / _PI
    log_r = path.centre + _PI * (path.sign < 0).to(x)
    saddle = (log_r - torch.log(2 * _PI * _slope(path.law).abs())) / 2 - path.start
    log_density = torch.where(bottom, saddle, torch.log(density) - floor)
    values: tuple[Tensor, ...] = (log_density,)
    if kind != "density":
        upper = (weight * psi).sum(1) / _PI
        lower = (weight * (_PI - psi)).sum(1) / _PI
        # On the axis psi is 0 if it rises from there, pi if it falls.
        upper = upper * torch.exp(-floor) - torch.expm1(-skipped) * (path.sign < 0)
        lower = lower * torch.exp(-floor) - torch.expm1(-skipped) * (path.sign > 0)
        upper = torch.where(bottom, (path.sign < 0).to(x.dtype), upper)
        lower = torch.where(bottom, (path.sign > 0).to(x.dtype), lower)
        # the smaller is the more precise
        upper, lower = (
            torch.where(upper < lower, upper, 1 - lower),
            torch.where(upper < lower, 1 - upper, lower),
        )
        upper, lower = upper.clamp(0, 1), lower.clamp(0, 1)
        swap = x < 0
        tails = torch.where(swap, upper, lower), torch.where(swap, lower, upper)
        values = (*tails, *values) if kind == "all" else tails
    if bool((astray & ~bottom).any()):
        values = tuple(torch.where(astray & ~bottom, math.nan, v) for v in values)
    if not derivatives:
        return values
    flip = torch.where(x < 0, -1.0, 1.0).to(x)
    ds, dpsi = -at.d_re * scale, at.d_im * scale
    with torch.enable_grad():
        leaves = [v.detach().requires_grad_() for v in (x, alpha, beta)]
        free = law_of(*(v[:, None] for v in (flip * leaves[0], leaves[1], flip * leaves[2])))
        at = _field(free, s, psi)
        size = torch.exp((floor[:, None] - r * at.g).clamp_max(600))
        cos, sin = torch.cos(r * at.im), torch.sin(r * at.im)
        if kind == "density":
            sin_1, cos_1 = torch.sin(psi), torch.cos(psi)
            re, im = sin_1 * ds + cos_1 * dpsi, sin_1 * dpsi - cos_1 * ds
            total = (r * size * (re * cos - im * sin)).sum(1) / _PI
            partial = torch.autograd.grad(total.sum(), leaves)
            found = [v / density for v in partial]
        else:
            total = flip * (size * (dpsi * cos + ds * sin)).sum(1) / _PI
            partial = torch.autograd.grad(total.sum(), leaves)
            found = [torch.exp(log_density), -partial[1], -partial[2]]  # of F
    return (*values, *found)
