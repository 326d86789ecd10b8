r"""Density, tails and derivatives of standard stable laws: Zolotarev's integrals.

For alpha != 1 a standard law, reflected so that its point y in the form S1 is positive, has
integrals over an angle delta in (0, rho), with b = rho - delta and a = kappa delta:

    f = kappa / (pi e y) int g exp(-g),    kappa = min(alpha, 1 / alpha),  e = 1 - kappa,       (1)
    log g = log K + (kappa log sin a - log sin b) / e + log sin(a + b),                         (2)
    E = int exp(-g),  C = rho - E,  gap = pi - rho,                                             (3)
    alpha < 1: F = (gap + E) / pi, 1 - F = C / pi;    alpha > 1: 1 - F = kappa E / pi.          (4)

By the duality of alpha and 1 / alpha one exponent (2) serves both; g rises. In v = log(delta / b)
the trapezoidal rule is exact but for exponentially small errors. Near alpha = 1, where the angle
degenerates, logarithms are interpolated in alpha: at a fixed point of S0 they are analytic.

On the path u = r exp(-i phi) on which h = -iuy - u^alpha (1 - i beta tan(pi alpha / 2)) is -g,

    f = (1/pi) Re int e^h du,    1 - F = (1/pi) Im int e^h du / u:                              (5)

with the path held fixed h alone depends on y, alpha and beta, which gives the derivatives.

Relative errors of f, F and 1 - F are below 1e-9, mostly 1e-12, for alpha >= 0.05, or any alpha if
|beta| = 1; derivatives are good to 1e-7. Where doubling the nodes does not help, all are nan, as is
the derivative in beta for alpha < 0.05. Next to alpha = 1 a log f below -1e5 is right to its first
digits only.

Source: Zolotarev, One-dimensional Stable Distributions, 1986, Sections 2.2 and 2.3; Nolan,
Univariate Stable Distributions, Springer, 2020, Theorem 3.3. The variable v is ours.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from heavytail.laws.chambers_mallows_stuck import on_half_line

BAND = 0.005  # |alpha - 1| below this is interpolated
_HALF_PI = math.pi / 2
_BLOCK = 512  # points at once: their nodes stay in a core's cache
_NODES, _MOST_NODES = 200, 6400
_DEEP = 1e6  # where g is larger, its rounding is the error


def tangent(alpha: Tensor) -> Tensor:
    """Return tan(pi alpha / 2), exact at 2."""
    return torch.tan(_HALF_PI * torch.where(alpha > 1, alpha - 2, alpha))


def peak_width(alpha: Tensor) -> Tensor:
    """Return the width of the peak of the density, sqrt(f(0) / -f''(0)) at beta = 0."""
    return torch.exp((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2).clamp_min(1e-290)


def logs_at(point: Tensor, alpha: Tensor, beta: Tensor, slopes: bool) -> Tensor:
    """Return the logs of flat points: log f, log F and log(1 - F), (1, 3, points).

    With slopes, (4, 3, points): their derivatives in the point, alpha and beta too; across the
    edges alpha = 2 and |beta| = 1, where a power tail appears, those next to them. Points are of
    S1, in the band of S0.
    """
    if len(point) > _BLOCK:
        blocks = zip(*(v.split(_BLOCK) for v in (point, alpha, beta)), strict=True)
        return torch.cat([logs_at(z, a, b, slopes) for z, a, b in blocks], 2)
    band = (alpha - 1).abs() < BAND
    logs = point.new_empty((4 if slopes else 1, 3, len(point)))
    for rule, where in ((_integrate, ~band), (_interpolate, band)):
        if bool(where.any()):
            logs[..., where] = rule(point[where], alpha[where], beta[where], slopes)
    inner = alpha.clamp_max(2 - 1e-10), beta.clamp(-1 + 1e-12, 1 - 1e-12)
    for row, a, b in ((2, inner[0], beta), (3, alpha, inner[1])) if slopes else ():
        edge = ((a != alpha) | (b != beta)) & torch.isfinite(logs[0, 0])
        if bool(edge.any()):
            logs[row, :, edge] = logs_at(point[edge], a[edge], b[edge], True)[row]
    return logs


def weights(nodes: Tensor, at: Tensor) -> Tensor:
    """Return Lagrange's weights of nodes at points, (nodes, points)."""
    ratios = (at - nodes[:, None]) / (nodes[:, None] - nodes)[..., None]
    ratios[range(len(nodes)), range(len(nodes))] = 1
    return ratios.prod(1)


