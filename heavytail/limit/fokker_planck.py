r"""The density of the one-dimensional mean-field limit, by its Fokker-Planck equation.

The limit d theta = b(theta, Law theta_t) dt + sigma dL, L symmetric alpha-stable, has the density

    d_t rho = -d_theta(b(theta, rho) rho) - sigma^alpha (-Laplace)^{alpha/2} rho.

The line becomes a circle, [-box, box) with m equal steps. A time step dt is Strang's: half a step
of noise, exactly, by exp(-sigma^alpha |k|^alpha dt / 2) in Fourier; a step of transport, by Fourier
in theta and Runge and Kutta's fourth order in time, in as many pieces as stability needs; half a
step of noise. The error is of order 2 in dt; in dx it falls faster than any power while rho and b
are smooth. Two things are not the line's: the tails overlap (:func:`image_error`), and b is brought
smoothly to 0 over the outer tenth, to be periodic. What transport moves must stay within 0.9 box:
beyond, it stops and piles up.

Source: Strang, SIAM J. Numer. Anal. 5 (1968) 506; Jourdain, Meleard, Woyczynski, ALEA 4 (2008) 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from heavytail import _check
from heavytail.limit.particles import MOST, stable_scale
from heavytail.limit.problem import returned

Drift = Callable[[Tensor, Tensor, float], Tensor]
Elementwise = Callable[[Tensor, Tensor], Tensor]

_SIZES = "[1e-100, 1e100]"  # of boxes: what is computed from them is a float
_EDGE = 0.9  # the part of the box with the drift as given; the rest makes it periodic
_STABLE, _MOST_PIECES = 2.0, 10_000  # |b| k dt of a piece, stable up to 2.8; pieces of a step
_CARRIED = 1e-3  # the mass that transport may bring into the outer tenth beyond what noise has


@dataclass(frozen=True, eq=False)
class Density:
    """A density on the circle [-box, box), by its values at equal steps."""

    box: float  #: the half-width, in [1e-100, 1e100]
    rho: Tensor  #: shape (m,), float64, m even: values at theta, >= 0 and of mass 1 to rounding

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", _check.number("box", self.box, _SIZES))
        object.__setattr__(self, "rho", _check.tensor("rho", self.rho).double())
        if self.rho.dim() != 1 or len(self.rho) % 2 or not len(self.rho):
            raise ValueError(f"rho must be (m,), m even, got {tuple(self.rho.shape)}")
        if fault := _fault(self.rho, self.dx):
            raise ValueError(f"rho must be >= 0 and of mass 1, got {fault}")

    @classmethod
    def start(
        cls,
        box: float,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        points: int | None = None,
        device: torch.device | str | None = None,
    ) -> "Density":
        """Return the Gaussian law N(mean, std^2), scaled to mass 1.

        Args:
            box: half-width of the box, see :func:`box_for`; it holds 99 % of the mass at least.
            mean: finite.
            std: > 0.
            points: m, even, in [16, 2^24]; None is the least power of 2 with a step <= std / 8.
                A drift with b' = -r makes features of width std * exp(-r T), if noise does not
                fill them: take 16 * box / width or more.
            device: where to compute; None is torch's default device.
        """
        box, std = _check.number("box", box, _SIZES), _check.number("std", std, _check.POSITIVE)
        mean, device = _check.number("mean", mean), _check.where(device)
        per_std = _check.number("box / std", box / std, "(0, 1e6]")
        enough = max(16, 2 ** math.ceil(math.log2(16 * per_std)))
        m = _check.count("points", enough if points is None else points, 16, 2**24)
        flat = cls(box, torch.full((m,), 0.5 / box, dtype=torch.float64, device=device))
        rho = torch.exp(-(((flat.theta - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        mass = float(rho.sum()) * flat.dx
        if not abs(mass - 1) <= 0.01:
            raise ValueError(f"the box must hold the mass 1 +- 0.01 of the start, got {mass:g}")
        return cls(box, rho / mass)

    @property
    def dx(self) -> float:
        """The grid's step, 2 box / m."""
        return 2 * self.box / len(self.rho)

    @property
    def theta(self) -> Tensor:
        """The grid -box, -box + dx, ..., box - dx, shape (m,), float64."""
        half = len(self.rho) // 2
        return torch.arange(-half, half, dtype=torch.float64, device=self.rho.device) * self.dx

    def cdf(self, x: Tensor) -> Tensor:
        r"""Return the integral of rho from -box to x, of its Fourier series term by term.

            F(x) = a_0 (x + box) + 2 Re sum_{k > 0} a_k (exp(ik(x + box)) - 1) / (ik)

        ``x`` has any shape and is in [-box, box]; F has its shape, float64.
        """
        return self._cdf("x", x)

    def _cdf(self, name: str, x: Tensor) -> Tensor:
        x = _check.tensor(name, x).to(self.rho)
        _check.numbers(name, x, f"[-{self.box!r}, {self.box!r}]")
        a = torch.fft.rfft(self.rho)[1:-1] / len(self.rho)  # the highest wave is rounding
        k = torch.arange(1, len(a) + 1, dtype=x.dtype, device=x.device) * (math.pi / self.box)
        parts = [  # in blocks: points times wave numbers are many
            self.rho.mean() * y + 2 * ((torch.exp(1j * k * y[:, None]) - 1) @ (a / (1j * k))).real
            for y in (x.flatten() + self.box).split(256)
        ]
        return torch.cat(parts).reshape(x.shape)

    def probability(self, edges: Tensor) -> Tensor:
        """Return P(edges[i] < theta <= edges[i + 1]), shape (n - 1,), for n edges in the box."""
        if (F := self._cdf("edges", edges)).dim() != 1:
            raise ValueError(f"edges must be (n,), got {tuple(F.shape)}")
        return F.diff()

    def beyond(self, x: float) -> float:
        """Return P(|theta| > x), 0 <= x <= box.

        The images of a stable tail take a part of it, for x well below the box alpha times
        :func:`image_error`.
        """
        x = _check.number("x", x, f"[0, {self.box!r}]")
        return 1 - float(self._cdf("x", self.rho.new_tensor([-x, x])).diff())


