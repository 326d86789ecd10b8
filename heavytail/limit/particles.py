r"""The mean-field particle system with heavy-tailed noise, and its Euler scheme.

The n columns of a wide layer are particles theta^1, ..., theta^n. With neuron h and signs a_i,

    f(x) = (1/n) sum_i a_i h(x, theta^i),
    b(theta^i, mu^n) = -E[l'(f(x), y) a_i grad h(x, theta^i)],

where l' = d l / d f, E is the mean over the data and mu^n the law of a particle picked at random,
with its sign, to which f belongs. Gradient descent on the risk E l(f(x), y) with noise is the Euler
scheme, in K steps of size eta = T / K, of

    d theta^i = b(theta^i, mu^n) dt + sigma dL^i:
    theta^i <- theta^i + eta b(theta^i, mu^n) + sigma eta^{1/alpha} xi^i,

since -n grad_i of the risk is b. The L^i are independent alpha-stable Levy processes: a time t adds
t^{1/alpha} xi^i in law, xi^i a vector of :func:`heavytail.noise_vectors`, new in each step. As n
grows each particle approaches its limit, driven by the same noise and by the law of the limit
itself instead of mu^n; :mod:`heavytail.limit.coupling` measures how fast.

Reference:
    Y. Wan, M. Barsbey, A. Zaidi, U. Simsekli, Implicit compressibility of overparametrized neural
    networks trained with heavy-tailed SGD, ICML 2024 (arXiv 2306.08125).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heavytail import _check
from heavytail.noise import KINDS, noise_blocks

Neuron = Callable[[Tensor, Tensor], Tensor]
Loss = str | Callable[[Tensor, Tensor], Tensor]
Law = Callable[[int, torch.Generator], Tensor]
Signs = str | Tensor | Callable[[Tensor], Tensor] | None

ACTIVATIONS = ("tanh", "sigmoid", "relu", "linear")

# Neurons' outputs in a block: they stay in the cache. On a device a block only bounds the memory.
_BLOCK, _DEVICE_BLOCK = 1 << 18, 1 << 25

# Outputs are kept for the gradient up to this many numbers, and computed again beyond.
_KEPT = 1 << 22


@dataclass(frozen=True, eq=False)
class MeanField:
    """A mean-field problem: data, neuron, loss, initial law, output signs.

    Attributes:
        x: shape (N, d), floating point, finite: the inputs.
        y: shape (N,), floating point, finite: the targets; -1 and 1 for the logistic loss.
        h: the neuron. ``"tanh"``, ``"sigmoid"``, ``"relu"`` or ``"linear"`` is act(<theta, x>);
            else a function (x, theta) -> scalar of one input (d,) and one particle (p,), made of
            torch operations that ``torch.func.vmap`` and ``torch.func.vjp`` take.
        loss: ``"squared"``, l = (f - y)^2 / 2; ``"logistic"``, l = log(1 + exp(-y f)); else the
            loss itself, a function (f, y) -> l, elementwise, of f and y of one shape,
            (systems, N), made of torch operations that ``torch.func.grad`` takes: not reduced.
        start: the initial law: a function (n, generator) -> (n, p) of n i.i.d. rows, called once
            for systems times n rows (:func:`simulate`) or for those of the widest system, the
            first of which narrower ones take; a tensor (p,), for all particles; None, N(0, I_d).
        signs: a_i: None is 1 for all; ``"alternating"`` is 1, -1, 1, ...; a tensor of fixed signs,
            drawn at random or not, of which a system of n particles has the first n; else a
            function from the indices 0, ..., n - 1, an int64 tensor, to a tensor (n,), with a_i
            dependent on i alone: not on n, nor on chance.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Wan et al. 2024, section 3.
    """

    x: Tensor
    y: Tensor
    h: str | Neuron = "tanh"
    loss: Loss = "squared"
    start: Tensor | Law | None = None
    signs: Signs = None

    def __post_init__(self) -> None:
        x, y = _check.any_tensor("x", self.x), _check.any_tensor("y", self.y)
        _check.real_or_tensor("x", x)
        _check.real_or_tensor("y", y)
        if x.dim() != 2 or 0 in x.shape:
            raise ValueError(f"x must have shape (N, d), N, d >= 1, got {tuple(x.shape)}")
        if y.shape != x.shape[:1]:
            raise ValueError(f"y must have shape ({len(x)},), got {tuple(y.shape)}")
        _word("h", self.h, ACTIVATIONS, "a function (x, theta)")
        _word("loss", self.loss, ("squared", "logistic"), "a function (f, y)")
        if self.loss == "logistic" and not bool((y.abs() == 1).all()):
            raise ValueError(f"y must be -1 or 1 for the logistic loss, got {y[y.abs() != 1][0]:g}")
        if isinstance(self.start, Tensor):
            _check.real_or_tensor("start", self.start)
            self._check("start", self.start, self.start.dim() == 1, "(p,)")
        elif self.start is not None and not callable(self.start):
            raise TypeError(f"start must be a tensor, a function or None, got {self.start!r}")
        if isinstance(self.signs, Tensor):
            if self.signs.dim() != 1 or not bool(torch.isfinite(self.signs).all()):
                raise ValueError(f"signs must be finite, of shape (n,), got {self.signs}")
        elif self.signs is not None:
            _word("signs", self.signs, ("alternating",), "None, a tensor or a function of i")

    def _check(self, name: str, value: Tensor, fits: bool, shape: str) -> None:
        """Refuse particles not of this shape, empty, or with p != d for the named neurons."""
        if not fits or 0 in value.shape:
            raise ValueError(f"{name} must have shape {shape}, all >= 1, got {tuple(value.shape)}")
        if not callable(self.h) and value.shape[-1] != (d := self.x.shape[1]):
            raise ValueError(f"{name} must be of dimension {d} as x, got {tuple(value.shape)}")

    def predict(self, theta: Tensor) -> Tensor:
        """Return f(x) for all data, shape (..., N), for particles of shape (..., n, p)."""
        system = self._system("theta", theta, "(..., n, p)")
        with torch.no_grad():
            return system.outputs().view(*theta.shape[:-2], len(self.x))

    def drift(self, theta: Tensor, system: Tensor | None = None) -> Tensor:
        """Return b(theta^i, mu) for each particle; the sign of particle i is a_i.

        Args:
            theta: shape (n, p), where the drift is wanted.
            system: shape (m, p), the particles of mu, of the dtype and on the device of ``theta``;
                None is ``theta`` itself.

        Returns:
            Tensor of shape (n, p).

        Raises:
            TypeError, ValueError: on shapes other than these.
        """
        driver = points = self._system("theta", theta, "(n, p)")
        if system is not None:
            driver = self._system("system", system, "(m, p)")
            wanted, got = (f"p = {v.shape[1]}, {v.dtype} on {v.device}" for v in (theta, system))
            if got != wanted:
                raise ValueError(f"system must be as theta, {wanted}, got {got}")
        out = torch.zeros_like(points.theta)
        with torch.no_grad():
            f = driver.outputs()
            if points is not driver:
                points.outputs()  # fills in what the gradient needs
            points.push(f, 1.0, out)
        return out[0]

    def _system(self, name: str, theta: Tensor, shape: str) -> "System":
        if not _check.any_tensor(name, theta).is_floating_point():
            raise TypeError(f"{name} must be floating-point, got dtype {theta.dtype}")
        self._check(name, theta, theta.dim() == 2 or (theta.dim() > 2 and "..." in shape), shape)
        return System(self, theta.detach().reshape(-1, *theta.shape[-2:]))

    def _starts(self, n: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draw n starts, (n, p), in memory of their own."""
        device = generator.device
        if self.start is None:
            d = self.x.shape[1]
            theta = torch.randn((n, d), generator=generator, device=device, dtype=dtype)
            if callable(self.h):
                try:
                    self.h(self.x[0].to(theta), theta[0])
                except Exception as error:
                    raise ValueError(
                        f"start= is needed: h fails on a particle of shape ({d},), {error}"
                    ) from error
            return theta
        if isinstance(self.start, Tensor):
            return self.start.detach().to(device, dtype).repeat(n, 1)
        theta = _check.any_tensor("what start returns", self.start(n, generator))
        self._check("what start returns", theta, theta.shape[:-1] == (n,), f"({n}, p)")
        return theta.detach().to(device, dtype, copy=True).contiguous()


