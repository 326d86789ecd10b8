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

# From here on the leading term of the tail is all there is.
_FAR = 1e100

# Steps of the trapezoidal rule on a smooth path and on one that turns sharply.
_STEP, _STEP_AT_TURN = 0.065, 0.045


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


def _law(x: Tensor, alpha: Tensor, beta: Tensor) -> _Law:
    e = 1 - alpha
    sin = torch.sin(_HALF_PI * torch.minimum(alpha, 2 - alpha))  # exact at alpha = 2
    cos = torch.sin(_HALF_PI * e)
    tau = 2 / _PI * sin / torch.sinc(e / 2)
    return _Law(x, alpha, beta, e, sin, cos, tau, sin * torch.tan(_PI / 4 * e))


def _field(law: _Law, s: Tensor, psi: Tensor) -> _Field:
    """Return h and dh/dw at w = s + i (psi - pi/2), every difference that vanishes at 1 by hand."""
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


def _psi_at(law: _Law, sign: Tensor, p: Tensor, psi: Tensor, iterations: int) -> Tensor:
    """Solve Im h = 0 on the lines s + sign psi = p: Newton's iteration inside a bracket."""
    low, high = torch.zeros_like(p), torch.full_like(p, _PI)
    for k in range(iterations):
        at = _field(law, p - sign * psi, psi)
        low = torch.where(at.im > 0, psi, low)
        high = torch.where(at.im < 0, psi, high)
        move = at.im / (sign * (at.d_im - at.im) - at.d_re)
        new = psi + move
        # A last step may leave the bracket by a rounding error.
        within = ((new >= low) & (new <= high)) | (move.abs() < 1e-10 * psi)
        new = torch.where(within, new, (low + high) / 2)
        new = torch.where(at.im == 0, psi, new)
        moved = (new - psi).abs() > 1e-8 * psi  # the step after this one is below rounding
        psi = new
        if not bool(moved.any()):
            break
        if k == 6 and p.dim() == 2:  # the few nodes next to a turn go on by themselves
            row, column = moved.nonzero(as_tuple=True)
            rest = _Law(*(v[row, 0] for v in law))
            psi = psi.clone()
            psi[row, column] = _psi_at(
                rest, sign[row, 0], p[row, column], psi[row, column], iterations - k
            )
            break
    return psi


class _Path(NamedTuple):
    """Where the nodes of each point lie; each (points,)."""

    law: _Law  # reflected to x >= 0
    sign: Tensor  # psi rises (+1) or falls (-1) along the path
    centre: Tensor
    psi: Tensor
    width: Tensor
    left: Tensor
    right: Tensor
    axis: Tensor  # g where the path of a totally skewed law leaves the axis, else 0
    half: Tensor  # whether the nodes begin there
    nodes: Tensor  # how many