def _fault(rho: Tensor, dx: float) -> str:
    """Return what makes this no density, or nothing."""
    mass, least = float(rho.sum()) * dx, float(rho.min())
    sound = abs(mass - 1) <= 1e-8 and least >= -1e-8 * float(rho.max())
    return "" if sound else f"mass {mass:.12g}, least value {least:.3g}"


def image_error(alpha: float, x: float, box: float) -> float:
    r"""Return by which part of itself a stable tail at x grows as the line becomes a circle.

    A tail c |x|^{-alpha-1}, 0 < x < box, meets its images at x + 2 box k; none at alpha = 2:

        sum_{k > 0} ((2 box k - x) / x)^{-alpha-1} + ((2 box k + x) / x)^{-alpha-1}
    """
    alpha, box = _check.number("alpha", alpha, "(0, 2]"), _check.number("box", box, _check.POSITIVE)
    x = _check.number("x", x, f"(0, {box!r})")
    return _check.number("the sum for this alpha", _images(alpha, x, box))


def _images(alpha: float, x: float, box: float) -> float:
    """Return the sum of :func:`image_error`; inf where alpha + 1 is rounded to 1."""
    r, power = x / box / 2, alpha + 1
    if alpha == 2 or r == 0:
        return 0.0
    q = torch.tensor([1 - r, 1 + r], dtype=torch.float64, device="cpu")
    return float(torch.special.zeta(power, q).sum() * r**power)


def box_for(
    alpha: float, sigma: float, T: float, reach: float, *, tolerance: float = 0.01, std: float = 1.0
) -> float:
    """Return a half-width of the box whose images change rho_T(reach) by ``tolerance`` at most.

    At least 5/4 of ``reach``, where the drift is as given, and 8 standard deviations of start and
    Gaussian noise, sqrt(std^2 + 2 sigma^2 T), more than it; beyond that as :func:`image_error` asks
    at ``reach``, the largest |theta| of interest, transport included, or at the size of the body if
    that is larger. ``std`` is the width of the start; lengths are in [1e-100, 1e100];
    others are those of :func:`evolve`.
    """
    alpha = _check.number("alpha", alpha, "(0, 2]")
    sigma, T = (_check.number(*v, _check.NONNEGATIVE) for v in (("sigma", sigma), ("T", T)))
    reach, std = (_check.number(*v, _SIZES) for v in (("reach", reach), ("std", std)))
    tolerance = _check.number("tolerance", tolerance, _check.POSITIVE)
    x = max(reach, std + stable_scale(sigma, T, alpha))
    box = max(1.25 * x, reach + 8 * math.hypot(std, sigma * math.sqrt(2 * T)))
    while _images(alpha, x, box) > tolerance:
        box *= 1.01
    return _check.number("the box for alpha, sigma, T, reach, tolerance and std", box, _SIZES)


