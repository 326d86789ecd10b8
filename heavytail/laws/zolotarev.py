r"""Density and tails of the standard stable law: Zolotarev's integrals.

For alpha != 1 a standard law, reflected so that its point y in the form S1 is positive, has
Zolotarev's integrals over an angle delta in (0, rho), b = rho - delta, a = kappa delta:

    f = kappa / (pi e y) int g exp(-g),    kappa = min(alpha, 1 / alpha),  e = 1 - kappa,       (1)
    log g = log K + (kappa log sin a - log sin b) / e + log sin(a + b),                         (2)
    E = int exp(-g),  C = rho - E,  gap = pi - rho,                                             (3)
    alpha < 1: F = (gap + E) / pi, 1 - F = C / pi,
    alpha > 1: F = (pi - kappa rho + kappa C) / pi, 1 - F = kappa E / pi.                       (4)

By the duality of alpha and 1 / alpha one exponent (2) serves both; g rises. In v = log(delta / b)
the trapezoidal rule is exact but for exponentially small errors. Near alpha = 1, where the angle
degenerates, the logarithms are interpolated in alpha: at a fixed point of S0 they are analytic.

Rows are log f, log F and log(1 - F), or one of them and its derivatives in x (S0), alpha and beta.
Relative errors of f, F and 1 - F are below 1e-9, mostly 1e-12, for alpha >= 0.05, or any alpha if
|beta| = 1; derivatives are good to 1e-7. Where doubling the nodes does not help, rows are nan. Next
to alpha = 1 a log f below -1e5 is right to its first digits only.

Source: Zolotarev, One-dimensional Stable Distributions, 1986, Sections 2.2 and 2.3; Nolan,
Univariate Stable Distributions, Springer, 2020, Theorem 3.3. The variable v is ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from heavytail.laws.maps import on_half_line

_PI, _HALF_PI = math.pi, math.pi / 2
PDF, CDF, SF = 0, 1, 2  # the rows
_BLOCK = 512  # points at once: their nodes stay in a core's cache
_NODES, _MOST_NODES = 200, 6400
_DEEP = 1e6  # where g is larger, Laplace's method is precise and the sum is not
_BAND = 0.005  # |alpha - 1| below this is interpolated


def tangent(alpha: Tensor) -> Tensor:
    """Return tan(pi alpha / 2), exact at 2."""
    return torch.tan(_HALF_PI * torch.where(alpha > 1, alpha - 2, alpha))


def peak_width(alpha: Tensor) -> Tensor:
    """Return the width of the peak of the density, sqrt(f(0) / -f''(0)) at beta = 0."""
    return torch.exp((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2).clamp_min(1e-290)


def in_band(alpha: Tensor) -> Tensor:
    """Return whether a law is interpolated in alpha."""
    return (alpha - 1).abs() < _BAND


def _solve(rising: Callable[[Tensor], Tensor], level: Tensor) -> Tensor:
    """Return v in [-700, 700] with rising(v) = level, to 1e-3."""
    low, high = torch.full_like(level, -700), torch.full_like(level, 700)
    for _ in range(20):
        v = (low + high) / 2
        above = rising(v) > level
        low, high = torch.where(above, low, v), torch.where(above, v, high)
    return (low + high) / 2


class _Angles(NamedTuple):
    """What the exponent (2) is made of at nodes; each (points, nodes)."""

    delta: Tensor
    a: Tensor
    b: Tensor
    sin_a: Tensor
    sin_b: Tensor
    sin_ab: Tensor
    log_g: Tensor


class _Law:
    """Laws reflected to y > 0 and their exponents; each part is (points, 1)."""

    def __init__(self, y: Tensor, alpha: Tensor, beta: Tensor) -> None:
        self.y, self.alpha, self.beta = y, alpha, beta = y[:, None], alpha[:, None], beta[:, None]
        self.T = T = tangent(alpha)
        self.B = B = beta * T
        self.low, self.kappa = low, kappa = alpha < 1, torch.minimum(alpha, 1 / alpha)
        self.e = torch.where(low, 1 - alpha, (alpha - 1) / alpha)
        up, down = (1 + beta) * T.abs(), (1 - beta) * T.abs()
        ahead = torch.atan2(up, 1 - B * T)  # of rho and gap none is pi less the other
        self.rho = torch.where(low, ahead / alpha, torch.atan2(up, B * T - 1))
        self.gap = torch.where(low, torch.atan2(down, 1 + B * T) / alpha, ahead)
        log_y, log_c = y.log(), -torch.log1p(B.square()) / 2
        self.log_K = torch.where(low, -kappa * log_y - log_c, log_y + kappa * log_c) / self.e

    def angles(self, v: Tensor) -> _Angles:
        """Return the angles at v = log(delta / b); nothing is subtracted from pi."""
        delta, b = self.rho * torch.sigmoid(v), self.rho * torch.sigmoid(-v)
        a = self.kappa * delta
        sin_a = torch.sin(a)
        sin_b = torch.sin(torch.where(b > _HALF_PI, self.gap + delta, b))
        sin_ab = torch.sin(torch.where(a + b > _HALF_PI, self.gap + self.e * delta, a + b))
        log_g = self.log_K + (self.kappa * sin_a.log() - sin_b.log()) / self.e + sin_ab.log()
        return _Angles(delta, a, b, sin_a, sin_b, sin_ab, log_g)

    def log_g(self, v: Tensor) -> Tensor:
        """Return the exponent (2)."""
        return self.angles(v).log_g

    def log_mass(self, v: Tensor) -> Tensor:
        """Return the same, of g delta where g begins above 0: there E is small with delta."""
        return self.log_g(v) + torch.where(self.gap == 0, logsigmoid(v), 0.0)

    def slopes(self, at: _Angles, of: int, d_delta: Tensor) -> Tensor:
        r"""Return the derivatives of pi y f, or pi (1 - F), in x, alpha and beta; (3, points).

        On the path u = r exp(-i phi) on which h = -iuy - u^alpha (1 - iB) is -g,

            f = (1/pi) Re int e^h du,    1 - F = (1/pi) Im int e^h du / u:                      (5)

        h alone depends on the parameters. ``d_delta`` are the weights of e^-g.
        """
        low, kappa, alpha, T = self.low, self.kappa, self.alpha, self.T
        rest, sin_rest = torch.where(low, at.b, at.a), torch.where(low, at.sin_b, at.sin_a)
        log_ry = at.log_g - at.sin_ab.log() + torch.where(low, at.sin_a, at.sin_b).log()
        uy = log_ry.exp() * torch.complex(sin_rest, -torch.cos(rest))  # phi = pi/2 - rest
        log_u = torch.complex(log_ry - self.y.log(), rest - _HALF_PI)
        rise = (kappa * torch.cos(at.a) / at.sin_a + torch.cos(at.b) / at.sin_b) / self.e
        turn = torch.where(low, -1.0, kappa).expand_as(rest)
        du = torch.complex(rise * torch.where(low, 1.0, kappa), turn) * d_delta  # du / u
        power = (alpha * log_u).exp()
        in_B = 1j * (power - uy / self.y)  # at fixed x: y moves with B
        in_alpha = in_B * self.beta * _HALF_PI * (1 + T.square())
        in_alpha = in_alpha - power * log_u * (1 - 1j * self.B)
        du = uy * du if of == PDF else -1j * du
        found = (torch.stack((-1j * uy, in_alpha, in_B * T)) * du).sum(2).real
        found[0] /= self.y[:, 0]  # last: the sum cancels, and must not underflow before
        return found


def _sums(law: _Law, upper: Tensor, of: int | None, n: int) -> tuple[Tensor, Tensor]:
    """Return the rows of reflected laws by n nodes, and where half of them would do."""
    low, kappa, e, rho, gap = law.low, law.kappa, law.e, law.rho, law.gap
    # The nodes v = middle + wide sinh(t) lie around g = g0 + 1; g begins at g0 > 0 if gap = 0.
    g0 = torch.where(gap == 0, law.log_g(torch.full_like(rho, -700)), -math.inf).exp()
    start = g0.clamp_max(1e260)
    middle = _solve(law.log_g, (start + 1).log())
    right = _solve(law.log_g, (start + 38 - middle.clamp_max(0)).log()) + 2e-3
    least = law.log_mass(middle).clamp_max(300) - 36 - middle.clamp_min(0)
    left = _solve(law.log_mass, least) - 2e-3
    wide = 3 + e
    t_left, t_right = (torch.asinh((end - middle) / wide) for end in (left, right))
    step = (t_right - t_left) / n
    t = t_left + step * torch.arange(n + 1, dtype=rho.dtype, device=rho.device)
    v = middle + wide * torch.sinh(t)
    at = law.angles(v)
    g = at.log_g.clamp_max(600).exp()
    floor = g.amin(1, keepdim=True)
    d_delta = (floor - g).exp() * step * wide * torch.cosh(t) * at.delta * torch.sigmoid(-v)
    rise = (kappa.square() * torch.cos(at.a) / at.sin_a + torch.cos(at.b) / at.sin_b) / e
    rise = g * (rise - e * torch.cos(at.a + at.b) / at.sin_ab)  # dg / d delta
    terms = d_delta * torch.stack((g, at.delta * rise, at.b * rise))  # (1), and (3) by parts
    sums = terms.sum(2, keepdim=True)
    good = ((2 * terms[..., ::2].sum(2, keepdim=True) - sums).abs() <= 1e-6 * sums).all(0)
    density, E, C = sums
    deep = g0 > _DEEP  # g = g0 (1 + kappa delta^2 / 2)
    log_sum = torch.where(deep, (_PI * start / (2 * kappa)).log() / 2 - g0, density.log() - floor)
    log_E = torch.where(deep, 0.0, E.log()) - floor
    C = torch.where(deep, 0.0, C) * (-floor).exp() - rho * torch.expm1(-g0)
    log_F = torch.where(low, torch.logaddexp(gap.log(), log_E), (_PI - kappa * (rho - C)).log())
    log_S = torch.where(low, C.log(), kappa.log() + log_E)
    log_F, log_S = log_F - math.log(_PI), log_S - math.log(_PI)
    less = log_F < log_S  # the smaller is the more precise
    rows = [
        (kappa / (_PI * e * law.y)).log() + log_sum,
        torch.where(less, log_F, torch.log1p(-log_S.exp())),
        torch.where(less, torch.log1p(-log_F.exp()), log_S),
    ]
    if of == PDF:
        rows += law.slopes(at, of, d_delta * (e / (kappa * density)))[..., None]
    elif of is not None:
        log_P = torch.where(upper, rows[SF], rows[CDF])
        share = torch.where(log_P > -745, (-floor - log_P).exp(), 0.0) / _PI
        rows += law.slopes(at, of, d_delta * torch.where(upper, share, -share))[..., None]
    return torch.cat(rows, 1).T, (good | deep)[:, 0]


def _integrate(z: Tensor, alpha: Tensor, beta: Tensor, of: int | None, n: int = _NODES) -> Tensor:
    """Return three rows, or six with ``of``, at points z of S1 by n nodes, or more if need be."""
    reflect = (z < 0) | ((z == 0) & (beta > 0))
    sign = torch.where(reflect, -1.0, 1.0).to(z)
    beta = sign * beta
    # Nearer to 0 the density is flat, but for that of a half-line, and v would leave [-700, 700].
    near = torch.minimum(36 / alpha - 660, torch.log(peak_width(alpha)) - 46).exp()
    size = torch.maximum(z.abs(), torch.where(on_half_line(alpha, beta), 1e-300, near))
    # Further out the leading term of a power tail is all there is.
    light = (alpha == 2) | ((alpha > 1) & (beta == -1))
    far = torch.full_like(z, 1e300).masked_fill(alpha > 1, 1e100).masked_fill(light, math.inf)
    y = torch.minimum(size, far)
    upper = reflect if of == CDF else ~reflect  # whether 1 - F is asked, once reflected
    rows, good = _sums(_Law(y, alpha, beta), upper[:, None], of, n)
    beyond = torch.where(size > far, torch.log(size / far), 0.0)
    rows[PDF] -= (1 + alpha) * beyond
    rows[SF] -= alpha * beyond
    if of is not None:
        rows[3] *= sign * torch.exp(-beyond)
        rows[4] -= beyond * (upper | (of == PDF))
        rows[5] *= sign
    off = (alpha < 1) & (beta == -1)  # the half-line
    rows[:, off] = rows.new_tensor([-math.inf, 0, -math.inf, 0, 0, 0])[: len(rows), None]
    rows[1:3] = torch.where(reflect, rows[1:3].flip(0), rows[1:3])
    again = ~(good | off | torch.isnan(z))
    if bool(again.any()):
        left = z[again], alpha[again], (sign * beta)[again]
        rows[:, again] = _integrate(*left, of, 2 * n) if n < _MOST_NODES else math.nan
    return rows


def chebyshev(m: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return m nodes in (-1, 1) and the matrix that turns values there into coefficients."""
    k = torch.arange(m, dtype=like.dtype, device=like.device)
    angle = _PI * (k + 0.5) / m
    matrix = torch.cos(k[:, None] * angle) * (2 / m)
    matrix[0] /= 2
    return torch.cos(angle), matrix


