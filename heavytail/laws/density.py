r"""The stable law as a torch distribution, and its density, tails and quantiles.

For alpha != 1, reflected so that its point y in the form S1 is >= 0, a standard law has Zolotarev's
integrals, over an angle delta in (0, rho) with b = rho - delta and a = kappa delta,

    f = kappa / (pi e y) int g exp(-g) d delta,      kappa = min(alpha, 1/alpha), e = 1 - kappa,
    log g = log K + (kappa log sin a - log sin b) / e + log sin(a + b),                         (1)
    E = int exp(-g),   C = int 1 - exp(-g),                                                     (2)
    alpha < 1: F = (gap + E) / pi, 1 - F = C / pi,                                gap = pi - rho,
    alpha > 1: F = (pi - kappa rho + kappa C) / pi, 1 - F = kappa E / pi.                       (3)

By the duality of alpha and 1/alpha one exponent (1) serves both. It rises with delta. In the
variable v = log(delta / b) the trapezoidal rule is exact but for exponentially small errors.

Source: Zolotarev, One-dimensional Stable Distributions, 1986, Sections 2.2 and 2.3; Nolan,
Univariate Stable Distributions, Springer, 2020, Theorem 3.3. The variable v is ours.
"""

import math
from collections.abc import Callable
from functools import lru_cache, reduce
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from heavytail import _check
from heavytail.laws import _blocks as _draws
from heavytail.laws.maps import FORMS, PARAMETERS, on_half_line, s1_shift, within_support

_PI, _HALF_PI = math.pi, math.pi / 2
_LOG_F, _LOG_CDF, _LOG_SF = 0, 1, 2  # rows of values; three rows of derivatives may follow
_BLOCK = 512  # points at once: the temporaries stay in a core's cache
_NODES, _MOST_NODES = 200, 6400
_DEEP = 1e6  # from this least g on Laplace's method is precise, and the sum is not
_FAR = 1e100  # beyond, the leading term of a tail of alpha > 1 is all there is
_BAND = 0.005  # |alpha - 1| below this is interpolated in alpha
_NODE_ALPHAS = [1 + _BAND * math.cos(_PI * (j + 0.5) / 8) for j in range(8)]


def _tangent(alpha: Tensor) -> Tensor:
    """Return tan(pi alpha / 2), exact at 2."""
    return torch.tan(_HALF_PI * torch.where(alpha > 1, alpha - 2, alpha))


