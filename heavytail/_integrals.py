r"""Density, distribution function and survival function of the standard stable law in the form S0.

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
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor

_PI = math.pi
_HALF_PI = math.pi / 2

# Nodes in a block of the quadrature, and points in a block of the interpolation: the temporaries
# stay in a core's cache.
_NODES = 1 << 14
_POINTS = 1 << 14

# The leading term of the tail is all there is from |x| = _FAR on, and where the next terms are
# smaller by |x|^-min(alpha, 1) < e^-_ALONE, which is below rounding.
_FAR, _ALONE = 1e100, 42.0

# Up to alpha = _SERIES_TO and from |x| = _SERIES_FROM on the tail is a series of so many terms
# where the next one is below e^-_ALONE.
_SERIES_TO, _SERIES_FROM, _TERMS = 0.9, 10.0, 24

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

# How many values there are of each kind, see _quadrature.
_ROWS = {"density": 1, "cdf": 2, "all": 3}
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


def on_half_line(alpha: Tensor, beta: Tensor) -> Tensor:
    """Return whether the law lives on a half-line."""
    return (alpha < 1) & (beta.abs() == 1)


def _sine(alpha: Tensor) -> Tensor:
    """Return sin(pi alpha / 2), exact at alpha = 2."""
    return torch.sin(_HALF_PI * torch.minimum(alpha, 2 - alpha))


def _law(x: Tensor, alpha: Tensor, beta: Tensor) -> _Law:
    e = 1 - alpha
    sin = _sine(alpha)
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
    small = e.abs() < 1e-5
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
    law = _law(flip * x, alpha, flip * beta)
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


def _quadrature(
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
        free = _law(*(v[:, None] for v in (flip * leaves[0], leaves[1], flip * leaves[2])))
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


class _Direct(torch.autograd.Function):
    """The quadrature with first derivatives found on the way: no graph of the nodes is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Tensor, kind: str) -> Any:
        derivatives = any(ctx.needs_input_grad)
        size = _ROWS[kind] + 3 * derivatives
        out = torch.empty((size, x.numel()), dtype=x.dtype, device=x.device)
        for start in range(0, x.numel(), _POINTS):
            part = slice(start, start + _POINTS)
            found = _values(x[part], alpha[part], beta[part], kind, derivatives)
            for row, value in zip(out, found, strict=True):
                row[part] = value
        return _finish(ctx, out, kind, derivatives)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*_chain(ctx, grads), None)


class _Interpolated(torch.autograd.Function):
    """The same by a table of one law; x has one dimension, alpha and beta none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Tensor, kind: str) -> Any:
        derivatives = any(ctx.needs_input_grad)
        table = _table(float(alpha), float(beta), kind, derivatives, x.device)
        return _finish(ctx, table(x), kind, derivatives)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_alpha, of_beta = _chain(ctx, grads)
        return of_x, of_alpha.sum(), of_beta.sum(), None


def _finish(ctx: Any, rows: Tensor, kind: str, derivatives: bool) -> Any:
    ctx.kind = kind
    if derivatives:
        ctx.save_for_backward(rows[-3:])
    values = tuple(row.clone() for row in rows[: _ROWS[kind]])
    return values[0] if kind == "density" else values


def _chain(ctx: Any, grads: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    if torch.is_grad_enabled():  # create_graph: what would follow is a constant, silently
        raise RuntimeError("the stable law has first derivatives only, no graph of them")
    (rows,) = ctx.saved_tensors
    grad = grads[0] if ctx.kind == "density" else grads[0] - grads[1]  # of F and of 1 - F
    return grad * rows[0], grad * rows[1], grad * rows[2]


def _values(
    x: Tensor, alpha: Tensor, beta: Tensor, kind: str, derivatives: bool
) -> tuple[Tensor, ...]:
    """The quadrature where there is something to integrate.

    Off the half-line of a totally skewed law the values are plain, and so are those of the normal
    law where no derivative in alpha is asked.
    """
    beyond = beta * ((1 - alpha) * x + beta * _law(x, alpha, beta).tau) <= 0
    empty = on_half_line(alpha, beta) & beyond
    normal = (alpha == 2) & (not derivatives)
    far = _is_far(x, alpha, beta) & ~(empty | normal)
    rest = ~(empty | normal | far)
    if bool(rest.all()):
        return _quadrature(x, alpha, beta, kind, derivatives)
    out = []
    if kind != "density":
        lower, upper = torch.erfc(-x / 2) / 2, torch.erfc(x / 2) / 2
        out.append(torch.where(empty, (beta < 0).to(x.dtype), lower))
        out.append(torch.where(empty, (beta > 0).to(x.dtype), upper))
    if kind != "cdf":
        gauss = -x.square() / 4 - math.log(4 * _PI) / 2
        out.append(torch.where(empty, -math.inf, gauss))
    out += [torch.zeros_like(x)] * (3 * derivatives)
    out = [v.clone() for v in out]
    for where, rule in ((far, _tail), (rest, _quadrature)):
        if bool(where.any()):
            found = rule(x[where], alpha[where], beta[where], kind, derivatives)
            for row, value in zip(out, found, strict=True):
                row[where] = value
    return tuple(out)


def _series_scale(x: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log z, log q and the angle of the tail's series, see :func:`_tail`."""
    b = torch.where(x > 0, beta, -beta)
    T = torch.tan(_HALF_PI * alpha.clamp_max(_SERIES_TO))
    log_z = torch.log(x.abs() + b * T)
    log_q = torch.log1p((b * T).square()) / 2 - alpha * log_z
    return log_z, log_q, torch.atan2(T * (1 + b), 1 - b * T.square())  # precise at b = -1


