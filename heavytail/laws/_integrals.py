r"""Density, distribution function and quantiles of the standard stable law in the form S0.

Where there is something to integrate, :mod:`heavytail.laws._contour` does it. Far out the tail's
series takes its place, and a single law asked at many points is tabulated. All of it is
differentiable once.
"""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from heavytail.laws._contour import ROWS, law_of, quadrature, sine
from heavytail.laws.maps import on_half_line

_PI = math.pi
_HALF_PI = math.pi / 2

# Points in a block: the temporaries stay in a core's cache.
_POINTS = 1 << 14

# The leading term of the tail is all there is from |x| = _FAR on, and where the next terms are
# smaller by |x|^-min(alpha, 1) < e^-_ALONE, which is below rounding.
_FAR, _ALONE = 1e100, 42.0

# Up to alpha = _SERIES_TO and from |x| = _SERIES_FROM on the tail is a series of so many terms
# where the next one is below e^-_ALONE.
_SERIES_TO, _SERIES_FROM, _TERMS = 0.9, 10.0, 24


class _Direct(torch.autograd.Function):
    """The quadrature with first derivatives found on the way: no graph of the nodes is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Tensor, kind: str) -> Any:
        derivatives = any(ctx.needs_input_grad)
        size = ROWS[kind] + 3 * derivatives
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
    values = tuple(row.clone() for row in rows[: ROWS[kind]])
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
    beyond = beta * ((1 - alpha) * x + beta * law_of(x, alpha, beta).tau) <= 0
    empty = on_half_line(alpha, beta) & beyond
    normal = (alpha == 2) & (not derivatives)
    far = _is_far(x, alpha, beta) & ~(empty | normal)
    rest = ~(empty | normal | far)
    if bool(rest.all()):
        return quadrature(x, alpha, beta, kind, derivatives)
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
    for where, rule in ((far, _tail), (rest, quadrature)):
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
        weight = (1 + torch.where(up, beta, -beta)) * sine(alpha)
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
            lost |= (rows[: ROWS[kind]] < -1e4).any(0)
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

    Source: Zolotarev 1986 for the path; see :mod:`heavytail.laws._contour`.
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
    constant = torch.exp(torch.lgamma(alpha)) * sine(alpha)
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