class System:
    """Systems of n particles each, and what they need for a step.

    Attributes:
        theta: shape (systems, n, p), changed in place.
        driver: the system whose f is in the drift: itself, but for tracers.
        stride: a step is taken every so many steps of the clock.
        f: shape (systems, N), as of the last step.
    """

    def __init__(
        self, problem: MeanField, theta: Tensor, driver: "System | None" = None, stride: int = 1
    ) -> None:
        self.theta, self.stride = theta, stride
        self.driver = self if driver is None else driver
        self.f = theta.new_empty(0)
        self._x, self._y = problem.x.detach().to(theta), problem.y.detach().to(theta)
        self._h, self._loss = problem.h, problem.loss
        systems, n, _ = theta.shape
        signs = _signs(problem.signs, n, theta)
        self._signs, self._weights = signs, theta.new_ones(n) if signs is None else signs
        # tanh z = 2 s(2z) - 1 with s the logistic function, which is computed faster.
        self._inner, self._outer, self._shift = (2, 2, -1) if self._h == "tanh" else (1, 1, 0)
        N = len(self._x)
        block = _BLOCK if theta.device.type == "cpu" else _DEVICE_BLOCK
        blocks = list(_blocks(systems, n, max(1, block // N)))
        sizes = [(s.stop - s.start) * N * (i.stop - i.start) for s, i in blocks]
        self._keeps = sum(sizes) <= _KEPT
        # A function's outputs are tensors of their own: its blocks are of shape alone.
        empty = theta.new_empty(()).expand if callable(self._h) else theta.new_empty
        room = empty((sum(sizes) if self._keeps else max(sizes),))
        self._slope = empty((max(sizes),))
        self._blocks, begin = [], 0
        for (s, i), size in zip(blocks, sizes, strict=True):
            H = room[begin : begin + size].view(s.stop - s.start, N, i.stop - i.start)
            self._blocks.append((s, i, H))
            begin += size if self._keeps else 0

    def outputs(self) -> Tensor:
        """Return f, shape (systems, N)."""
        f = self.theta.new_zeros((len(self.theta), len(self._x)), dtype=torch.float64)
        for s, i, H in self._blocks:
            if callable(self._h):
                rows = self.theta[s, i].flatten(0, 1)
                H = self._neurons(rows).view(H.shape[0], H.shape[2], -1).mT
            else:
                self._fill(s, i, H)
            f[s] += H @ self._weights[i]
        f = (self._outer * f + self._shift * self._weights.sum()) / self.theta.shape[1]
        return f.to(self.theta.dtype)

    def push(self, f: Tensor, eta: float, out: Tensor | None = None) -> None:
        """Add eta b to the particles, or to ``out``; :meth:`outputs` comes first."""
        out = self.theta if out is None else out
        V = _loss_slope(self._loss, f, self._y) * (-eta / len(self._x))
        VX = V[..., None] * (self._x * (self._inner * self._outer))
        for s, i, H in self._blocks:
            if callable(self._h):
                pull = torch.func.vjp(self._neurons, self.theta[s, i].flatten(0, 1))[1]
                (b,) = pull(V[s][:, None].expand_as(H.mT).flatten(0, 1))
                b = b.view_as(out[s, i]).mT
            elif self._h == "linear":
                b = VX[s].sum(1)[..., None]
            else:
                if not self._keeps:
                    self._fill(s, i, H)
                G = self._slope[: H.numel()].view(H.shape)
                if self._h == "relu":
                    torch.sign(H, out=G)
                else:
                    torch.addcmul(H, H, H, value=-1, out=G)
                b = torch.bmm(VX[s].mT, G)
            out[s, i] += (b if self._signs is None else b * self._signs[i]).mT

    def _fill(self, s: slice, i: slice, H: Tensor) -> None:
        """Write the activations of a block: data by particles, the faster way round."""
        x = (self._x * self._inner).expand(len(H), *self._x.shape)
        torch.bmm(x, self.theta[s, i].mT, out=H)
        if self._h == "relu":
            H.clamp_(min=0)
        elif self._h != "linear":
            H.sigmoid_()

    def _neurons(self, rows: Tensor) -> Tensor:
        """Return h for particles (m, p) and all data: (m, N)."""
        assert callable(self._h)
        over_x = torch.func.vmap(self._h, (0, None))
        H: Tensor = torch.func.vmap(over_x, (None, 0))(self._x, rows)
        if H.shape != (len(rows), len(self._x)):
            raise ValueError(f"h must return a scalar, got shape {tuple(H.shape[2:])}")
        return H


def _blocks(systems: int, n: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Cut (systems, n) into blocks of at most ``rows`` particles: whole systems or parts of one."""
    at_once = max(1, rows // n)
    for s in range(0, systems, at_once):
        for i in range(0, n, rows):
            yield slice(s, min(s + at_once, systems)), slice(i, min(i + rows, n))


def _signs(signs: Signs, n: int, like: Tensor) -> Tensor | None:
    if signs is None:
        return None
    index = torch.arange(n, device=like.device)
    if isinstance(signs, Tensor):
        if len(signs) < n:
            raise ValueError(f"signs must hold {n} entries or more, got {len(signs)}")
        return signs.detach()[:n].to(like)
    if not callable(signs):
        return (1 - 2 * (index % 2)).to(like)
    half = (n + 1) // 2
    calls = (signs(index[:m].clone()) for m in (n, n, half))
    a, again, first = (_check.any_tensor("what signs returns", call) for call in calls)
    if a.shape != (n,):
        raise ValueError(f"signs must return shape ({n},), got {tuple(a.shape)}")
    if not (torch.equal(a, again) and torch.equal(a[:half], first)):
        raise ValueError(
            f"signs must depend on i alone: the first {half} of {n} change, with n or from call to "
            "call, which is chance; give random signs as a tensor"
        )
    return a.to(like)


def _loss_slope(loss: Loss, f: Tensor, y: Tensor) -> Tensor:
    """Return l'(f, y), the shape of f."""
    if not callable(loss):
        return f - y if loss == "squared" else -y * torch.sigmoid(-y * f)

    def total(f: Tensor) -> Tensor:
        value = _check.any_tensor("what loss returns", loss(f, y.expand_as(f)))
        if value.shape != f.shape:
            got = tuple(value.shape)
            raise ValueError(f"loss must return the shape of f, {tuple(f.shape)}, got {got}")
        return value.sum()

    slope: Tensor = torch.func.grad(total)(f)
    return slope


def _word(name: str, value: object, words: Sequence[str], others: str) -> None:
    """Refuse what is neither a function nor one of the words."""
    if not callable(value) and not (isinstance(value, str) and value in words):
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name} must be one of {sorted(words)}, or {others}, got {value!r}")


@dataclass(frozen=True)
class Scheme:
    """K steps of size T / K, and the noise that comes with each, in floats of the dtype."""

    T: float
    steps: int
    alpha: float
    sigma: float
    kind: str
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        _check.positive("T", self.T)
        _check.count("steps", self.steps, least=1)
        _check.index("alpha", self.alpha, 2)
        _check.nonnegative("sigma", self.sigma)
        _check.one_of("kind", self.kind, KINDS)
        floats = torch.finfo(self.dtype)
        if self.sigma and not floats.tiny <= self.scale <= floats.max:
            raise ValueError(
                f"sigma eta^(1/alpha) must be 0 or in [{floats.tiny:.3g}, {floats.max:.3g}], what "
                f"{self.dtype} holds, got {self.scale:g} at alpha {self.alpha:g}"
            )

    @property
    def scale(self) -> float:
        """The scale of the noise of a step, sigma eta^{1/alpha}."""
        try:
            return self.sigma * math.pow(self.T / self.steps, 1 / self.alpha)
        except OverflowError:
            return math.inf if self.sigma else 0.0

    def run(
        self,
        systems: Sequence[System],
        noise: Sequence[tuple[int, Sequence[System]]],
        generators: Sequence[torch.Generator],
    ) -> Iterator[int]:
        """Advance the systems; yield the number of steps taken after each.

        ``noise`` holds, for each source of n vectors a step, the systems that it moves: a system
        of m particles by the first m. Each generator has an equal share of a system's particles,
        and a source of its own. Drifts enter at once and noise as it comes, so that at the end of
        a long stride all of it has been added.
        """
        eta, scale = self.T / self.steps, self.scale
        sources = []  # views are cut once: they take time too
        for n, moved in noise if scale else ():
            shares = [system.theta.flatten(0, 1).chunk(len(generators)) for system in moved]
            sources.append((n, list(zip(*shares, strict=True))))
        for k in range(self.steps):
            due = [system for system in systems if k % system.stride == 0]
            for system in due:
                system.f = system.outputs()
            for system in due:
                system.push(system.driver.f, eta * system.stride)
            for n, shares_of in sources:
                for thetas, generator in zip(shares_of, generators, strict=True):
                    self._kick(thetas, n, scale, generator)
            yield k + 1

    def _kick(
        self, thetas: Sequence[Tensor], n: int, scale: float, generator: torch.Generator
    ) -> None:
        """Draw n noise vectors and add the first m to each theta, (m, p)."""
        d, dtype = thetas[0].shape[1], thetas[0].dtype
        source = (generator, thetas[0].device, dtype)
        for rows, xi, factors in noise_blocks(self.kind, self.alpha, n, d, *source):
            if factors is not None:
                xi.mul_(factors)
            for theta in thetas:
                m = min(rows.stop, len(theta)) - rows.start
                if m > 0:
                    theta[rows.start : rows.start + m].add_(xi[:m], alpha=scale)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What :func:`simulate` returns.

    Attributes:
        particles: shape (n, p), or (systems, n, p): theta at time T.
        times: shape (m,), float64: when the particles were observed.
        observed: shape (m, ...): what was observed at these times; None where nothing was.
    """

    particles: Tensor
    times: Tensor
    observed: Tensor | None = None


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
        steps: number of steps, >= 1; eta = T / steps.
        alpha: stability index in (0, 2].
        sigma: scale of the noise, >= 0, in the unit of theta over time^{1/alpha}; sigma
            eta^{1/alpha}, which is small where alpha is, must be a float of the dtype. Particles
            that leave the floats (alpha below 0.15 in float32, 0.02 in float64) become inf or nan.
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``, see
            :func:`heavytail.noise_vectors`.
        seed: in [0, 2^64): starts and noise. Same seed, same device, same bits.
        systems: None for one system; else so many independent ones at once.
        observe: a function of the particles at a time, (n, p) or (systems, n, p), to a tensor of
            one shape, as ``torch.clone`` or ``problem.predict``; copied. The particles are those
            of the run, not to be written to. None observes nothing.
        times: when to observe, in [0, T] up to rounding, each moved to the nearest step; they come
            back in order, each once. None is 11 times from 0 to T.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.
        device: where to compute; None is torch's default device.

    Returns:
        The particles at time T, and what was observed.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Wan et al. 2024, section 3.
    """
    check_problem(problem)
    n, shape = _check.count("n", n, least=1), (1 if systems is None else systems)
    generator = generator_on(seed, device)
    dtype = _check.place(generator, None, dtype)[1]
    scheme = Scheme(T, steps, alpha, sigma, kind, dtype)
    count = _check.count("systems", shape, least=1)
    times = [T * j / 10 for j in range(11)] if times is None else times
    wanted = times.tolist() if isinstance(times, Tensor) else list(times)
    most = T * (1 + 1e-6)  # products round up, as the last of the default's may, and so do float32
    if not all(0 <= _check.real("each of times", time) <= most for time in wanted):
        raise ValueError(f"times must be in [0, {T:g}], got {wanted}")
    marks = {min(round(time / T * steps), steps) for time in wanted}
    seen: list[Tensor] = []
    with torch.no_grad():
        theta = problem._starts(count * n, generator, dtype).view(count, n, -1)
        system = System(problem, theta)
        particles = theta[0] if systems is None else theta

        def look(k: int) -> None:
            if observe is not None and k in marks:
                seen.append(_check.any_tensor("what observe returns", observe(particles)).clone())

        look(0)
        for k in scheme.run([system], [(count * n, [system])], [generator]):
            look(k)
    at = torch.tensor(sorted(marks), dtype=torch.float64) * (T / steps)
    return Trajectory(particles, at, torch.stack(seen) if seen else None)


def check_problem(problem: object) -> None:
    """Refuse what is no problem."""
    if not isinstance(problem, MeanField):
        raise TypeError(f"problem must be a MeanField, got {problem!r}")


def generator_on(seed: int, device: torch.device | str | None) -> torch.Generator:
    """Return a generator with this seed on the device, None being torch's default."""
    place = torch.get_default_device() if device is None else torch.device(device)
    return torch.Generator(place).manual_seed(_check.seed("seed", seed))