def mean_field_drift(
    h: Elementwise, dh: Elementwise, dloss: Elementwise, x: Tensor, y: Tensor
) -> Drift:
    r"""Return b(theta, rho) = -mean_x[ d_1 loss(integral h_x rho, y) d_theta h_x(theta) ].

    The integral is over the box: an unbounded h loses what lies beyond it.

    Args:
        h: the neuron, h(x, theta): x of shape (N, 1) and theta of shape (m,) give (N, m).
        dh: its derivative in theta, of the same shapes.
        dloss: the loss's derivative in its first argument: outputs (N,) and y (N,) give (N,).
        x: inputs, (N, 1), N >= 1, floating point, finite.
        y: targets, (N,), the same.
    """
    for name, given in (("h", h), ("dh", dh), ("dloss", dloss)):
        _check.function(name, given)
    for name, data in (("x", x), ("y", y)):
        _check.numbers(name, _check.tensor(name, data))
    if y.dim() != 1 or not len(y) or x.shape != (len(y), 1):
        got = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"x and y must have shapes (N, 1) and (N,), N >= 1, got {got}")

    @lru_cache(maxsize=1)  # the grid is the same in all steps
    def neurons(theta: Tensor) -> tuple[Tensor, Tensor]:
        at, shape = x.to(theta), (len(x), len(theta))
        value = returned("what h returns", h(at, theta), shape)
        return value, returned("what dh returns", dh(at, theta), shape)

    def drift(theta: Tensor, density: Tensor, dx: float) -> Tensor:
        value, slope = neurons(theta)
        f = value @ density * dx
        return returned("what dloss returns", dloss(f, y.to(f)), y.shape, f) @ slope / -len(x)

    return drift


def evolve(
    start: Density, drift: Drift | None, *, alpha: float, sigma: float, T: float, steps: int
) -> Density:
    """Return the density a time T later, by the scheme at the top of this module.

    Args:
        start: the density at time 0, or what an earlier call has returned.
        drift: maps theta (m,), the density (m,) and the grid's step to b (m,), float64; None is 0.
        alpha: stability index in (0, 2].
        sigma: scale of the noise, >= 0.
        T: time, >= 0.
        steps: number of time steps, in [1, 10^9].

    An ``ArithmeticError`` says that a step ends with rho below 0 by 1e-8 of its maximum or a mass
    off 1 by 1e-8, that b needs more than 10,000 pieces of it, or that transport has brought to the
    outer tenth, less what it took away, more than 1e-3 and what start and noise have brought there.
    """
    alpha = _check.number("alpha", alpha, "(0, 2]")
    sigma = _check.number("sigma", sigma, _check.NONNEGATIVE)
    dt = _check.number("T", T, _check.NONNEGATIVE) / _check.count("steps", steps, 1, MOST)
    if not isinstance(start, Density):
        raise TypeError(f"start must be a Density, got {start!r:.60}")
    b: Drift = (lambda theta, rho, dx: torch.zeros_like(theta)) if drift is None else drift
    _check.function("drift, if not None,", b)
    theta, rho, dx, m = start.theta, start.rho, start.dx, len(start.rho)
    wave = torch.fft.rfftfreq(m, dx / (2 * math.pi), dtype=theta.dtype, device=theta.device)
    fade = torch.exp(-((sigma * wave) ** alpha) * dt / 2)
    derivative = -1j * wave  # the highest wave has no sine on the grid: irfft drops it
    outer = ((theta.abs() / start.box - _EDGE) / (1 - _EDGE)).clamp(0, 1)
    window = torch.sigmoid(1 / outer - 1 / (1 - outer))  # 1 inside, 0 at the edge, smooth
    beyond, carried = (outer > 0).to(theta) * dx, 0.0
    rfft, irfft = torch.fft.rfft, partial(torch.fft.irfft, n=m)

    def velocity(rho: Tensor) -> Tensor:
        return returned("what drift returns", b(theta, rho, dx), theta.shape, rho) * window

    def change(rho: Tensor) -> Tensor:
        out: Tensor = irfft(rfft(velocity(rho) * rho) * derivative)
        return out

    for step in range(1, steps + 1):
        rho = irfft(rfft(rho) * fade)
        carried -= float(beyond @ rho)
        needed = float(velocity(rho).abs().max()) * dt * math.pi / dx / _STABLE
        if not needed <= _MOST_PIECES:
            raise ArithmeticError(f"the drift needs {needed:.3g} pieces a step: take more steps")
        pieces = max(1, math.ceil(needed))
        tau = dt / pieces
        for _ in range(pieces):
            k1 = change(rho)
            k2 = change(rho + tau / 2 * k1)
            k3 = change(rho + tau / 2 * k2)
            k4 = change(rho + tau * k3)
            rho = rho + tau / 6 * (k1 + 2 * (k2 + k3) + k4)
        carried += float(beyond @ rho)
        rho = irfft(rfft(rho) * fade)
        if fault := _fault(rho, dx):
            raise ArithmeticError(f"step {step} ends with {fault}: take more points, or more steps")
        if carried > _CARRIED and 2 * carried > _CARRIED + float(beyond @ rho):
            got = f"the mass {carried:.3g} beyond {_EDGE:g} box = {_EDGE * start.box:g}"
            raise ArithmeticError(f"by step {step} the drift has carried {got}: take a larger box")
    return Density(start.box, rho)
