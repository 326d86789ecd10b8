r"""The mean-field problem: data, neuron, loss, start and signs; outputs and drift of particles.

The n columns of a wide layer are particles theta^1, ..., theta^n. With neuron h and signs a_i,

    f(x) = (1/n) sum_i a_i h(x, theta^i),
    b(theta^i, mu^n) = -E[l'(f(x), y) a_i grad h(x, theta^i)],

where l' = d l / d f, E is the mean over the data and mu^n the law of a particle picked at random,
with its sign; f depends on it alone. The drift b is -n times the gradient of the risk E l(f(x), y).

Source: Wan et al. 2024, as for :mod:`heavytail.limit.particles`.
"""

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heavytail import _check

Function = Callable[[Tensor, Tensor], Tensor]
Map = Callable[[Tensor], Tensor]

# Neurons' outputs in a block: they stay in the cache. On a device a block only bounds the memory.
_BLOCK, _DEVICE_BLOCK = 1 << 18, 1 << 25
_KEPT = 1 << 22  # outputs are kept for the gradient up to this many, and computed again beyond


# Named neurons, h(z) = outer g(inner z) + shift: g, written over its argument; its slope as a
# function of g; inner, outer, shift. With the logistic g, tanh takes a fifth of torch's time.
_LOGISTIC: tuple[Map, Map] = (Tensor.sigmoid_, lambda s: torch.addcmul(s, s, s, value=-1))
_NAMED: dict[str, tuple[Map, Map, int, int, int]] = {
    "tanh": (*_LOGISTIC, 2, 2, -1),
    "sigmoid": (*_LOGISTIC, 1, 1, 0),
    "relu": (Tensor.relu_, torch.sign, 1, 1, 0),
    "linear": (lambda z: z, torch.ones_like, 1, 1, 0),
}