def _interpolate(x: Tensor, alpha: Tensor, beta: Tensor, slopes: bool) -> Tensor:
    """Return the logs at points x of S0 by the polynomial in alpha through eight laws."""
    k = torch.arange(8, dtype=x.dtype, device=x.device)[:, None]
    nodes = 1 + BAND * torch.cos(math.pi * (k + 0.5) / 8)
    T = tangent(nodes)
    z, a, b = (v.flatten() for v in torch.broadcast_tensors(x + beta * T, nodes, beta))
    logs = _integrate(z, a, b, slopes).unflatten(2, (8, -1))
    if slopes:  # from a fixed point of S1 to one of S0
        logs[2] += logs[1] * beta * _HALF_PI * (1 + T.square())
        logs[3] += logs[1] * T
    smooth = (logs * weights(nodes[:, 0], alpha)).sum(2)
    nearest = logs[:, :, (alpha - nodes).abs().argmin(0), range(len(x))]
    lost = ~(logs[0] > -1e5).all(0).all(0)  # deep down a light tail
    return torch.where(lost, nearest, smooth)


def _integrate(z: Tensor, alpha: Tensor, beta: Tensor, slopes: bool, n: int = _NODES) -> Tensor:
    """Return the logs at points z of S1 by n nodes, or more if need be."""
    reflect = (z < 0) | ((z == 0) & (beta > 0))
    sign = torch.where(reflect, -1.0, 1.0).to(z)
    beta = sign * beta
    # Nearer to 0 the density is flat, but for that of a half-line. Further out the leading term of
    # a power tail is all there is.
    near = torch.where(on_half_line(alpha, beta), 1e-300, 1e-20 * peak_width(alpha))
    light = (alpha == 2) | ((alpha > 1) & (beta == -1))
    far = torch.where(light, torch.finfo(z.dtype).max, (345 / alpha).clamp_max(709).exp())
    size = torch.maximum(z.abs(), near)
    logs, good = _sums(torch.minimum(size, far), alpha, beta, slopes, n)
    beyond = torch.where(size > far, torch.log(size / far), 0.0)
    logs[0, ::2] -= torch.stack((1 + alpha, alpha)) * beyond
    if slopes:
        logs[1] *= sign * torch.exp(-beyond)
        logs[2, ::2] -= beyond
        logs[3] *= sign
    off = (alpha < 1) & (beta == -1)  # the half-line
    logs[:, :, off] = 0
    logs[0, ::2, off] = -math.inf
    logs[:, 1:] = torch.where(reflect, logs[:, 1:].flip(1), logs[:, 1:])
    again = ~(good | off | torch.isnan(z))
    if bool(again.any()):
        left = z[again], alpha[again], (sign * beta)[again]
        logs[..., again] = _integrate(*left, slopes, 2 * n) if n < _MOST_NODES else math.nan
    return logs


