r"""The mean-field particle system with heavy-tailed noise, and its Euler scheme.

The particles of :mod:`heavytail.limit.problem` follow

    d theta^i = b(theta^i, mu^n) dt + sigma dL^i,

with independent alpha-stable Levy processes L^i: a time t adds t^{1/alpha} xi^i in law, xi^i a
vector of :func:`heavytail.noise_vectors`. The Euler scheme takes K steps of size eta = T / K,

    theta^i <- theta^i + eta b(theta^i, mu^n) + sigma eta^{1/alpha} xi^i,

which is gradient descent on the risk with noise, since b is -n times its gradient. As n grows each
particle approaches its limit, driven by the same noise and by the law of the limit instead of mu^n;
:mod:`heavytail.limit.coupling` measures how fast. All of this room raise ``TypeError`` or
``ValueError`` on an argument outside the sets that they name.

Source: Y. Wan, M. Barsbey, A. Zaidi, U. Simsekli, Implicit compressibility of overparametrized
neural networks trained with heavy-tailed SGD, ICML 2024 (arXiv 2306.08125), section 3.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heavytail import _check
from heavytail.limit.problem import MeanField, System, check_problem
from heavytail.noise import KINDS, noise_blocks

MOST_STEPS = 10**9  # of a single particle they take a day


class Scheme:
    """The Euler scheme: K steps of size eta = T / K, with noise of scale sigma eta^{1/alpha}."""

    def __init__(
        self, T: float, steps: int, alpha: float, sigma: float, kind: str, dtype: torch.dtype | None
    ) -> None:
        self.steps = _check.count("steps", steps, 1, MOST_STEPS)
        self.eta = _check.number("T", T, _check.POSITIVE) / self.steps
        self.alpha = _check.number("alpha", alpha, "(0, 2]")
        sigma = _check.number("sigma", sigma, _check.NONNEGATIVE)
        self.kind = _check.one_of("kind", kind, KINDS)
        self.dtype = _check.place(None, None, dtype)[1]
        power = torch.tensor(self.eta, dtype=torch.float64, device="cpu") ** (1 / self.alpha)
        self.noise_scale = sigma and sigma * float(power)
        floats = torch.finfo(self.dtype)
        if sigma and not floats.tiny <= self.noise_scale <= floats.max:
            held = f"[{floats.tiny:.3g}, {floats.max:.3g}], what {self.dtype} holds"
            got = f"{self.noise_scale:g} at alpha {alpha:g}"
            raise ValueError(f"sigma eta^(1/alpha) must be 0 or in {held}, got {got}")

    def run(
        self,
        systems: Sequence[System],
        sources: Sequence[Sequence[System]],
        generators: Sequence[torch.Generator],
    ) -> Iterator[int]:
        """Advance the systems; yield the number of steps taken: 0, 1, ..., K.

        A source draws noise for the widest of its systems, and moves one of m particles by the
        first m vectors. Each generator has an equal share of a system's particles, and vectors of
        its own. A long stride takes its drift at once, and all noise as it comes.
        """
        yield 0
        for k in range(self.steps):
            due = [system for system in systems if k % system.stride == 0]
            for system in due:
                system.f = system.outputs()
            # theta <- theta + eta b(theta, mu) + sigma eta^{1/alpha} xi
            for system in due:
                for block, b in system.drift(system.driver.f):
                    system.theta[block].add_(b, alpha=self.eta * system.stride)
            for theta, xi in self._noise(sources, generators):
                theta.add_(xi, alpha=self.noise_scale)
            yield k + 1

    def _noise(
        self, sources: Sequence[Sequence[System]], generators: Sequence[torch.Generator]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw the noise of a step: yield particles (m, p) and the vectors that move them."""
        for systems in sources if self.noise_scale else ():
            shares = [system.theta.flatten(0, 1).chunk(len(generators)) for system in systems]
            n = max(len(share[0]) for share in shares)
            d, device = shares[0][0].shape[1], shares[0][0].device
            for generator, *thetas in zip(generators, *shares, strict=True):
                source = (generator, device, self.dtype)
                for rows, xi, factors in noise_blocks(self.kind, self.alpha, n, d, *source):
                    if factors is not None:
                        xi.mul_(factors)
                    for theta in thetas:
                        moved = theta[rows]  # fewer or none, in a narrower system
                        yield moved, xi[: len(moved)]


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

    Time is linear in n and in the number of data. Memory is that of the particles and a few
    numbers more a particle, whatever the number of steps and of data.

    Args:
        problem: neuron, loss, data and initial law.
        n: number of particles, >= 1.
        T: end time, > 0.
        steps: number of steps, in [1, 10^9]; eta = T / steps.
        alpha: stability index in (0, 2].
        sigma: scale of the noise, >= 0, in the unit of theta over time^{1/alpha}; sigma
            eta^{1/alpha}, which is small where alpha is, must be a float of the dtype. Particles
            that leave the floats (alpha below 0.15 in float32, 0.02 in float64) become inf or nan.
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
    check_problem(problem)
    rows = _check.count("n", n, 1) * _check.count("systems", 1 if systems is None else systems, 1)
    generator = generator_on(seed, device)
    scheme = Scheme(T, steps, alpha, sigma, kind, dtype)
    times = [T * j / 10 for j in range(11)] if times is None else times
    wanted = times.tolist() if isinstance(times, Tensor) else list(times)
    most = T * (1 + 1e-6)  # products round up, as the last of the default's may, and so do float32
    if not all(0 <= _check.number("each of times", time) <= most for time in wanted):
        raise ValueError(f"times must be in [0, {T:g}], got {wanted}")
    marks = {min(round(time / T * steps), steps) for time in wanted}
    seen: list[Tensor] = []
    with torch.no_grad():
        theta = problem._starts(rows, generator, scheme.dtype).unflatten(0, (-1, n))
        system = System(problem, theta)
        particles = theta[0] if systems is None else theta
        for k in scheme.run([system], [[system]], [generator]):
            if observe is not None and k in marks:
                if not isinstance(found := observe(particles), Tensor):
                    raise TypeError(f"what observe returns must be a tensor, got {found!r}")
                seen.append(found.clone())
    at = torch.tensor(sorted(marks), dtype=torch.float64) * scheme.eta
    return Trajectory(particles, at, torch.stack(seen) if seen else None)


def generator_on(seed: int, device: torch.device | str | None) -> torch.Generator:
    """Return a generator with this seed on the device, None being torch's default."""
    place = torch.get_default_device() if device is None else torch.device(device)
    return torch.Generator(place).manual_seed(_check.seed("seed", seed))