def _is_far(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return where the series of the tail, or its leading term, is exact to rounding."""
    size = x.abs()
    far = size > _FAR
    if not bool((size > _SERIES_FROM).any()):
        return far
    # The term after the last, beside the first.
    rest = _TERMS * _series_scale(x, alpha, beta)[1]
    rest = rest + torch.lgamma((_TERMS + 1) * alpha + 1) - math.lgamma(_TERMS + 2)
    far |= (alpha <= _SERIES_TO) & (size > _SERIES_FROM) & (rest < -_ALONE)
    power = (alpha < 2) & (torch.sign(x) * beta > -1)  # there is a power tail
    return far | (power & (alpha.clamp_max(1) * torch.log(size) > _ALONE))


def _tail(
    x: Tensor, alpha: Tensor, beta: Tensor, kind: str, derivatives: bool
) -> tuple[Tensor, ...]:
    """The series of the tail, which converges for alpha < 1, or its leading term.

    With T = tan(pi alpha / 2), z = x + beta T, q = sqrt(1 + beta^2 T^2) z^-alpha and the angle
    a = pi alpha / 2 + atan(beta T), for x > 0,

        P(X > x) = (1/pi) sum_k (-1)^{k+1} Gamma(k alpha) / k! q^k sin(k a).

    Above alpha = 0.9 it is the leading term (1 + beta) Gamma(alpha) sin(pi alpha / 2) x^-alpha / pi
    alone. Beyond 1e100 the next term is smaller by x^-alpha or 1/x, below rounding there.
    """
    with torch.set_grad_enabled(derivatives):
        x, alpha, beta = (v.detach().requires_grad_(derivatives) for v in (x, alpha, beta))
        up = x > 0
        few = alpha <= _SERIES_TO
        low = alpha.clamp_max(_SERIES_TO)
        log_z, log_q, angle = _series_scale(x, low, beta)
        k = torch.arange(1, _TERMS + 1, dtype=x.dtype, device=x.device)
        order, power = low[:, None] * k, log_q[:, None].clamp_min(-700)
        terms = torch.exp(torch.lgamma(order) - torch.lgamma(k + 1) + (k - 1) * power)
        terms = terms * torch.sin(k * angle[:, None]) * (1 - 2 * (k % 2 == 0).to(x.dtype))
        log_series = log_q + torch.log(terms.sum(1) / _PI)
        log_slope = log_q - log_z + torch.log((order * terms).sum(1) / _PI)
        weight = (1 + torch.where(up, beta, -beta)) * _sine(alpha)
        log_size = torch.log(x.abs())
        log_lead = torch.lgamma(alpha) + torch.log(weight / _PI) - alpha * log_size
        tail = torch.exp(torch.where(few, log_series, log_lead))
        values = [torch.where(few, log_slope, log_lead + torch.log(alpha) - log_size)]
        if kind != "density":
            tails = [torch.where(up, 1 - tail, tail), torch.where(up, tail, 1 - tail)]
            values = tails + values * (kind == "all")
        if not derivatives:
            return tuple(values)
        partial = torch.autograd.grad(values[0].sum(), (x, alpha, beta))
    return (*(v.detach() for v in values), *(torch.nan_to_num(v, nan=0.0) for v in partial))


# The tables of single laws.

_DEGREE = 16  # coefficients of a panel
_REACH = 17.0  # a table covers |x| < sinh(17) = 1.2e7
_PANELS = 600
_MANY = 2000  # points from which on a table pays

_tables: OrderedDict[tuple[Any, ...], "_Table"] = OrderedDict()


class _Table:
    """Chebyshev series in asinh(x) on panels, halved until their last coefficients are small.

    Panels that stay rough, as next to the end of a half-line, and points beyond the table take
    the quadrature itself.
    """

    def __init__(
        self, alpha: float, beta: float, kind: str, derivatives: bool, device: torch.device
    ) -> None:
        self.law, self.kind, self.derivatives = (alpha, beta), kind, derivatives
        k = torch.arange(_DEGREE, dtype=torch.float64)
        angle = _PI * (k + 0.5) / _DEGREE
        to_series = torch.cos(k[:, None] * angle) * (2 / _DEGREE)
        to_series[0] /= 2
        edges = torch.linspace(-_REACH, _REACH, 25, dtype=torch.float64)
        low, high = edges[:-1], edges[1:]
        done: list[tuple[Tensor, Tensor, Tensor]] = []
        panels = 0
        while low.numel():
            y = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * torch.cos(angle)
            rows = self._exact(torch.sinh(y).flatten()).unflatten(1, y.shape)  # (rows, panels, k)
            if kind != "density":
                rows[:2] = torch.log(rows[:2])
            series = rows @ to_series.T
            size = 1 + series.abs().amax(2)
            rough = series[..., -2:].abs().amax(2) / size
            bar = torch.full((rows.shape[0], 1), 1e-8, dtype=torch.float64)
            bar[: rows.shape[0] - 3 * derivatives] = 3e-13
            bad = ~(rough <= bar).all(0)
            # Far down a light tail, or where halving does not help
            lost = ~torch.isfinite(rows).all(0)
            lost |= (rows[: _ROWS[kind]] < -1e4).any(0)
            panels += int(low.numel())
            keep = ~bad | lost.all(1) | (high - low < 1e-3) | (panels > _PANELS)
            series[:, bad & keep] = math.nan
            done.append((low[keep], high[keep], series[:, keep]))
            middle = ((low + high) / 2)[~keep]
            low, high = torch.cat([low[~keep], middle]), torch.cat([middle, high[~keep]])
        low, high = torch.cat([d[0] for d in done]), torch.cat([d[1] for d in done])
        order = torch.argsort(low)
        series = torch.cat([d[2] for d in done], 1)[:, order]
        self.starts = low[order].to(device)
        self.middle = ((low + high) / 2)[order].to(device)
        self.slope = (2 / (high - low))[order].to(device)
        self.series = series.permute(0, 2, 1).contiguous().to(device)  # (rows, k, panels)

    def _exact(self, x: Tensor) -> Tensor:
        alpha, beta = (torch.full_like(x, v) for v in self.law)
        return torch.stack(_values(x, alpha, beta, self.kind, self.derivatives))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the rows at x, (rows, points)."""
        out = x.new_empty((self.series.shape[0], x.numel()))
        for start in range(0, x.numel(), _POINTS):
            part = slice(start, start + _POINTS)
            y = torch.asinh(x[part])
            panel = (torch.bucketize(y, self.starts, right=True) - 1).clamp_min(0)
            u = (y - self.middle[panel]) * self.slope[panel]
            twice = 2 * u
            for row, series in zip(out, self.series, strict=True):
                after, now = torch.zeros_like(u), series[-1][panel]
                for k in range(_DEGREE - 2, 0, -1):  # Clenshaw's recursion
                    after, now = now, series[k][panel] + twice * now - after
                row[part] = series[0][panel] + u * now - after
            if self.kind != "density":
                out[:2, part] = torch.exp(out[:2, part])
            direct = (y.abs() > _REACH) | torch.isnan(out[:, part]).any(0)
            if bool(direct.any()):
                where = direct.nonzero()[:, 0] + start
                out[:, where] = self._exact(x[where])
        return out


def _table(alpha: float, beta: float, kind: str, derivatives: bool, device: torch.device) -> _Table:
    """Return the table of a law, made or remembered."""
    key = (alpha, beta, kind, derivatives, device)
    if key not in _tables:
        _tables[key] = _Table(alpha, beta, kind, derivatives, device)
        while len(_tables) > 16:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return _tables[key]


def _evaluate(
    x: float | Tensor, alpha: float | Tensor, beta: float | Tensor, kind: str
) -> tuple[Tensor, ...]:
    tensors = [v for v in (x, alpha, beta) if isinstance(v, Tensor)]
    device = next((v.device for v in tensors if v.dim()), tensors[0].device if tensors else None)
    x, alpha, beta = (
        torch.as_tensor(v, dtype=torch.float64, device=device) for v in (x, alpha, beta)
    )
    shape = torch.broadcast_shapes(x.shape, alpha.shape, beta.shape)
    alpha, beta = _single(alpha), _single(beta)
    if alpha.numel() == beta.numel() == 1 and x.numel() >= _MANY:
        flat = x.expand(shape).reshape(-1)
        found = _Interpolated.apply(flat, alpha.reshape(()), beta.reshape(()), kind)
    else:
        flats = (v.expand(shape).reshape(-1) for v in (x, alpha, beta))
        found = _Direct.apply(*flats, kind)
    if kind == "density":
        found = (found,)
    return tuple(v.view(shape) for v in found)


def _single(value: Tensor) -> Tensor:
    """Return the one element of a tensor that has been expanded from it."""
    expanded = value.numel() > 1 and not any(value.stride())
    return value[(0,) * value.dim()] if expanded else value


def log_density(x: float | Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    r"""Return log f(x) of the standard stable law S0(alpha, beta).

        f(x) = (1/pi) Re int_0^inf exp(-iux - u^alpha - i beta tan(pi alpha / 2) (u - u^alpha)) du

    with (2/pi) u log u in place of the last product at alpha = 1.

    Args:
        x: real; a float or a tensor of any shape.
        alpha: stability index in (0, 2]; a float, or a tensor that broadcasts with ``x``.
        beta: skewness in [-1, 1]; a float, or a tensor that broadcasts with ``x``.

    Returns:
        float64, of the broadcast shape; -inf off the half-line of a law with alpha < 1 and
        |beta| = 1. Relative errors of f are below 1e-10, in both tails, or below 1e-11 |log f|
        where that is more, as down the light tail of a totally skewed law; next to the end of a
        half-line the rounding of x may weigh more. Next to the peak they reach 1e-8 for alpha
        from 0.07 to 0.2. For alpha < 0.055 part of the integral is cut off. Where a hundredth of
        it is missing, or for alpha < 0.15 within 1e-13 of the end of a half-line, the result may
        be nan. Differentiable once, in all three arguments, to about 1e-7. With alpha and beta of
        one element and 2000 points or more, the quadrature is made once for a table, which is
        kept. Arguments are not checked.

    Source: Zolotarev 1986 for the path; see the top of this module.
    """
    return _evaluate(x, alpha, beta, "density")[0]


def cdf_and_sf(
    x: float | Tensor, alpha: float | Tensor, beta: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return F(x) and 1 - F(x) of the standard stable law S0(alpha, beta).

    Arguments and source are those of :func:`log_density`.

    Returns:
        Two float64 tensors of the broadcast shape, in [0, 1]; each is precise where it is small:
        its relative errors are mostly below 1e-12 and, for alpha >= 0.2, at worst near 1e-7.
        Differentiable once, in all three arguments.
    """
    lower, upper = _evaluate(x, alpha, beta, "cdf")
    return lower, upper


def cdf(x: float | Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    """Return F(x) = P(X <= x) of the standard law S0(alpha, beta), see :func:`cdf_and_sf`."""
    return cdf_and_sf(x, alpha, beta)[0]


def sf(x: float | Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    """Return P(X > x) of the standard law S0(alpha, beta), see :func:`cdf_and_sf`."""
    return cdf_and_sf(x, alpha, beta)[1]


def quantile(level: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the quantile of S0(alpha, beta); float64 tensors that broadcast.

    Newton's iteration in a bracket, for the log of the smaller tail in y = asinh(x - zeta), with
    zeta the end of the half-line of a law that has one, else 0: in y a power tail is linear, in
    the middle and far out. In a light tail, P ~ exp(-c |x|^k), and next to the end of a half-line
    it is log(-log P) that is near linear in log|x|: there a step is one for that. The start is
    the quantile of the tail law (1 +- beta) C_alpha x^-alpha / 2.
    """
    shape = torch.broadcast_shapes(level.shape, alpha.shape, beta.shape)
    with torch.no_grad():
        p, a, b = (v.expand(shape).reshape(-1) for v in (level, alpha, beta))
        x = torch.where((p >= 0) & (p <= 1), 0.0, math.nan).to(p)
        half_line = on_half_line(a, b)
        end = -b * torch.tan(_HALF_PI * torch.where(half_line, a, 0.5))
        x = torch.where(p == 0, torch.where(half_line & (b > 0), end, -math.inf), x)
        x = torch.where(p == 1, torch.where(half_line & (b < 0), end, math.inf), x)
        inner = (p > 0) & (p < 1)
        one_law = _single(alpha).numel() == _single(beta).numel() == 1
        if bool(inner.any()):
            x[inner] = _search(p[inner], a[inner], b[inner], one_law)
        x = x.view(shape)
    if not (level.requires_grad or alpha.requires_grad or beta.requires_grad):
        return x
    # dx = (dp - dF) / f, with F at the point found
    f = torch.exp(log_density(x, alpha.detach(), beta.detach()))
    F = cdf(x, alpha, beta)
    return x + ((level - level.detach()) - (F - F.detach())) / f


def _search(p: Tensor, alpha: Tensor, beta: Tensor, one_law: bool) -> Tensor:
    """Return quantiles of levels in (0, 1), see :func:`quantile`; each (points,)."""
    low_half = p <= 0.5
    side = torch.where(low_half, -1.0, 1.0).to(p)
    tail = torch.where(low_half, p, 1 - p)
    log_tail = torch.log(tail)
    half_line = on_half_line(alpha, beta)
    zeta = -beta * torch.tan(_HALF_PI * torch.where(half_line, alpha, 0.0))
    constant = torch.exp(torch.lgamma(alpha)) * _sine(alpha)
    size = torch.log(constant * (1 + side * beta) / math.pi / tail) / alpha
    y = side * torch.nan_to_num(size, nan=0.0).clamp(0, 690)
    # a level of 1/4 and more is in the body, where the tail law says nothing
    y = torch.where(tail > 0.25, 0.0, y)
    y = torch.where(half_line & (y * beta <= 0), beta, y)
    low = torch.where(half_line & (beta > 0), 0.0, -700.0).to(p)
    high = torch.where(half_line & (beta < 0), 0.0, 700.0).to(p)
    light = ((beta.abs() == 1) & (side * beta < 0)) | (alpha == 2)
    table = None
    if one_law and p.numel() >= _MANY:
        table = _table(float(alpha[0]), float(beta[0]), "all", False, p.device)
    active = torch.arange(p.numel(), device=p.device)
    for _ in range(100):
        everything = (y, zeta, alpha, beta, side, log_tail, low, high, light, half_line)
        yi, zi, ai, bi, si, goal, lo, hi, bent, ends = (v[active] for v in everything)
        x = zi + torch.sinh(yi)
        F, S, log_f = table(x) if table else _Direct.apply(x, ai, bi, "all")
        reached = torch.log(torch.where(si < 0, F, S))
        miss = si * (goal - reached)  # > 0: x is too large
        hi, lo = torch.where(miss >= 0, yi, hi), torch.where(miss <= 0, yi, lo)
        rate = torch.exp(log_f - reached) * torch.cosh(yi)  # |d log P / dy|
        new = yi - miss / rate
        # In a light tail the same for log(-log P) in log|sinh y|.
        change = -si * torch.log(goal / reached) * reached / rate / torch.tanh(yi)
        steep = torch.asinh(torch.sinh(yi) * torch.exp(change.clamp(-5, 5)))
        new = torch.where(bent & (ends | ((yi * si > 0) & (goal < -2))), steep, new)
        # A last step may leave the bracket by a rounding error.
        inside = ((new > lo) & (new < hi)) | ((new - yi).abs() < 1e-12 * yi.abs())
        new = torch.where(inside, new, (lo + hi) / 2)
        new = torch.where(miss == 0, yi, new)
        # Newton's error after this step is the square, and the bracket's is no larger.
        step = (new - yi).abs()
        moved = (step > 1e-9 * yi.abs().clamp_min(1e-2)) & (step * torch.cosh(yi) > 2e-16 * x.abs())
        y[active], low[active], high[active] = new, lo, hi
        active = active[moved]
        if not active.numel():
            break
    return torch.where(y.abs() > 690, y * math.inf, zeta + torch.sinh(y))
