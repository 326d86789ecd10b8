"""Heavy-tailed noise on the columns of weights: the vectors, and the hook that adds them.

A column is a hidden unit's incoming weights: a row of ``nn.Linear.weight``, a filter of a
convolution. Training with step size eta = ``lr`` becomes

    W_i <- W_i - eta * (gradient step) + scale * eta^{1/alpha} * xi_i,

with one independent noise vector xi_i for each column i and step. The factor eta^{1/alpha} makes
it the Euler scheme of an SDE driven by an alpha-stable Levy process: over K steps the noise adds
up, in law, to scale * (eta K)^{1/alpha} * xi.

Three kinds of xi in R^d, all with S(alpha)S(1) coordinates:

- ``"shared"`` (type I): zeta * (1, ..., 1), one scalar zeta ~ S(alpha)S(1) for all coordinates;
- ``"independent"`` (type II): i.i.d. S(alpha)S(1) coordinates;
- ``"isotropic"`` (type III): sqrt(2 A) G, A standard positive (alpha/2)-stable, G ~ N(0, I_d).

At alpha = 2 every coordinate is N(0, 2), so that the kinds stay on one scale.

Source: Wan, Barsbey, Zaidi and Simsekli 2024 (arXiv 2306.08125), whose types I, II, III these are.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from heavytail import _check
from heavytail import layers as _layers
from heavytail.laws.draws import draw, tail_constant
from heavytail.laws.maps import log_positive_from_uniforms, symmetric_from_uniforms

KINDS = ("shared", "independent", "isotropic")
NUMERALS = dict(zip(KINDS, ("I", "II", "III"), strict=True))  # the types of the paper
COLUMNS = ("filter", "kernel")

# Numbers a block of noise has on a CPU: it stays in the cache until it is added. Elsewhere a block
# only bounds the memory.
_BLOCK = 1 << 15
_DEVICE_BLOCK = 1 << 26


def noise_vectors(
    kind: str,
    alpha: float,
    n: int,
    d: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw n independent noise vectors in R^d.

    =================  ========================  ==========================================
    kind               E exp(i<u, xi>)           c in P(\|xi\| > r) ~ c r^-alpha, alpha < 2
    =================  ========================  ==========================================
    ``"shared"``       exp(-\|sum u_j\|^alpha)   d^{alpha/2} C_alpha
    ``"independent"``  exp(-sum \|u_j\|^alpha)   d C_alpha
    ``"isotropic"``    exp(-\|u\|^alpha)         2^alpha Gamma((d + alpha)/2)
                                                 / (Gamma(d/2) Gamma(1 - alpha/2))
    =================  ========================  ==========================================

    C_alpha is :func:`heavytail.tail_constant`, c is :func:`noise_tail_constant`.

    Args:
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``, types I, II and III.
        alpha: stability index in (0, 2].
        n: number of vectors, >= 0.
        d: their dimension, >= 0.
        generator: source of the random bits; None is torch's global generator.
        device: where to draw; None is the generator's device, else torch's default device.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.

    Returns:
        Tensor of shape (n, d). Where a coordinate leaves the floats (alpha well below 1), inf.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.
    """
    _check.one_of("kind", kind, KINDS)
    alpha = _check.number("alpha", alpha, "(0, 2]")
    n, d = _check.count("n", n), _check.count("d", d)
    device, dtype = _check.place(generator, device, dtype)
    out = torch.empty((n, d), device=device, dtype=dtype)
    for rows, noise, factors in noise_blocks(kind, alpha, n, d, generator, device, dtype):
        out[rows] = noise if factors is None else noise.mul_(factors)
    return out