def _locate(x: Tensor, alpha: Tensor, beta: Tensor, whole: bool, least_depth: float) -> _Path:
    flip = torch.where(x < 0, -1.0, 1.0)
    law = _law(flip * x, alpha, flip * beta)
    e = law.e
    slope = e * law.x + law.beta * law.tau  # (1 - alpha) times the distance to the shift -beta T
    sign = torch.where(slope <= 0, 1.0, -1.0)
    # g = 1, where most of the integrals lie
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
    # The saddle on the axis of the totally skewed law next to this one.
    x_r, beta_r = sign * law.x, sign * law.beta
    M = alpha * (beta_r * law.tau * law.sin - e * law.cos)
    ratio = (x_r + beta_r * (law.lift + law.sin * law.tau) + alpha * law.cos) / M
    y = e * ratio
    small = e.abs() < 1e-5
    saddle = torch.where(
        small,
        -ratio * (1 - y / 2 * (1 - 2 * y / 3 * (1 - 3 * y / 4))),
        -torch.log1p(y) / torch.where(small, 1.0, e),
    )
    reflected = law._replace(x=x_r, beta=beta_r)
    at = _field(reflected, saddle, torch.zeros_like(saddle))
    depth = at.g * torch.exp(saddle)
    gap = (1 + beta_r) * law.sin
    turn = 2 * torch.sqrt(torch.exp(-e * saddle) * gap / slope.abs())
    sharp = (y > -1) & (turn < 1) & (depth > least_depth) & ((depth < 50) | (gap == 0))
    p = torch.where(sharp, saddle - (sign < 0) * _PI, p)
    start = torch.where(sign > 0, (turn / 2).clamp(1e-7, 1), _PI - 1e-3)
    psi = torch.where(sharp, start, psi)
    width = torch.where(sharp, turn.clamp_min(1e-6), 1.0)
    below = torch.where(sharp, -torch.log(depth), 0.0).clamp_min(0)
    least = alpha.clamp_max(1)
    right = torch.asinh((6 / least + below) / width)
    # e^s must stay a float: below alpha = 0.055 that cuts off what is left of the integral
    left = torch.asinh((38 / least).clamp_max(690) / width)
    axis = torch.where(sharp & (gap == 0), depth, 0.0)
    half = sharp & (gap == 0) & (not whole)  # all of the axis is known, but not its derivatives
    left = torch.where(half, 3.7, left)
    right = torch.where(half, torch.log(6 / least + below), right)
    step = torch.where(sharp, _STEP_AT_TURN, _STEP) / (1 + below / 6)
    nodes = torch.nan_to_num((left + right) / step).clamp_max(4000).to(torch.int64) + 2
    return _Path(law, sign, p, psi, width, left, right, axis, half, nodes)


