r"""The mean-field particle system with heavy-tailed noise, and its Euler scheme.

The particles of :mod:`heavytail.limit.problem` follow

    d theta^i = b(theta^i, mu^n) dt + sigma dL^i,

with independent alpha-stable Levy processes L^i: a time t adds t^{1/alpha} xi^i in law, xi^i a
vector of :func:`heavytail.noise_vectors`. The Euler scheme takes K steps of size eta = T / K,

    theta^i <- theta^i + eta b(theta^i, mu^n) + sigma eta^{1/alpha} xi^i,

which is gradient descent on the risk with noise. As n grows each particle approaches its limit,
driven by the same noise and by the law of the limit instead of mu^n.

Source: Y. Wan, M. Barsbey, A. Zaidi, U. Simsekli, Implicit compressibility of overparametrized
neural networks trained with heavy-tailed SGD, ICML 2024 (arXiv 2306.08125), section 3.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heavytail import _check
from heavytail.limit.problem import MeanField, System
from heavytail.noise import KINDS, noise_blocks

MOST = 10**9  # steps and particles: so many steps of one particle take a day


def stable_scale(sigma: float, t: float, alpha: float) -> float:
    """Return the scale of the noise in a time t, sigma t^{1/alpha}; inf beyond the floats."""
    power = torch.tensor(t, dtype=torch.float64, device="cpu") ** (1 / alpha)
    return sigma and sigma * float(power)


def entries_of(name: str, values: object) -> Iterable[Any]:
    """Return the entries of a sequence, a tensor or a numpy array."""
    entries: object = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r:.60}")
    return entries


class Scheme:
    """The Euler scheme of a problem, in K = ``steps`` steps."""

    def __init__(
        self,
        problem: MeanField,
        T: float,
        steps: int,
        alpha: float,
        sigma: float,
        kind: str,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        if not isinstance(problem, MeanField):
            raise TypeError(f"problem must be a MeanField, got {problem!r}")
        self.steps = _check.count("steps", steps, 1, MOST)
        self.T = _check.number("T", T, _check.POSITIVE)
        self.eta = self.T / self.steps
        self.alpha = _check.number("alpha", alpha, "(0, 2]")
        sigma = _check.number("sigma", sigma, _check.NONNEGATIVE)
        self.kind = _check.one_of("kind", kind, KINDS)
        self.device, self.dtype = _check.place(None, device, dtype)
        if self.device.type == "meta":
            raise ValueError("device must be one that computes, got meta")
        self.noise_scale = stable_scale(sigma, self.eta, self.alpha)
        floats = torch.finfo(self.dtype)
        if sigma:  # 0 would lose the noise, and inf make particles nan
            _check.number("sigma eta^(1/alpha)", self.noise_scale, f"[{floats.tiny}, {floats.max}]")

    def run(
        self, systems: list[System], sources: list[list[System]], generator: torch.Generator
    ) -> Iterator[int]:
        """Advance the systems, those of a source by one noise; yield the steps taken, 0 to K."""
        yield 0
        for k in range(self.steps):
            due = [system for system in systems if k % system.stride == 0]
            for system in due:
                system.f = system.outputs()
            # theta <- theta + eta b(theta, mu) + sigma eta^{1/alpha} xi, b for a stride at once
            for system in due:
                for block, b in system.drift(system.driver.f):
                    system.theta[block].add_(b, alpha=self.eta * system.stride)
            for sharing in sources if self.noise_scale else ():
                self._add_noise(sharing, generator)
            yield k + 1

    def _add_noise(self, systems: list[System], generator: torch.Generator) -> None:
        """Add a step's noise, drawn for the widest of the systems."""
        thetas = [system.theta.flatten(0, 1) for system in systems]
        (n, d), source = max(thetas, key=len).shape, (generator, generator.device, self.dtype)
        for rows, xi, factors in noise_blocks(self.kind, self.alpha, n, d, *source):
            if factors is not None:
                xi.mul_(factors)
            for theta in thetas:
                moved = theta[rows]  # fewer or none, in a narrower system
                moved.add_(xi[: len(moved)], alpha=self.noise_scale)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What :func:`simulate` returns."""

    particles: Tensor  #: shape (n, p), or (systems, n, p): theta at time T
    times: Tensor  #: shape (m,), float64: when the particles were observed
    observed: Tensor | None = None  #: shape (m, ...): what was observed then; None where nothing


def simulate(
    problem: MeanField,
    n: int,
    *,
    T: float,
    steps: int,
    alpha: float,
    sigma: float,
    kind: str,
    seed: int,
    systems: int | None = None,
    observe: Callable[[Tensor], Tensor] | None = None,
    times: Iterable[float] | Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Trajectory:
    r"""Run the Euler scheme theta^i <- theta^i + eta b(theta^i, mu^n) + sigma eta^{1/alpha} xi^i.

    Memory is that of a few numbers a particle, whatever the number of steps and of data.

    Args:
        problem: neuron, loss, data and initial law.
        n: number of particles, in [1, 10^9].
        T: end time, > 0.
        steps: number of steps, in [1, 10^9]; eta = T / steps.
        alpha: stability index in (0, 2].
        sigma: scale of the noise, >= 0, in the unit of theta over time^{1/alpha}. Particles that
            leave the floats (alpha below 0.15 in float32, 0.02 in float64) become inf or nan.
        kind: of the noise, as in :func:`heavytail.noise_vectors`.
        seed: in [0, 2^64): starts and noise. Same seed, same device, same bits.
        systems: number of independent systems at once; None is one, without that dimension.
        observe: a function of the particles, (n, p) or (systems, n, p), not to be written to, that
            returns a tensor of one shape, as ``torch.clone`` or ``problem.predict``; copied.
        times: when to observe, in [0, T] up to rounding, each moved to the nearest step; they come
            back in order, each once. None is 11 times from 0 to T.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.
        device: where to compute; None is torch's default device.
    """
    scheme = Scheme(problem, T, steps, alpha, sigma, kind, dtype, device)
    rows = _check.count("n", n, 1) * _check.count("systems", 1 if systems is None else systems, 1)
    _check.count("n, times systems,", rows, 1, MOST)
    generator = torch.Generator(scheme.device).manual_seed(_check.seed("seed", seed))
    if observe is not None:
        _check.function("observe", observe)
    T = scheme.T
    wanted = (T * (j / 10) for j in range(11)) if times is None else entries_of("times", times)
    most = f"[0, {T * (1 + 1e-6)!r}]"  # a float32 may be above T
    shares = [_check.number("each of times", time, most) / T for time in wanted]
    marks = {round(min(share, 1.0) * steps) for share in shares}
    seen: list[Tensor] = []
    with torch.no_grad():
        theta = problem._starts(rows, generator, scheme.dtype).unflatten(0, (-1, n))
        system = System(problem, theta)
        particles = theta[0] if systems is None else theta
        for k in scheme.run([system], [[system]], generator):
            if observe is not None and k in marks:
                if not isinstance(found := observe(particles), Tensor):
                    raise TypeError(f"what observe returns must be a tensor, got {found!r}")
                seen.append(found.clone())
    at = torch.tensor(sorted(marks), dtype=torch.float64, device=theta.device) * scheme.eta
    return Trajectory(particles, at, torch.stack(seen) if seen else None)