def noise_tail_constant(kind: str, alpha: float, d: int) -> float:
    r"""Return c in P(\|xi\| > r) ~ c r^-alpha, for the noise vectors of :func:`noise_vectors`.

    A stable Levy process at time t has t times this constant.

    Args:
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        alpha: stability index in (0, 2]; at 2 the tail is Gaussian and the constant is 0.
        d: dimension, >= 1.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Nolan 2020, Theorem 1.2, for d = 1. One jump makes the tail: of type I it has the norm
    sqrt(d) times its coordinate's, of type II it is in one of d coordinates; for type III the tail
    of the subordinator, P(A > x) ~ x^{-alpha/2} / Gamma(1 - alpha/2), is multiplied by
    E (sqrt(2) \|G\|)^alpha.
    """
    _check.one_of("kind", kind, KINDS)
    c, d = tail_constant(alpha), _check.count("d", d, 1)
    if kind == "shared":
        return float(d ** (alpha / 2)) * c
    if kind == "independent" or alpha == 2:
        return d * c
    log = math.lgamma((d + alpha) / 2) - math.lgamma(d / 2) - math.lgamma(1 - alpha / 2)
    return float(2**alpha) * math.exp(log)


def noise_blocks(
    kind: str,
    alpha: float,
    n: int,
    d: int,
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Yield the noise vectors of :func:`noise_vectors` in blocks: which rows, vectors, factors.

    Vectors have shape (rows, d), or (rows, 1) for the shared kind, one number for all coordinates,
    and may be written to. The isotropic kind's are still to be multiplied by factors of shape
    (rows, 1); the other kinds have none. Arguments are those of :func:`noise_vectors`, checked.
    """
    place = generator, device, dtype
    if kind == "shared":
        yield slice(0, n), draw(symmetric_from_uniforms, (alpha,), (n, 1), *place), None
        return
    step = max(1, (_BLOCK if device.type == "cpu" else _DEVICE_BLOCK) // max(d, 1))
    blocks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    if kind == "independent":
        for rows in blocks:
            size = (rows.stop - rows.start, d)
            yield rows, draw(symmetric_from_uniforms, (alpha,), size, *place), None
        return
    log_A = draw(log_positive_from_uniforms, (alpha / 2,), (n, 1), *place)
    radius = log_A.mul_(0.5).exp_()  # sqrt(A): A itself may overflow
    normal = torch.empty((min(step, n), d), device=device, dtype=dtype)
    for rows in blocks:
        vectors = normal[: rows.stop - rows.start]
        yield rows, vectors.normal_(std=math.sqrt(2), generator=generator), radius[rows]


def as_columns(weight: Tensor, column: str) -> Tensor:
    """Return the columns of a weight as rows (columns, d): a view, if it is contiguous.

    ``column`` is what a column of a convolution is, see :class:`StableNoise`.
    """
    leading = 2 if column == "kernel" and weight.dim() > 2 else 1
    n, d = math.prod(weight.shape[:leading]), math.prod(weight.shape[leading:])
    return weight.contiguous().view(n, d)


def add_block(
    columns: Tensor, vectors: Tensor, factors: Tensor | None, size: float | Tensor
) -> None:
    """Add ``size`` times a block of :func:`noise_blocks` to columns, shape (rows, d), in place."""
    if isinstance(size, Tensor):
        vectors.mul_(size)
        size = 1.0
    floats = torch.finfo(vectors.dtype)
    size = min(size, floats.max)
    if size < floats.tiny:  # 0 times inf is no number
        vectors.clamp_(-floats.max, floats.max)
    if factors is None:
        columns.add_(vectors, alpha=size)
    else:
        columns.addcmul_(vectors, factors, value=size)


def _power(lr: float | Tensor, exponent: float) -> float | Tensor:
    """Return lr^exponent, inf where it leaves the floats; lr is not looked at on an accelerator."""
    if isinstance(lr, Tensor) and lr.device.type != "cpu":
        return lr**exponent
    try:
        return float(_check.number("lr", float(lr), "[0, inf)") ** exponent)
    except OverflowError:
        return math.inf


def hidden_weights(
    model: nn.Module, *, exclude: _layers.Layer | Iterable[_layers.Layer] | None = None
) -> list[nn.Parameter]:
    """Return the weights that get noise: all of dimension >= 2 but those of ``exclude``.

    Args:
        model: any module.
        exclude: layers to leave out, as modules or names, with all inside them. None leaves out
            ``model.head``; () leaves out nothing. Nothing is guessed from shapes. A weight that
            is shared with a layer left out is left out.

    Returns:
        The parameters, each once, in the order of ``model.named_modules()``.

    Raises:
        ValueError: if ``exclude`` is None and the model has no ``head`` (the message lists its
            layers), if a layer is not in the model, or if no weight is left.
        TypeError: if the model is no module, or a layer neither a module nor a name.
    """
    hidden = _layers.hidden(model, exclude)
    inside = {id(layer) for layer in hidden.values()}
    tied = {  # a hidden layer may share its weight with one that is left out
        id(parameter)
        for layer in _layers.weighted(model).values()
        if id(layer) not in inside
        for parameter in layer.parameters(recurse=False)
    }
    weights = {
        id(parameter): parameter
        for layer in hidden.values()
        for parameter in layer.parameters(recurse=False)
        if parameter.dim() >= 2 and id(parameter) not in tied
    }
    if not weights:
        raise ValueError(f"every weight is shared with a layer left out: {_layers.listed(hidden)}")
    return list(weights.values())


class StableNoise:
    r"""Add heavy-tailed noise to chosen weights after each step of an optimizer.

    After every ``optimizer.step()``, each column W_i of each parameter in ``params`` becomes

        W_i + scale * lr^{1/alpha} * xi_i,

    with ``lr`` read from the parameter's group at that step, and fresh noise vectors xi_i of the
    given kind (see :func:`noise_vectors`). A step that is not taken, for want of a call or
    because a ``GradScaler`` skips it, adds no noise.

        >>> model = torch.nn.Linear(140, 2000, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> noise = StableNoise(optimizer, [model.weight], alpha=1.75, scale=0.003, seed=0)

    Parameters are visited in the order of the optimizer's groups, and one generator for each
    device, seeded with ``seed``, is all the randomness there is: same seed, same device, same
    noise. float16 and bfloat16 weights get noise drawn in float32, added and rounded once.

    Replicas of a model (DistributedDataParallel) stay equal to the bit if each process attaches the
    noise with the same seed: nothing is sent. Parameters that are spread over devices (FSDP, tensor
    parallel) are refused.

    Nothing waits for the device: a step with noise reads nothing back to the host. On a CPU the
    blocks are small enough to need no memory to speak of.

    Each instance adds its own noise: attach it once for each optimizer (a second one on the same
    parameter warns), and again to a copy, which takes no hooks along. Every chosen parameter gets
    noise, also one that is frozen or has no gradient in a step.

    Attributes:
        alpha: stability index, unitless, in (0, 2]; may be changed between steps.
        scale: sigma >= 0, in the unit of the weights over lr^{1/alpha}; may be changed between
            steps; at 0 nothing is drawn.
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``; fixed.
        column: what a column of a convolution is: ``"filter"``, all that feeds an output channel,
            or ``"kernel"``, the part of it from one input channel; fixed. The columns of a matrix
            are its rows in either case.

    Source: Wan, Barsbey, Zaidi and Simsekli 2024 (arXiv 2306.08125), the algorithm.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        params: Iterable[nn.Parameter],
        *,
        alpha: float,
        scale: float,
        kind: str = "shared",
        column: str = "filter",
        seed: int,
    ) -> None:
        """Attach to ``optimizer``; ``params`` are parameters of its groups, of dimension >= 2.

        Raises:
            TypeError, ValueError: on an argument outside the sets above, no parameters at all,
                a parameter the optimizer does not hold, or one without columns. Nothing is
                attached then.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}")
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise TypeError(f"params must be an iterable of parameters, got {type(params)}")
        self.alpha = alpha
        self.scale = scale
        self._kind = _check.one_of("kind", kind, KINDS)
        self._column = _check.one_of("column", column, COLUMNS)
        self._seed = _check.seed("seed", seed)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._chosen = {id(parameter): _with_columns(parameter, held) for parameter in params}
        if not self._chosen:
            raise ValueError("params must hold at least one parameter, got none")
        for hook in optimizer._optimizer_step_post_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, StableNoise) and other._chosen.keys() & self._chosen.keys():
                warnings.warn(
                    f"the optimizer has noise on one of these parameters, {other!r}, and both will "
                    "add up: remove() the first if that is not meant",
                    stacklevel=2,
                )
        self._generators: dict[torch.device, torch.Generator] = {}
        self._handle = optimizer.register_step_post_hook(self._after_step)

    def __repr__(self) -> str:
        return (
            f"StableNoise(alpha={self.alpha:g}, scale={self.scale:g}, kind={self.kind!r}, "
            f"column={self.column!r}, seed={self._seed}; parameters: {len(self._chosen)})"
        )

    @property
    def alpha(self) -> float:
        """Stability index in (0, 2]."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._alpha = _check.number("alpha", value, "(0, 2]")

    @property
    def scale(self) -> float:
        """Scale sigma >= 0."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale = _check.number("scale", value, "[0, inf)")

    @property
    def kind(self) -> str:
        """Kind of the noise vectors."""
        return self._kind

    @property
    def column(self) -> str:
        """What a column of a convolution is."""
        return self._column

    def remove(self) -> None:
        """Detach from the optimizer, which is left as it was. A second call does nothing."""
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the coming noise depends on, in tensors, numbers and strings."""
        return {
            "alpha": self.alpha,
            "scale": self.scale,
            "kind": self.kind,
            "column": self.column,
            "seed": self._seed,
            "generators": {str(d): g.get_state() for d, g in self._generators.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the noise from where :meth:`state_dict` was taken.

        Raises:
            TypeError, ValueError: if the state is no dictionary, of another kind of noise, or
                lacks an entry; the noise is left as it was.
        """
        _refuse_incomplete(state, set(self.state_dict()))
        for name in ("kind", "column"):
            if state[name] != getattr(self, name):
                mine = getattr(self, name)
                raise ValueError(f"{name} must be {mine!r}, the state's is {state[name]!r}")
        alpha = _check.number("alpha", state["alpha"], "(0, 2]")
        scale = _check.number("scale", state["scale"], "[0, inf)")
        seed = _check.seed("seed", state["seed"])
        if not isinstance(state["generators"], dict):
            raise TypeError(f"generators must be a dictionary, got {state['generators']!r}")
        generators = {}
        for name, bits in state["generators"].items():
            generators[torch.device(name)] = torch.Generator(name)
            generators[torch.device(name)].set_state(bits.cpu())  # wherever it was loaded to
        self._alpha, self._scale, self._seed = alpha, scale, seed
        self._generators = generators

    @torch.no_grad()
    def _after_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Add scale * lr^{1/alpha} * xi_i to each column of each chosen parameter."""
        if self.scale == 0:
            return
        # A fused optimizer runs its skipped steps too; only the device knows that it skipped.
        skipped: Tensor | None = getattr(optimizer, "found_inf", None)
        for group in optimizer.param_groups:
            size = self.scale * _power(group["lr"], 1 / self.alpha)
            for parameter in group["params"]:
                drawn = isinstance(size, Tensor) or size > 0
                if id(parameter) in self._chosen and parameter.numel() and drawn:
                    self._add_noise(parameter, size, skipped)

    def _add_noise(self, parameter: Tensor, size: float | Tensor, skipped: Tensor | None) -> None:
        columns, device = as_columns(parameter, self._column), parameter.device
        dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
        place = self._generator_on(device), device, dtype
        for rows, xi, factors in noise_blocks(self._kind, self._alpha, *columns.shape, *place):
            if skipped is not None:
                xi.masked_fill_(skipped.to(device).bool(), 0)
            add_block(columns[rows], xi, factors, size)
        if not parameter.is_contiguous():  # the columns are a copy
            parameter.copy_(columns.view(parameter.shape))

    def _generator_on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _with_columns(parameter: object, held: set[int]) -> Tensor:
    """Return a parameter that can get noise: of dimension >= 2, on one device, ``held`` by id."""
    if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
        raise TypeError(f"params must hold floating-point tensors, got {parameter!r}")
    shape = tuple(parameter.shape)
    if id(parameter) not in held:
        raise ValueError(f"a parameter of shape {shape} is not in the optimizer")
    if parameter.dim() < 2:
        raise ValueError(
            f"a parameter needs dimension >= 2 to have columns, got shape {shape}; "
            "flattened ones (FSDP) have none"
        )
    if type(parameter).__module__.startswith("torch.distributed"):
        raise TypeError(
            "a parameter that is spread over devices cannot get noise: each would draw "
            f"its own; got a {type(parameter).__name__}. Replicas (DDP) can"
        )
    return parameter


def _refuse_incomplete(state: object, names: set[str]) -> None:
    """Refuse a state that is no dictionary or lacks an entry."""
    if not isinstance(state, dict):
        raise TypeError(f"the state must be a dictionary, got {type(state)}")
    if names - set(state):
        raise ValueError(f"the state lacks {sorted(names - set(state))}")


class LambdaNoise:
    """Change the noise from step to step, as ``torch.optim.lr_scheduler.LambdaLR`` does the rate.

    After k calls of :meth:`step`, ``noise.scale`` is ``scale(k)`` times what it was at the start,
    and ``noise.alpha`` is ``alpha(k)``; k = 0 is set at once.

        >>> cooling = LambdaNoise(noise, scale=lambda k: 1 / (1 + k) ** 0.5)
        >>> for batch in batches:
        ...     ...
        ...     optimizer.step()
        ...     cooling.step()

    Args:
        noise: what to change.
        scale: factor >= 0 of the scale at step k = 0, 1, ...; None leaves the scale alone.
        alpha: stability index in (0, 2] at step k; None leaves it alone.

    Raises:
        TypeError: if ``noise`` is no :class:`StableNoise`, or a function cannot be called.
        ValueError: if both functions are None, or a value is outside its set.
    """

    def __init__(
        self,
        noise: StableNoise,
        *,
        scale: Callable[[int], float] | None = None,
        alpha: Callable[[int], float] | None = None,
    ) -> None:
        if not isinstance(noise, StableNoise):
            raise TypeError(f"noise must be a StableNoise, got {noise!r}")
        if scale is None and alpha is None:
            raise ValueError("give at least one of scale and alpha, got neither")
        for name, function in (("scale", scale), ("alpha", alpha)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function of the step, got {function!r}")
        self._noise, self._scale, self._alpha = noise, scale, alpha
        self._set(0, noise.scale)

    @property
    def steps(self) -> int:
        """Number of calls of :meth:`step`."""
        return self._steps

    def step(self) -> None:
        """Set scale and index of the next step."""
        self._set(self._steps + 1, self._first)

    def state_dict(self) -> dict[str, Any]:
        """Return the step and the scale at the start; the functions are not part of it."""
        return {"steps": self._steps, "first_scale": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken.

        Raises:
            TypeError, ValueError: if an entry is missing or outside its set; all is left as it was.
        """
        _refuse_incomplete(state, set(self.state_dict()))
        first = _check.number("first_scale", state["first_scale"], "[0, inf)")
        self._set(_check.count("steps", state["steps"]), first)

    def _set(self, steps: int, first: float) -> None:
        """Set the noise as it is after so many steps from the first scale: all of it or nothing."""
        scale, alpha = self._noise.scale, self._noise.alpha
        if self._scale is not None:
            scale = _check.number("scale", first * self._scale(steps), "[0, inf)")
        if self._alpha is not None:
            alpha = _check.number("alpha", self._alpha(steps), "(0, 2]")
        self._noise._scale, self._noise._alpha = scale, alpha
        self._steps, self._first = steps, first