def _quadrature(
    x: Tensor, alpha: Tensor, beta: Tensor, kind: str, derivatives: bool
) -> tuple[Tensor, ...]:
    """Return one block of values, (points,) each; with derivatives in x, alpha and beta after them.

    kind: "density" for log f, "cdf" for F and 1 - F.
    """
    # Where g is below the last argument a turn cannot be seen: f gives such g a weight of g^2.
    path = _locate(x, alpha, beta, derivatives, 1e-5 if kind == "density" else 1e-11)
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
    deep, half = path.half, path.half[:, None]
    # On a half-line the double exponential rule: p - centre = exp(t - exp(-t)).
    shrink = torch.exp(-t) * half
    away = torch.where(half, torch.exp(t - shrink), width * torch.sinh(t))
    dp = step * torch.where(half, away * (1 + shrink), width * torch.cosh(t))
    p = path.centre[:, None] + away
    turned = torch.where(sign > 0, away, _PI - away).clamp(1e-12, _PI)
    start = torch.where(half & (away < 1), turned, path.psi[:, None])
    psi = _psi_at(law, sign, p, start, 50)
    s = p - sign * psi
    at = _field(law, s, psi)
    r = torch.exp(s)
    g = r * at.g
    scale = 1 / (sign * at.d_im - at.d_re) * dp
    dg = torch.nan_to_num(r * at.d_re * (at.d_re * scale) + r * at.d_im * (at.d_im * scale))
    floor = torch.where(deep, g.amin(1), 0.0)
    if derivatives and kind == "density":
        middle = torch.argmin(t.abs(), 1, keepdim=True)
        floor = torch.where(path.width < 1, g.gather(1, middle)[:, 0], 0.0)
    weight = dg * torch.exp((floor[:, None] - g).clamp_max(600))
    density = (weight * r * torch.sin(psi)).sum(1) / _PI
    log_density = torch.log(density) - floor
    # There f leaves no float but its logarithm does: what rounding spoils is the second term.
    log_density = torch.where(path.axis > 1e8, -path.axis, log_density)
    if kind == "density":
        values: tuple[Tensor, ...] = (log_density,)
    else:
        upper = (weight * psi).sum(1) / _PI
        lower = (weight * (_PI - psi)).sum(1) / _PI
        skipped = torch.where(deep, path.axis, 0.0)
        bottom = path.axis > 1e8
        upper = torch.where(bottom, (path.sign < 0).to(x.dtype), upper)
        lower = torch.where(bottom, (path.sign > 0).to(x.dtype), lower)
        # On the axis psi is 0 if it rises from there, pi if it falls.
        upper = upper * torch.exp(-floor) - torch.expm1(-skipped) * (path.sign < 0)
        lower = lower * torch.exp(-floor) - torch.expm1(-skipped) * (path.sign > 0)
        # the smaller is the more precise
        upper, lower = (
            torch.where(upper < lower, upper, 1 - lower),
            torch.where(upper < lower, 1 - upper, lower),
        )
        upper, lower = upper.clamp(0, 1), lower.clamp(0, 1)
        swap = x < 0
        values = torch.where(swap, upper, lower), torch.where(swap, lower, upper)
    if not derivatives:
        return values
    flip = torch.where(x < 0, -1.0, 1.0)
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
        size = 3 if derivatives else 0
        out = torch.empty((size + (1 if kind == "density" else 2), x.numel()), dtype=x.dtype)
        out = out.to(x.device)
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
    return rows[0].clone() if kind == "density" else (rows[0].clone(), rows[1].clone())


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
    empty = (alpha < 1) & (beta.abs() == 1) & beyond
    normal = (alpha == 2) & (not derivatives)
    far = (x.abs() > _FAR) & ~(empty | normal)
    rest = ~(empty | normal | far)
    if bool(rest.all()):
        return _quadrature(x, alpha, beta, kind, derivatives)
    if kind == "density":
        out = [torch.where(empty, -math.inf, -x.square() / 4 - math.log(4 * _PI) / 2)]
    else:
        out = [torch.erfc(-x / 2) / 2, torch.erfc(x / 2) / 2]
        out = [
            torch.where(empty, (beta < 0).to(x.dtype), out[0]),
            torch.where(empty, (beta > 0).to(x.dtype), out[1]),
        ]
    out += [torch.zeros_like(x)] * (3 * derivatives)
    out = [v.clone() for v in out]
    if bool(far.any()):
        found = _leading(x[far], alpha[far], beta[far], kind, derivatives)
        for row, value in zip(out, found, strict=True):
            row[far] = value
    if bool(rest.any()):
        found = _quadrature(x[rest], alpha[rest], beta[rest], kind, derivatives)
        for row, value in zip(out, found, strict=True):
            row[rest] = value
    return tuple(out)