@dataclass(frozen=True, eq=False)
class MeanField:
    """A mean-field problem: data, neuron, loss, initial law, output signs.

    Attributes:
        x: shape (N, d), floating point, finite: the inputs.
        y: shape (N,), floating point, finite: the targets; -1 and 1 for the logistic loss.
        h: the neuron. ``"tanh"``, ``"sigmoid"``, ``"relu"`` or ``"linear"`` is act(<theta, x>);
            else a function (x, theta) -> scalar of one input (d,) and one particle (p,), for
            ``torch.func.vmap`` and ``torch.func.vjp``.
        loss: ``"squared"``, l = (f - y)^2 / 2; ``"logistic"``, l = log(1 + exp(-y f)); else a
            function (f, y) -> l, elementwise, all of shape (systems, N), for ``torch.func.grad``.
        start: the initial law: a function (n, generator) -> (n, p) of n i.i.d. rows, called once
            for all systems, or for the widest, whose first rows narrower ones take; a tensor (p,),
            for all particles; None, N(0, I_d).
        signs: a_i: None is 1 for all; ``"alternating"`` is 1, -1, 1, ...; a tensor of fixed signs,
            of which a system of n particles has the first n.

    What functions return is checked in use: its shape, and that it is finite for finite arguments.
    Outputs and drift of particles that are inf or nan may be nan.
    """

    x: Tensor
    y: Tensor
    h: str | Function = "tanh"
    loss: str | Function = "squared"
    start: Tensor | Callable[[int, torch.Generator], Tensor] | None = None
    signs: str | Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            _check.numbers(name, _check.tensor(name, getattr(self, name)))
        if self.x.dim() != 2 or 0 in self.x.shape or self.y.shape != self.x.shape[:1]:
            got = f"{tuple(self.x.shape)} and {tuple(self.y.shape)}"
            raise ValueError(f"x and y must have shapes (N, d) and (N,), N, d >= 1, got {got}")
        if not callable(self.h):
            _check.one_of("h, if no function,", self.h, _NAMED)
        if not callable(self.loss):
            _check.one_of("loss, if no function,", self.loss, ("squared", "logistic"))
        if self.loss == "logistic" and (wrong := self.y[self.y.abs() != 1]).numel():
            raise ValueError(f"y must be -1 or 1 for the logistic loss, got {wrong[0]:g}")
        if self.start is not None and not callable(self.start):
            _check.numbers("start", _check.tensor("start", self.start))
            self._fits("start", self.start, "", self.start.dim() == 1)
        if isinstance(a := self.signs, Tensor):
            if a.dim() != 1 or a.is_complex() or not a.isfinite().all():
                raise ValueError(f"signs must be real and finite, of shape (n,), got {a!r:.80}")
        elif a is not None:
            _check.one_of("signs, if no tensor,", a, ("alternating",))

    def __repr__(self) -> str:
        shown = (f"{k}={reprlib.repr(getattr(self, k))}" for k in ("h", "loss", "start", "signs"))
        return f"MeanField({', '.join(shown)})"

    def predict(self, theta: Tensor) -> Tensor:
        """Return f(x) for all data, shape (..., N), for particles of shape (..., n, p)."""
        with torch.no_grad():
            return self._systems(theta).outputs().view(*theta.shape[:-2], -1)

    def drift(self, theta: Tensor) -> Tensor:
        """Return b(theta^i, mu^n), shape (..., n, p), for particles of shape (..., n, p)."""
        systems = self._systems(theta)
        out = torch.empty_like(systems.theta)
        with torch.no_grad():
            for block, b in systems.drift(systems.outputs()):
                out[block] = b
        return out.reshape(theta.shape)

    def _fits(self, name: str, value: Tensor, leading: str, fits: bool) -> None:
        """Refuse particles of another shape, or empty; p is d for the named neurons."""
        p = "p" if callable(self.h) else self.x.shape[1]
        got = tuple(value.shape)
        if not fits or 0 in got or p not in ("p", got[-1]):
            raise ValueError(f"{name} must have shape ({leading}{p}), all >= 1, got {got}")

    def _systems(self, theta: Tensor) -> "System":
        theta = _check.tensor("theta", theta).detach()
        self._fits("theta", theta, "..., n, ", theta.dim() >= 2)
        return System(self, theta.reshape(-1, *theta.shape[-2:]))

    def _starts(self, n: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draw n starts, (n, p), in memory of their own."""
        device, d = generator.device, self.x.shape[1]
        if self.start is None:
            return torch.randn((n, d), generator=generator, device=device, dtype=dtype)
        if isinstance(self.start, Tensor):
            theta = self.start.expand(n, -1)
        else:
            theta = _check.tensor("what start returns", self.start(n, generator))
            self._fits("what start returns", theta, f"{n}, ", theta.dim() == 2 and len(theta) == n)
        theta = theta.detach().to(device, dtype, copy=True).contiguous()
        _check.numbers(f"what start returns, in {dtype},", theta)
        return theta


class System:
    """Systems of n particles each, theta (systems, n, p), changed in place, and their drift.

    The drift depends on the outputs f, (systems, N), of the ``driver``: the system itself, but for
    tracers. A step is taken every ``stride`` steps of the clock.
    """

    def __init__(
        self, problem: MeanField, theta: Tensor, driver: "System | None" = None, stride: int = 1
    ) -> None:
        self.theta, self.stride = theta, stride
        self.driver = self if driver is None else driver
        self.f = theta.new_empty(0)
        self._h, self._loss = problem.h, problem.loss
        named = "linear" if callable(self._h) else self._h
        self._g, self._slope, inner, self._outer, self._shift = _NAMED[named]
        self._x, self._y = inner * problem.x.detach().to(theta), problem.y.detach().to(theta)
        (systems, n, _), N = theta.shape, len(self._x)
        self._signs = _signs(problem.signs, n, theta)
        for name, held in (("x", self._x), ("y", self._y), ("signs", self._signs)):
            _check.numbers(f"{name}, in {theta.dtype},", held)
        rows = max(1, (_BLOCK if theta.device.type == "cpu" else _DEVICE_BLOCK) // N)
        at_once = max(1, rows // n)  # whole systems, or parts of one
        self._blocks = [
            (slice(s, s + at_once), slice(i, i + rows))
            for s in range(0, systems, at_once)
            for i in range(0, n, rows)
        ]
        self._keeps = not callable(self._h) and systems * n * N <= _KEPT
        self._kept: list[Tensor | None] = [None] * len(self._blocks)

    def outputs(self) -> Tensor:
        """Return f = (1/n) sum_i a_i h(x, theta^i), shape (systems, N)."""
        f = self.theta.new_zeros((len(self.theta), len(self._x)), dtype=torch.float64)
        for j, (s, i) in enumerate(self._blocks):
            H = self._neurons(self.theta[s, i], self._kept[j])
            f[s] += H @ self._signs[i]
            self._kept[j] = H if self._keeps else None
        f = (self._outer * f + self._shift * self._signs.sum()) / self.theta.shape[1]
        return f.to(self.theta)

    def drift(self, f: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Yield b(theta, mu) in blocks, (systems, n, p); f are the outputs of mu."""
        weights = _loss_slope(self._loss, f, self._y) * (-self._outer / len(self._x))
        for (s, i), H in zip(self._blocks, self._kept, strict=True):
            theta, w = self.theta[s, i], weights[s]
            if callable(self._h):
                pull = torch.func.vjp(self._values, theta.flatten(0, 1))[1]
                b = pull(w[:, None].expand(*theta.shape[:2], -1).flatten(0, 1))[0].view_as(theta)
                returned("the gradient of h", b, theta.shape, theta, w)
            else:
                slope = self._slope(self._neurons(theta) if H is None else H)
                b = ((w[..., None] * self._x).mT @ slope).mT
            yield (s, i), b * self._signs[i, None]

    def _neurons(self, theta: Tensor, out: Tensor | None = None) -> Tensor:
        """Return g, (systems, N, n), of particles (systems, n, p): data first is faster."""
        if callable(self._h):
            return self._values(theta.flatten(0, 1)).view(*theta.shape[:2], -1).mT
        return self._g(torch.bmm(self._x.expand(len(theta), -1, -1), theta.mT, out=out))

    def _values(self, rows: Tensor) -> Tensor:
        """Return a function h for particles (m, p) and all data: (m, N)."""

        def h(x: Tensor, theta: Tensor) -> Tensor:
            assert callable(self._h)
            return _check.tensor("what h returns", self._h(x, theta))

        over_x = torch.func.vmap(h, (0, None))
        H = torch.func.vmap(over_x, (None, 0))(self._x, rows)
        return returned(
            "what h returns, of particles and data,", H, (len(rows), len(self._x)), rows
        ).to(rows)


def _signs(signs: str | Tensor | None, n: int, like: Tensor) -> Tensor:
    """Return a_1, ..., a_n."""
    if signs is None:
        return like.new_ones(n)
    if isinstance(signs, str):
        return (1 - 2 * (torch.arange(n, device=like.device) % 2)).to(like)
    if len(signs) < n:
        raise ValueError(f"signs must hold {n} entries or more, got {len(signs)}")
    return signs.detach()[:n].to(like)


def _loss_slope(loss: str | Function, f: Tensor, y: Tensor) -> Tensor:
    """Return l'(f, y), the shape of f."""
    if not callable(loss):
        return f - y if loss == "squared" else -y * torch.sigmoid(-y * f)

    def total(f: Tensor) -> Tensor:
        return returned("what loss returns", loss(f, y.expand_as(f)), f.shape, f).sum()

    return returned("the slope of loss", torch.func.grad(total)(f), f.shape, f)


def returned(name: str, value: object, shape: Sequence[int], *arguments: Tensor) -> Tensor:
    """Return what a user's function did: a real tensor of this shape, finite as the arguments."""
    found = _check.tensor(name, value)
    if found.shape != torch.Size(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(found.shape)}")
    if not math.isfinite(found.sum().item()) and all(each.isfinite().all() for each in arguments):
        for wrong in found[~found.isfinite()]:  # none: finite numbers have a sum that is not
            raise ValueError(f"{name} must be finite for finite arguments, got {wrong.item():g}")
    return found
