"""Heavy-tailed noise on the columns of weights: the vectors, and the hook that adds them.

A column is a hidden unit's incoming weights: a row of ``nn.Linear.weight``, a filter of a
convolution. Training with step size eta = ``lr`` becomes

    W_i <- W_i - eta * (gradient step) + scale * eta^{1/alpha} * xi_i,

with one noise vector xi_i for each column i and step, all independent. Over K steps the noise adds
up, in law, to scale * (eta K)^{1/alpha} * xi, as in the Euler scheme of a stable-driven SDE. Three
kinds of xi in R^d, all with S(alpha)S(1) coordinates, N(0, 2) at alpha = 2:

- ``"shared"`` (type I): zeta * (1, ..., 1), one scalar zeta ~ S(alpha)S(1) for all coordinates;
- ``"independent"`` (type II): i.i.d. S(alpha)S(1) coordinates;
- ``"isotropic"`` (type III): sqrt(2 A) G, A standard positive (alpha/2)-stable, G ~ N(0, I_d).

Source: Wan, Barsbey, Zaidi and Simsekli 2024 (arXiv 2306.08125), whose types I, II, III these are.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from heavytail import _check
from heavytail.laws import chambers_mallows_stuck as maps
from heavytail.laws.draws import draw, tail_constant
from heavytail.layers import COLUMNS, as_columns, home_of, movable, units_first
from heavytail.layers import hidden_weights as hidden_weights

KINDS = ("shared", "independent", "isotropic")
NUMERALS = dict(zip(KINDS, ("I", "II", "III"), strict=True))  # the types of the paper

# Numbers of a block, which stays in a CPU's cache until it is added, and elsewhere bounds memory.
_BLOCK = 1 << 15
_DEVICE_BLOCK = 1 << 26
_Place = tuple[torch.Generator | None, torch.device, torch.dtype]
_OfStep = Callable[[int], float]


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

    C_alpha is :func:`heavytail.tail_constant`, c is :func:`noise_tail_constant`. The result has
    shape (n, d). Where a coordinate leaves the floats (alpha well below 1), it is inf or, of the
    isotropic kind, of the order of the largest.

    Args:
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        alpha: stability index in (0, 2].
        n: number of vectors, >= 0.
        d: their dimension, >= 0.
        generator: source of the random bits; None is torch's global generator.
        device: where to draw; None is the generator's device, else torch's default device.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.
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
    r"""Return c in P(\|xi\| > r) ~ c r^-alpha, of the table at :func:`noise_vectors`.

    Args:
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        alpha: stability index in (0, 2]; at 2 the tail is Gaussian and the constant is 0.
        d: dimension, >= 1.

    Source: Nolan 2020, Theorem 1.2, for d = 1. One jump makes the tail: of type I in all d
    coordinates, of type II in one; of type III that of A, P(A > x) ~ x^{-alpha/2} /
    Gamma(1 - alpha/2), is multiplied by E (sqrt(2) \|G\|)^alpha.
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
    kind: str, alpha: float, n: int, d: int, *place: *_Place
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Yield the vectors of :func:`noise_vectors` in blocks: which rows, vectors, factors.

    Vectors have shape (rows, d), of the shared kind (rows, 1), and may be written to. Those of the
    isotropic kind are still to be multiplied by the factors, (rows, 1); others have none.
    """
    (generator, device, dtype), floats = place, torch.finfo(place[-1])
    d = 1 if kind == "shared" else d
    step = max(1, (_BLOCK if device.type == "cpu" else _DEVICE_BLOCK) // max(d, 1))
    if kind == "isotropic":
        log_A = draw(maps.log_positive_from_uniforms, (alpha / 2,), (n, 1), *place)
        # sqrt(A), since A itself may overflow; never 0 or inf, whose products may be no number.
        radius = log_A.mul_(0.5).exp_().clamp_(floats.tiny, floats.max)
        normal = torch.empty((min(step, n), d), device=device, dtype=dtype)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        if kind == "isotropic":
            block = normal[: rows.stop - start].normal_(std=math.sqrt(2), generator=generator)
            yield rows, block, radius[rows]
        else:
            shape = (rows.stop - start, d)
            yield rows, draw(maps.symmetric_from_uniforms, (alpha,), shape, *place), None


def add_block(columns: Tensor, xi: Tensor, factors: Tensor | None, size: float | Tensor) -> None:
    """Add ``size`` times a block of :func:`noise_blocks` to columns, shape (rows, d), in place."""
    floats = torch.finfo(xi.dtype)
    # 0 times inf is no number.
    if isinstance(size, Tensor):
        size = size.to(xi.dtype).clamp_max(floats.max)
        xi, size = xi.mul_(size).masked_fill_(size == 0, 0), 1.0
    elif size < floats.tiny:
        xi.clamp_(-floats.max, floats.max)
    size = min(size, floats.max)
    if factors is None:
        columns.add_(xi, alpha=size)
    else:
        columns.addcmul_(xi, factors, value=size)


def _power(lr: float | Tensor, exponent: float) -> float | Tensor:
    """Return lr^exponent, inf where it leaves the floats."""
    if isinstance(lr, Tensor) and lr.device.type != "cpu":  # not looked at: nan if it is no rate
        return torch.where((lr >= 0) & lr.isfinite(), lr**exponent, math.nan)
    try:
        rate = float(lr) if isinstance(lr, Tensor) else lr
        return float(_check.number("lr", rate, "[0, inf)") ** exponent)
    except OverflowError:
        return math.inf


# What defines a noise, each with its check.
_SETTINGS: dict[str, Callable[[str, object], Any]] = {
    "alpha": partial(_check.number, interval="(0, 2]"),
    "scale": partial(_check.number, interval="[0, inf)"),
    "kind": partial(_check.one_of, allowed=KINDS),
    "column": partial(_check.one_of, allowed=COLUMNS),
    "seed": _check.seed,
}


class StableNoise:
    r"""Add heavy-tailed noise to chosen weights after each step of an optimizer.

    After every ``optimizer.step()``, each column W_i of each parameter in ``params`` becomes

        W_i + scale * lr^{1/alpha} * xi_i,

    with the ``lr`` of the parameter's group at that step and fresh :func:`noise_vectors` xi_i. A
    step that a ``GradScaler`` skips adds no noise.

    A parameter needs dimension >= 2. One that :func:`heavytail.hidden_weights` or ``prune`` has met
    has the columns of its layer's kind, and no noise in a padding row or where a mask of
    torch.nn.utils.prune hides it. Any other is taken for the weight of a linear layer or, of more
    than two dimensions, of a convolution: dimension 0 counts the columns.

        >>> model = torch.nn.Linear(140, 2000, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> noise = StableNoise(optimizer, [model.weight], alpha=1.75, scale=0.003, seed=0)

    Parameters are visited in the order of the optimizer's groups, frozen ones and those without a
    gradient too. Each device has its generator, and nothing is read back from it: a tensor lr there
    that is no rate makes nan. float16 and bfloat16 weights get noise drawn in float32, added and
    rounded once. A copy of the optimizer has no hooks: attach again. Replicas of a model (DDP) on
    processors of one kind stay equal to the bit if each attaches the noise with the same seed.

    Attributes:
        alpha: stability index in (0, 2]; may be changed between steps.
        scale: sigma >= 0, in the unit of the weights over lr^{1/alpha}; may be changed between
            steps; at 0 nothing is drawn.
        kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
        column: what a column of a convolution is: ``"filter"``, all that feeds an output channel,
            or ``"kernel"``, the part of it from one input channel.
        seed: of the generators, in [0, 2^64).
    """

    alpha: float
    scale: float
    kind: str
    column: str
    seed: int

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
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}")
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise TypeError(f"params must be an iterable of parameters, got {type(params)}")
        self._update(alpha=alpha, scale=scale, kind=kind, column=column, seed=seed)
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        chosen = (_with_columns(parameter, held) for parameter in params)
        self._chosen = {parameter: home_of(parameter).kind for parameter in chosen}
        if not self._chosen:
            raise ValueError("params must hold at least one parameter, got none")
        for hook in optimizer._optimizer_step_post_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, StableNoise) and other._chosen.keys() & self._chosen:
                warnings.warn(f"two noises on one parameter add up: there is {other}", stacklevel=2)
        self._generators: dict[torch.device, torch.Generator] = {}
        self._handles = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )

    def __repr__(self) -> str:
        return f"StableNoise({', '.join(f'{name}={getattr(self, name)!r}' for name in _SETTINGS)})"

    def __setattr__(self, name: str, value: object) -> None:
        self._update(**{name: value})

    def _update(self, **values: Any) -> None:
        """Set attributes: all of them or, if a setting is refused, none."""
        checked = {name: _SETTINGS[name](name, values[name]) for name in values.keys() & _SETTINGS}
        self.__dict__.update(values | checked)

    def remove(self) -> None:
        """Detach from the optimizer. A second call does nothing."""
        for handle in self._handles:
            handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the coming noise depends on, in tensors, numbers and strings."""
        return {
            **{name: getattr(self, name) for name in _SETTINGS},
            "shapes": sorted(list(parameter.shape) for parameter in self._chosen),
            "generators": {str(device): g.get_state() for device, g in self._generators.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken; a refused state changes nothing."""
        state = _complete(state, own := self.state_dict())
        for name in ("kind", "column", "shapes"):  # the last of the weights that get the noise
            if (got := repr(state[name])) != (wanted := repr(own[name])):
                raise ValueError(f"{name} must be {wanted}, got {got}")
        try:
            generators = {
                torch.device(name): torch.Generator(name).set_state(bits.cpu())
                for name, bits in state["generators"].items()
            }
        except (AttributeError, RuntimeError, TypeError) as error:  # torch knows what is a state
            raise ValueError(f"generators must be devices' names with states: {error}") from error
        self._update(**{name: state[name] for name in _SETTINGS}, _generators=generators)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Refuse what the noise cannot go with, before anything has moved."""
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if lost := [tuple(parameter.shape) for parameter in self._chosen.keys() - held]:
            raise ValueError(f"parameters of shape {lost} left the optimizer: attach noise again")
        for group in optimizer.param_groups if self.scale else ():
            _power(group["lr"], 1.0)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Add scale * lr^{1/alpha} * xi_i to each column of each chosen parameter."""
        if self.scale == 0:
            return
        # A fused optimizer runs its skipped steps too; only the device knows that it skipped.
        skipped: Tensor | None = getattr(optimizer, "found_inf", None)
        for group in optimizer.param_groups:
            size = self.scale * _power(group["lr"], 1 / self.alpha)
            if isinstance(size, Tensor) or size > 0:
                for parameter in group["params"]:
                    if parameter in self._chosen and parameter.numel():
                        self._add_noise(parameter, size, skipped)

    def _add_noise(self, parameter: Tensor, size: float | Tensor, skipped: Tensor | None) -> None:
        kind, device = self._chosen[parameter], parameter.device
        columns, mask = as_columns(parameter, self.column, kind), movable(parameter)
        before = parameter if mask is None else parameter.clone()
        dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        (n, d), place = columns.shape, (self._generators[device], device, dtype)
        for rows, xi, factors in noise_blocks(self.kind, self.alpha, n, d, *place):
            if skipped is not None:
                xi.masked_fill_(skipped.to(device).bool(), 0)
            add_block(columns[rows], xi, factors, size)  # W_i <- W_i + scale lr^{1/alpha} xi_i
        weight = units_first(parameter, kind)
        if not weight.is_contiguous():  # the columns are a copy
            weight.copy_(columns.view(weight.shape))
        if mask is not None:
            parameter.copy_(torch.where(mask, parameter, before))


def _with_columns(parameter: object, held: set[Tensor]) -> Tensor:
    """Return a parameter that has columns, lies on one device, and is among those ``held``."""
    if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
        raise TypeError(f"params must hold floating-point tensors, got {parameter!r}")
    shape, kind = tuple(parameter.shape), type(parameter)
    if parameter not in held:
        raise ValueError(f"params must be in the optimizer, got one of shape {shape}")
    if len(shape) < 2:
        raise ValueError(f"params must have dimension >= 2, got {shape} (flattened by FSDP?)")
    if kind.__module__.startswith("torch.distributed"):
        raise TypeError(f"params must not be spread over devices, got a {kind.__name__}")
    return parameter


def _complete(state: object, names: Iterable[str]) -> dict[str, Any]:
    """Return a state that is a dictionary and has all of these entries."""
    if not isinstance(state, dict):
        raise TypeError(f"the state must be a dictionary, got {type(state)}")
    if missing := set(names) - set(state):
        raise ValueError(f"the state lacks {sorted(missing)}")
    return state


class LambdaNoise:
    """Change the noise from step to step, as ``torch.optim.lr_scheduler.LambdaLR`` does the rate.

    After k calls of :meth:`step`, ``noise.scale`` is ``scale(k)`` times what it was at the start,
    and ``noise.alpha`` is ``alpha(k)``; k = 0 is set at once.

        >>> cooling = LambdaNoise(noise, scale=lambda k: 1 / (1 + k) ** 0.5)
        >>> cooling.step()  # after each optimizer.step()

    Args:
        noise: what to change; left as it was where a value is refused.
        scale: factor >= 0 of the scale at step k = 0, 1, ...; None leaves the scale alone.
        alpha: stability index in (0, 2] at step k; None leaves it alone.

    Attributes:
        steps: number of calls of :meth:`step`.
    """

    def __init__(
        self, noise: StableNoise, *, scale: _OfStep | None = None, alpha: _OfStep | None = None
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

    def step(self) -> None:
        """Set scale and index of the next step."""
        self._set(self.steps + 1, self._first)

    def state_dict(self) -> dict[str, Any]:
        """Return the step and the scale at the start; the functions are not part of it."""
        return {"steps": self.steps, "first_scale": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken; a refused state changes nothing."""
        state = _complete(state, self.state_dict())
        first = _check.number("first_scale", state["first_scale"], "[0, inf)")
        self._set(_check.count("steps", state["steps"]), first)

    def _set(self, steps: int, first: float) -> None:
        """Set the noise as it is after so many steps from the first scale: all of it or nothing."""
        scale = self._noise.scale
        if self._scale is not None:
            scale = first * _check.number("scale", self._scale(steps), "[0, inf)")
        alpha = self._noise.alpha if self._alpha is None else self._alpha(steps)
        self._noise._update(scale=scale, alpha=alpha)
        self.steps, self._first = steps, first