def _leading(
    x: Tensor, alpha: Tensor, beta: Tensor, kind: str, derivatives: bool
) -> tuple[Tensor, ...]:
    """The leading term of the tail, P(X > x) ~ (1 + beta) Gamma(alpha) sin(pi alpha / 2) / pi x^-a.

    Beyond 1e100 it is exact to rounding for alpha > 0.16, where squares of x leave the floats.
    """
    with torch.set_grad_enabled(derivatives):
        x, alpha, beta = (v.detach().requires_grad_(derivatives) for v in (x, alpha, beta))
        up = x > 0
        weight = (1 + torch.where(up, beta, -beta)) * torch.sin(
            _HALF_PI * torch.minimum(alpha, 2 - alpha)
        )
        size = x.abs()
        log_tail = torch.lgamma(alpha) + torch.log(weight / _PI) - alpha * torch.log(size)
        log_density = log_tail + torch.log(alpha) - torch.log(size)
        tail = torch.exp(log_tail)
        values = [log_density]
        if kind == "cdf":
            values = [torch.where(up, 1 - tail, tail), torch.where(up, tail, 1 - tail)]
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
            if kind == "cdf":
                rows[:2] = torch.log(rows[:2])
            series = rows @ to_series.T
            size = 1 + series.abs().amax(2)
            rough = series[..., -2:].abs().amax(2) / size
            bar = torch.full((rows.shape[0], 1), 1e-8, dtype=torch.float64)
            bar[: rows.shape[0] - 3 * derivatives] = 3e-13
            bad = ~(rough <= bar).all(0)
            # Far down a light tail, or where halving does not help
            lost = ~torch.isfinite(rows).all(0)
            lost |= (rows[: 1 if kind == "density" else 2] < -1e4).any(0)
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
            if self.kind == "cdf":
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
        |beta| = 1. Relative errors of f are below 1e-10, in both tails; for alpha < 0.2 they may
        be larger, below 0.05 much larger. Differentiable once, in all three arguments. With
        alpha and beta of one element and 2000 points or more, the quadrature is made once for a
        table, which is kept. Arguments are not checked.

    Source: Zolotarev 1986 for the path; see the top of this module.
    """
    return _evaluate(x, alpha, beta, "density")[0]


def cdf_and_sf(
    x: float | Tensor, alpha: float | Tensor, beta: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return F(x) and 1 - F(x) of the standard stable law S0(alpha, beta).

    Arguments and source are those of :func:`log_density`.

    Returns:
        Two float64 tensors of the broadcast shape, in [0, 1]; each keeps its relative precision
        where it is small. Differentiable once, in all three arguments.
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

    With y = asinh(x) the log of a tail is near linear in y, in the middle and far out. Newton's
    iteration for it starts at the quantile of the tail law (1 +- beta) C_alpha x^-alpha / 2 and
    stays in a bracket.
    """
    shape = torch.broadcast_shapes(level.shape, alpha.shape, beta.shape)
    with torch.no_grad():
        p, a, b = (v.expand(shape) for v in (level, alpha, beta))
        low_half = p <= 0.5
        tail = torch.where(low_half, p, 1 - p)
        side = torch.where(low_half, -1.0, 1.0)
        constant = torch.exp(torch.lgamma(a)) * torch.sin(_HALF_PI * torch.minimum(a, 2 - a))
        size = torch.log(constant * (1 + side * b) / math.pi / tail) / a
        y = side * torch.nan_to_num(size, nan=0.0).clamp(0, 690)
        # a level of 1/4 and more is in the body, where the tail law says nothing
        y = torch.where(tail > 0.25, 0.0, y)
        low, high = torch.full_like(y, -700.0), torch.full_like(y, 700.0)
        for _ in range(100):
            x = torch.sinh(y)
            F, S = cdf_and_sf(x, alpha, beta)
            density = torch.exp(log_density(x, alpha, beta))
            reached = torch.where(low_half, F, S)
            miss = side * (torch.log(tail) - torch.log(reached))  # > 0: x is too large
            high, low = torch.where(miss >= 0, y, high), torch.where(miss <= 0, y, low)
            new = y - miss * reached / (density * torch.cosh(y))
            inside = (new > low) & (new < high)
            new = torch.where(inside, new, (low + high) / 2)
            new = torch.where(miss == 0, y, new)
            moved = (new - y).abs() > 1e-13 * y.abs().clamp_min(1e-2)
            y = new
            if not bool((moved & (tail > 0) & (tail < 1)).any()):
                break
        x = torch.where(y.abs() > 690, y * math.inf, torch.sinh(y))
        end = -torch.tan(_HALF_PI * a) * b
        half_line = (a < 1) & (b.abs() == 1)
        first = torch.where(half_line & (b > 0), end, -math.inf)
        last = torch.where(half_line & (b < 0), end, math.inf)
        x = torch.where(p == 0, first, torch.where(p == 1, last, x))
        x = torch.where((p >= 0) & (p <= 1), x, math.nan)
    if not (level.requires_grad or alpha.requires_grad or beta.requires_grad):
        return x
    # dx = (dp - dF) / f, with F at the point found
    f = torch.exp(log_density(x, alpha.detach(), beta.detach()))
    F = cdf(x, alpha, beta)
    return x + ((level - level.detach()) - (F - F.detach())) / f