def _width(alpha: Tensor) -> Tensor:
    """Return the width of the peak of the density, sqrt(f(0) / -f''(0)) at beta = 0."""
    return torch.exp((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2).clamp_min(1e-290)


def _in_band(alpha: Tensor) -> Tensor:
    return (alpha - 1).abs() < _BAND


class _Law(NamedTuple):
    """Reflected laws with their exponents (1); all of one shape."""

    y: Tensor
    alpha: Tensor
    beta: Tensor
    T: Tensor  # tan(pi alpha / 2)
    low: Tensor  # alpha < 1
    kappa: Tensor
    e: Tensor
    rho: Tensor
    gap: Tensor
    log_K: Tensor

    def angles(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return delta, a and b."""
        delta = self.rho * torch.sigmoid(v)
        return delta, self.kappa * delta, self.rho * torch.sigmoid(-v)

    def log_g(self, delta: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log g, sin a, sin b and sin(a + b); nothing is subtracted from pi."""
        sin_a = torch.sin(a)
        sin_b = torch.sin(torch.where(b > _HALF_PI, self.gap + delta, b))
        sin_ab = torch.sin(torch.where(a + b > _HALF_PI, self.gap + self.e * delta, a + b))
        rising = (self.kappa * torch.log(sin_a) - torch.log(sin_b)) / self.e
        return self.log_K + rising + torch.log(sin_ab), sin_a, sin_b, sin_ab

    def log_g_at(self, v: Tensor) -> Tensor:
        return self.log_g(*self.angles(v))[0]


def _law(y: Tensor, alpha: Tensor, beta: Tensor) -> _Law:
    T = _tangent(alpha)
    B, size = beta * T, T.abs()
    low, kappa = alpha < 1, torch.minimum(alpha, 1 / alpha)
    e = torch.where(low, 1 - alpha, (alpha - 1) / alpha)
    ahead = torch.atan2((1 + beta) * size, 1 - B * T)
    behind = torch.atan2((1 - beta) * size, 1 + B * T)
    rho = torch.where(low, ahead / alpha, torch.atan2((1 + beta) * size, B * T - 1))
    gap = torch.where(low, behind / alpha, ahead)
    log_y, log_c = torch.log(y), -torch.log1p(B.square()) / 2
    log_K = torch.where(low, -(kappa * log_y + log_c), log_y + kappa * log_c) / e
    return _Law(y, alpha, beta, T, low, kappa, e, rho, gap, log_K)


def _solve(rising: Callable[[Tensor], Tensor], level: Tensor) -> Tensor:
    """Return v in [-700, 700] with rising(v) = level, to 1e-3."""
    low, high = torch.full_like(level, -700), torch.full_like(level, 700)
    for _ in range(20):
        v = (low + high) / 2
        above = rising(v) > level
        low, high = torch.where(above, low, v), torch.where(above, v, high)
    return (low + high) / 2


def _integrate(z: Tensor, alpha: Tensor, beta: Tensor, of: int | None) -> Tensor:
    """Return log f, log F and log(1 - F) at points z of the form S1, alpha not 1; (3, points).

    With ``of``, one of these rows, its derivatives in x (the form S0), alpha and beta follow.
    """
    sign = torch.where((z < 0) | ((z == 0) & (beta > 0)), -1.0, 1.0).to(z)
    upper = (sign > 0) if of == _LOG_SF else (sign < 0)  # whether 1 - F is asked, once reflected
    beta, size = sign * beta, z.abs().clamp_min(1e-300)
    no_power = (alpha == 2) | ((alpha > 1) & (beta == -1))
    far = torch.where(no_power, math.inf, torch.where(alpha > 1, _FAR, 1e300))
    law = _law(torch.minimum(size, far), alpha, beta)
    bent = law.gap == 0  # g begins at g0 > 0

    def light(v: Tensor) -> Tensor:
        return law.log_g_at(v) + torch.where(bent, torch.nn.functional.logsigmoid(v), 0.0)

    # The nodes lie around the place where g = g0 + 1.
    log_g0 = torch.where(bent, law.log_g_at(torch.full_like(size, -700)), -math.inf)
    g0 = torch.exp(log_g0)
    finite = g0.clamp_max(1e260)
    middle = _solve(law.log_g_at, torch.log(finite + 1))
    right = _solve(law.log_g_at, torch.log(finite + 38 - middle.clamp_max(0))) + 2e-3
    left = _solve(light, light(middle).clamp_max(300) - 36 - middle.clamp_min(0)) - 2e-3
    out = z.new_full((3 if of is None else 6, len(z)), math.nan)
    off = law.rho == 0  # of the half-line
    out[:, off] = z.new_tensor([-math.inf, 0, -math.inf, 0, 0, 0])[: len(out), None]
    todo, nodes = (~off).nonzero()[:, 0], _NODES
    while len(todo) and nodes <= _MOST_NODES:
        part = _Law(*(v[todo, None] for v in law))
        place = [v[todo, None] for v in (g0, middle, left, right, upper)]
        rows, good = _sum(part, *place, nodes, of)
        out[:, todo[good]] = rows[:, good]
        todo, nodes = todo[~good], 2 * nodes
    beyond = torch.where(size > law.y, torch.log(size / law.y), 0.0)
    out[_LOG_F] -= (1 + alpha) * beyond  # there f falls as y^-(1 + alpha), its tail as y^-alpha
    out[_LOG_SF] -= alpha * beyond
    if of is not None:
        out[3] *= sign * torch.exp(-beyond)
        out[4] -= torch.where(upper | (of == _LOG_F), beyond, 0.0)
        out[5] *= sign
    out[1:3] = torch.where(sign < 0, out[1:3].flip(0), out[1:3])
    return out


def _sum(
    law: _Law,
    g0: Tensor,
    middle: Tensor,
    left: Tensor,
    right: Tensor,
    upper: Tensor,
    n: int,
    of: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the rows of :func:`_integrate` by n + 1 nodes, and where half of them suffice."""
    y, alpha, beta, T, low, kappa, e, rho, gap, log_K = law
    wide = 3 + e
    start, stop = (wide * torch.asinh((end - middle) / wide) for end in (left, right))
    step = (stop - start) / n
    t = (start + step * torch.arange(n + 1, dtype=y.dtype, device=y.device)) / wide
    v = middle + wide * torch.sinh(t)
    delta, a, b = law.angles(v)
    log_g, sin_a, sin_b, sin_ab = law.log_g(delta, a, b)
    g = torch.exp(log_g.clamp_max(600))
    floor = g.amin(1, keepdim=True)
    cot_a, cot_b = torch.cos(a) / sin_a, torch.cos(b) / sin_b
    weight = torch.exp(floor - g) * step * torch.cosh(t) * delta * torch.sigmoid(-v)
    slope = g * ((kappa.square() * cot_a + cot_b) / e - e * torch.cos(a + b) / sin_ab)
    terms = weight * torch.stack((g, delta * slope, b * slope))  # E and C by parts
    sums = terms.sum(2, keepdim=True)
    good = ((2 * terms[..., ::2].sum(2, keepdim=True) - sums).abs() <= 1e-6 * sums).all(0)
    density, E, C = sums
    deep = g0 > _DEEP  # g = g0 (1 + kappa delta^2 / 2) there
    log_sum = torch.where(deep, torch.log(_PI * g0 / (2 * kappa)) / 2 - g0, density.log() - floor)
    log_f = torch.log(kappa / (_PI * e * y)) + log_sum
    log_E = torch.where(deep, -math.inf, torch.log(E) - floor)
    C = rho * -torch.expm1(-g0) + torch.exp(-floor) * torch.where(deep, 0, C)
    F = torch.where(  # (3), times pi
        low, torch.logaddexp(torch.log(gap), log_E), torch.log(_PI - kappa * rho + kappa * C)
    )
    S = torch.where(low, torch.log(C), torch.log(kappa) + log_E)
    log_F, log_S = F - math.log(_PI), S - math.log(_PI)
    less = log_F < log_S  # the smaller is the more precise
    log_F, log_S = (
        torch.where(less, log_F, torch.log1p(-torch.exp(log_S))),
        torch.where(less, torch.log1p(-torch.exp(log_F)), log_S),
    )
    rows = [log_f, log_F, log_S]
    if of is not None:
        # On the path u = r exp(-i phi) of steepest descent h = -g; the derivatives are those of
        # f = Re int e^h du / pi and 1 - F = Im int e^h du / u / pi in the parameters of h.
        log_r = log_g - torch.log(y) - torch.log(sin_ab) + torch.log(torch.where(low, sin_a, sin_b))
        angle, sin_angle = torch.where(low, b, a), torch.where(low, sin_b, sin_a)  # pi / 2 - phi
        d_log_r = (kappa * cot_a + cot_b) / e * torch.where(low, 1.0, kappa)
        d_phi = torch.where(low, 1.0, -kappa).expand_as(angle)
        log_u = torch.complex(log_r, angle - _HALF_PI)
        d_log_u = torch.complex(d_log_r, -d_phi) * weight
        u = torch.exp(log_r) * torch.complex(sin_angle, -torch.cos(angle))
        power = torch.exp(alpha * log_u)
        moved = 1j * (power - u)
        in_alpha = moved * beta * _HALF_PI * (1 + T.square()) - power * log_u * (1 - 1j * beta * T)
        partial = torch.stack((-1j * u, in_alpha, moved * T))
        if of == _LOG_F:
            total = (u * d_log_u).sum(1, keepdim=True).real
            rows += (partial * (u * d_log_u / total)).sum(2, keepdim=True).real
        else:
            log_P = torch.where(upper, log_S, log_F)
            scale = torch.where(log_P > -745, torch.exp(-floor - log_P), 0.0) / _PI
            scale = torch.where(upper, scale, -scale)
            rows += (partial * d_log_u).sum(2, keepdim=True).imag * scale
    return torch.stack([row[:, 0] for row in rows]), (good | deep | torch.isnan(y))[:, 0]


def _values(point: Tensor, alpha: Tensor, beta: Tensor, of: int | None) -> Tensor:
    """Return the rows of :func:`_integrate` for any alpha at points of :func:`_point`."""
    band = _in_band(alpha)
    out = point.new_empty((3 if of is None else 6, len(point)))
    out[:, ~band] = _integrate(point[~band], alpha[~band], beta[~band], of)
    if bool(band.any()):
        out[:, band] = _interpolate(point[band], alpha[band], beta[band], of)
    return out


def _interpolate(x: Tensor, alpha: Tensor, beta: Tensor, of: int | None) -> Tensor:
    """Return the rows by Lagrange's polynomial in alpha: at a point x of S0 they are analytic."""
    nodes = torch.tensor(_NODE_ALPHAS, dtype=x.dtype, device=x.device)
    rows = torch.stack(
        [_integrate(x + beta * _tangent(node), node.expand_as(x), beta, of) for node in nodes]
    )
    away, apart = alpha - nodes[:, None], nodes[:, None] - nodes
    others = ~torch.eye(8, dtype=torch.bool, device=x.device)
    weights = torch.stack(
        [away[other].prod(0) / apart[j, other].prod() for j, other in enumerate(others)]
    )
    smooth = (weights[:, None] * rows.clamp_min(-1e30)).sum(0)
    bars = rows.new_tensor([-1e5, -680, -680])[:, None]
    lost = ~(rows[:, :3] > bars).all(0)  # far down a light tail the nearest node must do
    if of is not None:
        lost = torch.cat((lost, lost[of].expand(3, -1)))
    nearest = away.abs().argmin(0).expand(1, *rows.shape[1:])
    return torch.where(lost, rows.gather(0, nearest)[0], smooth)


def _direct(point: Tensor, alpha: Tensor, beta: Tensor, of: int | None = None) -> Tensor:
    """Return the rows at flat points, block by block.

    A power tail appears at the edges alpha = 2 and |beta| = 1: derivatives across an edge are
    taken next to it.
    """
    out = []
    for z, a, b in zip(*(v.split(_BLOCK) for v in (point, alpha, beta)), strict=True):
        rows = _values(z, a, b, of)
        inner = ((4, a == 2, a - 1e-10, b), (5, b.abs() == 1, a, b * (1 - 1e-12)))
        for row, edge, near_a, near_b in inner if of is not None else ():
            edge = edge & torch.isfinite(rows[_LOG_F])
            if bool(edge.any()):
                shift = torch.where(_in_band(a), 0.0, near_b * _tangent(near_a) - b * _tangent(a))
                near = (v[edge] for v in (z + shift, near_a, near_b))
                rows[row, edge] = _values(*near, of)[row]
        out.append(rows)
    return torch.cat(out, 1) if out else point.new_empty((3 if of is None else 6, 0))


_MANY = 2000  # points of one law from which on a table pays
_DEGREE = 16  # coefficients of a panel
_PANELS = 12  # to begin with


class _Table:
    """Chebyshev series of the rows of one law on panels in asinh(point / unit).

    A panel is halved until its last coefficients are small. Points beyond the panels, or where
    none was good, take the quadrature itself.
    """

    def __init__(self, alpha: float, beta: float, of: int | None, device: torch.device) -> None:
        self.law = torch.tensor([[alpha], [beta]], dtype=torch.float64, device=device)
        self.of = of
        self.unit = float(_width(self.law[0, 0]))
        near_1 = _BAND <= abs(alpha - 1) < 0.1  # the peak lies far from 0 there
        self.centre = beta * float(_tangent(self.law[0, 0])) if near_1 else 0.0
        k = torch.arange(_DEGREE, dtype=torch.float64, device=device)
        angle = _PI * (k + 0.5) / _DEGREE
        to_series = torch.cos(k[:, None] * angle) * (2 / _DEGREE)
        to_series[0] /= 2
        bars = torch.tensor([[3e-13]] * 3 + [[1e-8]] * 3, device=device)[: 3 if of is None else 6]
        reach = math.asinh(1e30 / self.unit)
        edges = torch.linspace(-reach, reach, _PANELS + 1, dtype=torch.float64, device=device)
        low, high = edges[:-1], edges[1:]
        done = []
        for _ in range(9):
            middle, half = (low + high) / 2, (high - low) / 2
            s = middle[:, None] + half[:, None] * torch.cos(angle)
            points = self.centre + self.unit * torch.sinh(s)
            rows = self._exact(points.flatten()).unflatten(1, s.shape)
            series = rows @ to_series.T
            rough = series[..., -2:].abs().amax(2) / (1 + series.abs().amax(2))
            good = (rough <= bars).all(0)
            done.append((low[good], high[good], series[:, good]))
            again = ~good & (rows[_LOG_F] > -1e3).any(1)
            low, middle, high = low[again], middle[again], high[again]
            low, high = torch.cat([low, middle]), torch.cat([middle, high])
        self.low, order = torch.cat([d[0] for d in done]).sort()
        self.high = torch.cat([d[1] for d in done])[order]
        self.series = torch.cat([d[2] for d in done], 1)[:, order].transpose(1, 2).contiguous()

    def _exact(self, points: Tensor) -> Tensor:
        return _direct(points, *self.law.expand(2, len(points)), self.of)

    def __call__(self, points: Tensor, wanted: list[int]) -> Tensor:
        """Return the wanted rows."""
        s = torch.asinh((points - self.centre) / self.unit)
        panel = (torch.bucketize(s, self.low, right=True) - 1).clamp_min(0)
        low, high = self.low[panel], self.high[panel]
        u = (2 * s - low - high) / (high - low)
        out = points.new_empty((len(wanted), len(points)))
        for row, series in zip(out, self.series[wanted], strict=True):
            after, now = torch.zeros_like(u), series[-1][panel]
            for coefficient in series[1:-1].flip(0):  # Clenshaw's recursion
                after, now = now, coefficient[panel] + 2 * u * now - after
            row.copy_(series[0][panel] + u * now - after)
        outside = ~(u.abs() <= 1)
        if bool(outside.any()):
            out[:, outside] = self._exact(points[outside])[wanted]
        return out


_table = lru_cache(maxsize=16)(_Table)


def _rows(point: Tensor, alpha: Tensor, beta: Tensor, of: int | None, wanted: list[int]) -> Tensor:
    """Return the wanted rows at flat points, by the table of a law where that pays."""
    if len(point) >= _MANY and all(bool((v == v[0]).all()) for v in (alpha, beta)):
        return _table(float(alpha[0]), float(beta[0]), of, point.device)(point, wanted)
    return _direct(point, alpha, beta, of)[wanted]


class _Log(torch.autograd.Function):
    """A row and its first derivatives, found on the way: no graph of the nodes is kept."""

    @staticmethod
    def forward(
        x: Tensor, alpha: Tensor, beta: Tensor, point: Tensor, of: int, derivatives: bool
    ) -> tuple[Tensor, Tensor]:
        flat = (v.reshape(-1) for v in (point, alpha, beta))
        wanted = [of, 3, 4, 5] if derivatives else [of]
        rows = _rows(*flat, of if derivatives else None, wanted)
        return rows[0].view(x.shape), rows[1:].view(-1, *x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return *(grad * slopes), None, None, None


def _point(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return x of S0 where alpha is next to 1, else the point in the form S1."""
    return torch.where(_in_band(alpha), x, x + beta * _tangent(alpha))


def _log(of: int, x: Tensor, alpha: Tensor, beta: Tensor, point: Tensor) -> Tensor:
    x, alpha, beta, point = torch.broadcast_tensors(x, alpha, beta, point.detach())
    derivatives = torch.is_grad_enabled() and any(v.requires_grad for v in (x, alpha, beta))
    value: Tensor = _Log.apply(x, alpha, beta, point, of, derivatives)[0]
    return value


def log_density(x: float | Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    """Return log f(x) of the standard law S0(alpha, beta), in float64; arguments broadcast."""
    x, alpha, beta = (v.double() for v in broadcast_all(x, alpha, beta))
    return _log(_LOG_F, x, alpha, beta, _point(x, alpha, beta))


def _sinh(s: Tensor, unit: Tensor) -> Tensor:
    """Return unit sinh(s), which may be a float where sinh(s) is not."""
    near = s.clamp(-300, 300)
    return unit * torch.sinh(near) * torch.exp((s - near).abs())


def _quantile(p: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the points of levels in (0, 1), else nan; all flat.

    The unknown is s = asinh(point / width). Newton's iteration is for log(-log P), with P the tail on the
    side of min(p, 1 - p): linear where the tail is light, nearly so where it is heavy. A step out
    of the bracket, or one that is not half the step before the last, is a bisection instead.
    """
    all_alpha = alpha
    lower = p <= 0.5
    side = torch.where(lower, -1.0, 1.0).to(p)
    goal = torch.log(torch.where(lower, p, 1 - p))
    width = _width(alpha)
    log_width = torch.log(width)
    reach = 700 - log_width
    constant = torch.sin(_HALF_PI * torch.minimum(alpha, 2 - alpha)) * (1 + side * beta) / _PI
    log_size = (torch.lgamma(alpha) + torch.log(constant) - goal) / alpha  # of the tail law
    log_size = (log_size + math.log(2) - log_width).nan_to_num(0)
    s = torch.where(on_half_line(alpha, beta), beta, side)
    s = s * torch.minimum(log_size.clamp_min(0.01), reach - 10)
    found = torch.full_like(p, math.nan)
    step, before = torch.full_like(p, math.inf), torch.full_like(p, math.inf)
    state = torch.stack((s, -reach, reach, step, before, goal, side, width, alpha, beta))
    active = ((p > 0) & (p < 1)).nonzero()[:, 0]
    state = state[:, active]
    for _ in range(120):
        if not len(active):
            break
        s, low, high, step, before, goal, side, width, alpha, beta = state
        point = _sinh(s, width)
        log_f, log_F, log_S = _rows(point, alpha, beta, None, [0, 1, 2])
        reached = torch.where(side < 0, log_F, log_S)
        miss = torch.log(reached / goal)
        too_high = (miss < 0) == (side < 0)
        low, high = torch.where(too_high, low, s), torch.where(too_high, s, high)
        newton = side * miss * reached * torch.exp(reached - log_f) / torch.hypot(point, width)
        new = s + newton
        take = (new >= low) & (new <= high) & (newton.abs() < before.abs() / 2)
        done = (newton.abs() <= 1e-9 * s.abs()) & (miss.abs() < 1e-6) | (miss.abs() < 1e-12)
        found[active[done]] = new[done]
        new = torch.where(take, new, (low + high) / 2)
        state = torch.stack((new, low, high, new - s, step, goal, side, width, alpha, beta))[
            :, ~done
        ]
        active = active[~done]
    return _sinh(found, _width(all_alpha))


class Stable(Distribution):
    r"""The stable law S(alpha, beta, scale, loc), in Nolan's form S1 or S0.

    S1, which scipy's ``levy_stable`` takes by default too, has for alpha != 1

        E exp(iuX) = exp(i loc u - |scale u|^alpha (1 - i beta sign(u) tan(pi alpha / 2)))

    and for alpha = 1 the term (2/pi) log|u| in place of -tan(pi alpha / 2). Its loc is the mean
    for alpha > 1. With the same loc, X_S0 = X_S1 - beta scale tan(pi alpha / 2), and
    X_S1 - beta (2/pi) scale log(scale) at alpha = 1; only S0 is continuous there. alpha = 2 is
    N(loc, 2 scale^2), whatever beta.

    Args:
        alpha: stability index in (0, 2]; a float or a floating-point tensor, as all four. All but
            draws and moments need alpha >= 0.05 where |beta| < 1.
        beta: skewness in [-1, 1].
        loc: location, finite, in the unit of X.
        scale: > 0, in the unit of X.
        parameterization: ``"S1"`` or ``"S0"``.
        validate_args: False skips the checks of arguments.

    The four broadcast to ``batch_shape`` and are promoted to one dtype, which the results have;
    float32 if all four are floats and torch's default is. Computations run in float64 on the
    parameters as stored (a float32 alpha of 1.1 is 1.10000002).

    First derivatives exist in the points and in all four parameters; second ones raise
    RuntimeError, and so does ``torch.func.vmap`` over a method. Draws of ``rsample`` are
    differentiable in alpha on either side of 1. In the form S1 with beta != 0 the law jumps at
    alpha = 1, and what backward finds in alpha there is no derivative.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Nolan, Univariate Stable Distributions, Springer, 2020, Definitions 1.4 and 1.5.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "alpha": constraints.interval(0, 2),
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
        self.parameterization = _check.one_of("parameterization", parameterization, FORMS)
        check = validate_args is not False  # torch's own default changes as its compiler loads
        given = dict(zip(PARAMETERS, (alpha, beta, loc, scale), strict=True))
        if check:
            for name, value in given.items():
                _check.numbers(name, value, _RANGES[name])
        values = [v if isinstance(v, Tensor) else float(v) for v in given.values()]
        tensors = [v for v in values if isinstance(v, Tensor)]
        broadcast = broadcast_all(*values)
        # As torch promotes: a tensor without dimensions decides only where there is no other.
        tensors = [v for v in tensors if v.dim()] or tensors or [broadcast[0]]
        dtype = reduce(torch.promote_types, (v.dtype for v in tensors))
        for name, value in zip(PARAMETERS, broadcast, strict=True):
            setattr(self, name, value.to(dtype))
        if check:
            _check.numbers("scale", self.scale, _RANGES["scale"])  # a float may underflow
        super().__init__(self.alpha.shape, validate_args=False)  # done, with better messages
        self._validate_args = check

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, parameterization: {self.parameterization})"

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Stable":
        """Return the law with its parameters expanded to ``batch_shape``."""
        new: Stable = self._get_checked_instance(Stable, _instance)
        size = torch.Size(batch_shape)
        new.parameterization = self.parameterization
        for name in PARAMETERS:
            setattr(new, name, getattr(self, name).expand(size))
        super(Stable, new).__init__(size, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _doubles(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return alpha, beta, loc and scale in float64."""
        return self.alpha.double(), self.beta.double(), self.loc.double(), self.scale.double()

    def _loc(self, form: str) -> Tensor:
        """Return loc in a form, in float64; in S1 it is the end of the support of a half-line."""
        alpha, beta, loc, scale = self._doubles()
        if form == self.parameterization:
            return loc
        shift = s1_shift(alpha, beta, scale)
        return loc + shift if form == "S0" else loc - shift

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """A half-line where all laws have alpha < 1 and beta = 1, or all beta = -1; else reals."""
        half_line = on_half_line(self.alpha, self.beta)
        end = self._loc("S1").detach().to(self.loc.dtype)
        if self.alpha.numel() and bool((half_line & (self.beta > 0)).all()):
            return constraints.greater_than_eq(end)
        if self.alpha.numel() and bool((half_line & (self.beta < 0)).all()):
            return constraints.less_than(torch.nextafter(end, torch.full_like(end, math.inf)))
        return constraints.real

    @property
    def mean(self) -> Tensor:
        """S1's loc for alpha > 1, else nan: there is no mean."""
        return torch.where(self.alpha > 1, self._loc("S1").to(self.loc.dtype), math.nan)

    @property
    def variance(self) -> Tensor:
        """2 scale^2 for alpha = 2, else inf."""
        return torch.where(self.alpha == 2, 2 * self.scale.square(), math.inf)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        """Draw from torch's global generator, differentiable in the four parameters."""
        shape = self._extended_shape(sample_shape)
        like = self.alpha.new_empty(shape.numel(), dtype=torch.float64)
        angle, uniform = (bits.view(shape) for bits in _draws.uniforms(like, None))
        draws = FORMS[self.parameterization](*self._doubles(), angle, uniform)
        return draws.to(self.loc.dtype)

    def _row(self, of: int, value: Tensor) -> Tensor:
        """Return a row at the values, in float64."""
        self._check_points(value)
        alpha, beta, _, scale = self._doubles()
        x = (value.double() - self._loc("S0")) / scale
        z = (value.double() - self._loc("S1")) / scale  # 0 at the end of a half-line
        return _log(of, x, alpha, beta, torch.where(_in_band(alpha), x, z))

    def _check_points(self, value: object) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"value must be a tensor, got {value!r}")
        if not self.batch_shape == value.shape == ():
            _check.broadcasts("value", value, torch.broadcast_shapes(value.shape, self.batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density."""
        self._check_points(value)
        if self._validate_args:
            self._validate_sample(value)
        return (self._row(_LOG_F, value) - torch.log(self.scale.double())).to(self.loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        return torch.exp(self._row(_LOG_CDF, value)).to(self.loc.dtype)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), to relative precision where it is small."""
        return torch.exp(self._row(_LOG_SF, value)).to(self.loc.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of a level in [0, 1], differentiable in the level and parameters.

        The ends of the support at 0 and 1, nan outside. Near 1 the level's own rounding is the
        error.
        """
        self._check_points(value)
        bad = ~((value >= 0) & (value <= 1))  # nan too
        if self._validate_args and bool(bad.any()):
            raise ValueError(f"level must be in [0, 1], got {value[bad][0]:g}")
        p, alpha, beta = torch.broadcast_tensors(value.double(), *self._doubles()[:2])
        scale = self.scale.double()
        with torch.no_grad():
            point = _quantile(p.reshape(-1), alpha.reshape(-1), beta.reshape(-1)).view(p.shape)
            origin = torch.where(_in_band(alpha), self._loc("S0"), self._loc("S1"))
            x = origin + scale * point
            x = torch.where(p == 0, -math.inf, torch.where(p == 1, math.inf, x))
        return within_support(x, alpha, beta, self._loc("S1")).to(self.loc.dtype)


_RANGES = {"alpha": "(0, 2]", "beta": "[-1, 1]", "loc": _check.FINITE, "scale": _check.POSITIVE}