def polynomials(m: int, u: Tensor) -> Tensor:
    """Return T_0(u), ..., T_{m-1}(u), (m, points)."""
    return torch.cos(torch.arange(m, dtype=u.dtype, device=u.device)[:, None] * torch.acos(u))


def _interpolate(x: Tensor, alpha: Tensor, beta: Tensor, of: int | None) -> Tensor:
    """Return the rows at points x of S0 by the polynomial in alpha through eight laws."""
    nodes, matrix = chebyshev(8, x)
    nodes = 1 + _BAND * nodes
    laws = [_integrate(x + beta * tangent(a), a.expand_as(x), beta, of) for a in nodes]
    rows = torch.stack(laws)
    weights = matrix.T @ polynomials(8, (alpha - 1) / _BAND)
    smooth = (weights[:, None] * rows.clamp_min(-1e30)).sum(0)
    nearest = (alpha - nodes[:, None]).abs().argmin(0).expand(1, *smooth.shape)
    lost = ~(rows[:, :3] > -1e5).all(0)  # deep down a light tail
    lost = lost if of is None else torch.cat((lost, lost[of].expand(3, -1)))
    return torch.where(lost, rows.gather(0, nearest)[0], smooth)


def _values(point: Tensor, alpha: Tensor, beta: Tensor, of: int | None) -> Tensor:
    """Return rows at points of S0 in the band, of S1 elsewhere."""
    band = in_band(alpha)
    rows = point.new_empty((3 if of is None else 6, len(point)))
    for rule, where in ((_integrate, ~band), (_interpolate, band)):
        if bool(where.any()):
            rows[:, where] = rule(point[where], alpha[where], beta[where], of)
    return rows


def rows_at(point: Tensor, alpha: Tensor, beta: Tensor, of: int | None = None) -> Tensor:
    """Return rows at flat points, block by block.

    Across the edges alpha = 2 and |beta| = 1, where a power tail appears, derivatives are taken
    next to them.
    """
    blocks = []
    for z, a, b in zip(*(v.split(_BLOCK) for v in (point, alpha, beta)), strict=True):
        rows = _values(z, a, b, of)
        edges = ((4, a == 2, a - 1e-10, b), (5, b.abs() == 1, a, b * (1 - 1e-12)))
        for row, edge, a_in, b_in in edges if of is not None else ():
            edge = edge & torch.isfinite(rows[PDF])
            if bool(edge.any()):
                shift = torch.where(in_band(a), 0.0, b_in * tangent(a_in) - b * tangent(a))
                inside = (z + shift)[edge], a_in[edge], b_in[edge]
                rows[row, edge] = _values(*inside, of)[row]
        blocks.append(rows)
    return torch.cat(blocks, 1)