def _sums(y: Tensor, alpha: Tensor, beta: Tensor, slopes: bool, n: int) -> tuple[Tensor, Tensor]:
    """Return the logs at points y > 0 by n nodes, and where half of them would do.

    What belongs to points is (points, 1), what to nodes (points, nodes).
    """
    y, alpha, beta = y[:, None], alpha[:, None], beta[:, None]
    low, kappa, T = alpha < 1, torch.minimum(alpha, 1 / alpha), tangent(alpha)
    e, B = torch.where(low, 1 - alpha, (alpha - 1) / alpha), beta * T
    up, down = (1 + beta) * T.abs(), (1 - beta) * T.abs()
    ahead = torch.atan2(up, 1 - B * T)  # of rho and gap none is pi less the other
    rho = torch.where(low, ahead / alpha, torch.atan2(up, B * T - 1))
    gap = torch.where(low, torch.atan2(down, 1 + B * T) / alpha, ahead)
    log_y, log_c = y.log(), -torch.log1p(B.square()) / 2
    log_K = torch.where(low, -kappa * log_y - log_c, log_y + kappa * log_c) / e

    def at(v: Tensor) -> tuple[Tensor, ...]:
        """Return delta, a, b, sin a, sin b, sin(a + b) and log g; nothing is taken from pi."""
        delta, b = rho * torch.sigmoid(v), rho * torch.sigmoid(-v)
        a = kappa * delta
        sin_a = torch.sin(a)
        sin_b = torch.sin(torch.where(b > _HALF_PI, gap + delta, b))
        sin_ab = torch.sin(torch.where(a + b > _HALF_PI, gap + e * delta, a + b))
        log_g = log_K + (kappa * sin_a.log() - sin_b.log()) / e + sin_ab.log()
        return delta, a, b, sin_a, sin_b, sin_ab, log_g

    def solve(level: Tensor, weight: Tensor | float = 0.0) -> Tensor:
        """Return v in [-700, 700] with log g + weight log(delta / rho) = level, to 1e-3."""
        left, right = torch.full_like(level, -700), torch.full_like(level, 700)
        for _ in range(20):
            v = (left + right) / 2
            above = at(v)[-1] + weight * logsigmoid(v) > level
            left, right = torch.where(above, left, v), torch.where(above, v, right)
        return (left + right) / 2

    # Nodes v = middle + wide sinh(t) lie around g = g0 + 1. If gap = 0, g begins at g0 > 0, and E
    # is small with delta.
    start = torch.where(gap == 0, at(torch.full_like(rho, -40))[-1], -math.inf)
    g0, start, weight = start.exp(), start + 1e-9, (gap == 0).to(rho)
    level = torch.logaddexp(start, torch.zeros_like(start))
    middle = solve(level)
    right = solve(torch.logaddexp(start, (38 - middle.clamp_max(0)).log())) + 2e-3
    least = level + weight * logsigmoid(middle) - 36 - middle.clamp_min(0)
    left = solve(least, weight) - 2e-3
    wide = 3 + e
    t_left, t_right = (torch.asinh((end - middle) / wide) for end in (left, right))
    step = (t_right - t_left) / n
    t = t_left + step * torch.arange(n + 1, dtype=rho.dtype, device=rho.device)
    v = middle + wide * torch.sinh(t)
    delta, a, b, sin_a, sin_b, sin_ab, log_g = at(v)
    cot_a, cot_b = torch.cos(a) / sin_a, torch.cos(b) / sin_b
    log_g = log_g.clamp_max(650)

    g = log_g.exp()
    floor = g.amin(1, keepdim=True)
    d_delta = (floor - g).exp() * step * wide * torch.cosh(t) * delta * torch.sigmoid(-v)
    rise = g * ((kappa.square() * cot_a + cot_b) / e - e * torch.cos(a + b) / sin_ab)  # of g
    terms = d_delta * torch.stack((g, delta * rise, b * rise))  # (1), and (3) by parts
    sums = terms.sum(2, keepdim=True)
    good = ((2 * terms[..., ::2].sum(2, keepdim=True) - sums).abs() <= 1e-6 * sums).all(0)
    density, deep = sums[0], g0 > _DEEP
    E, C = torch.where(deep, 0.0, sums[1:])
    C = C * (-floor).exp() - rho * torch.expm1(-g0)
    floor = torch.where(g0 > 1e280, g0, floor)
    log_E = E.log() - floor
    log_F = (math.pi * e + kappa * (gap + C)).log()
    log_F = torch.where(low, torch.logaddexp(gap.log(), log_E), log_F)
    log_S = torch.where(low, C.log(), kappa.log() + log_E)
    tails = torch.cat((log_F, log_S), 1).T - math.log(math.pi)
    others = tails.flip(0)  # of the two the smaller is the more precise
    tails = torch.where(tails < others, tails, torch.log1p(-others.exp()))
    log_f = (kappa * density / (math.pi * e)).log() - log_y - floor
    logs = torch.cat((log_f.T, tails))[None]

    if slopes:  # (5), with r y = g sin a / sin(a + b) or g sin b / sin(a + b)
        rest, sin_rest = torch.where(low, b, a), torch.where(low, sin_b, sin_a)  # pi/2 - phi
        log_ry = log_g - sin_ab.log() + torch.where(low, sin_a, sin_b).log()
        uy = log_ry.exp() * torch.complex(sin_rest, -torch.cos(rest))
        log_u = torch.complex(log_ry - log_y, rest - _HALF_PI)
        power = (alpha * log_u).exp()
        rise = torch.where(low, 1.0, kappa) * (kappa * cot_a + cot_b) / e  # of log r
        turn = torch.where(low, -1.0, kappa).expand_as(rest)  # of -phi
        du = torch.complex(rise, turn) * d_delta  # du / u
        in_alpha = 1j * beta * _HALF_PI * (1 + T.square()) - log_u * (1 - 1j * B)
        terms = torch.stack((-1j * uy, power * in_alpha, 1j * power * T))
        in_f = (terms * (uy * du * (e / (kappa * density)))).sum(2).real
        in_S = torch.where(deep[:, 0], 0.0, (terms * du).sum(2).imag / math.pi)
        share = torch.where(tails > -745, (-floor.T - tails).exp(), 0.0)
        found = torch.stack((in_f, -share[0] * in_S, share[1] * in_S), 1)
        found[0] /= y[:, 0]  # last: the sum cancels, and must not underflow before
        logs = torch.cat((logs, found))
    return logs, (good | deep)[:, 0]
