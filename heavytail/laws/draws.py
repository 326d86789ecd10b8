"""Draws of stable laws, and the constant of their tails.

A symmetric stable law S(alpha)S(scale) has the characteristic function
E exp(iuX) = exp(-|scale u|^alpha) for a stability index alpha in (0, 2]. Two cases have names:
alpha = 2 is the Gaussian N(0, 2 scale^2), *not* N(0, scale^2), and alpha = 1 is the Cauchy law.
Below 2 the variance is infinite, at 1 and below the mean does not exist.

Random bits become an angle and a uniform, and a pure function turns the two into a stable variable:
a map of :mod:`heavytail.laws.chambers_mallows_stuck`. On a CPU this is done on one thread, in
blocks that stay in the cache; elsewhere the map is compiled into one kernel. Same seed, device and
version of torch: same bits. Draws carry no gradient: for that use the maps. An argument
outside its set is a TypeError or ValueError, and nothing is drawn.

References:
    - J. M. Chambers, C. L. Mallows, B. W. Stuck, A method for simulating stable random variables,
      J. Amer. Statist. Assoc. 71 (1976) 340-344.
    - M. Kanter, Stable densities under change of scale and total variation inequalities,
      Ann. Probab. 3 (1975) 697-707.
    - J. P. Nolan, Univariate Stable Distributions, Springer, 2020.
"""

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from heavytail import _check
from heavytail.laws.chambers_mallows_stuck import (
    FORMS,
    log_positive_from_uniforms,
    symmetric_from_uniforms,
    uniforms_from_words,
    words_for,
)

# Draws of a block: enough to make the cost of calls small, few enough for what is computed on the
# way to stay in the cache. Elsewhere a block only bounds the memory that its words take.
_BLOCK = 1 << 16
_DEVICE_BLOCK = 1 << 24


def symmetric_stable(
    alpha: float | Tensor,
    size: int | Sequence[int],
    *,
    scale: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the symmetric stable law S(alpha)S(scale), E exp(iuX) = exp(-|scale u|^alpha).

    In float32 the angle has 31 bits: no draw comes from a quantile beyond 1 - 2^-32, which caps
    |X| near 4e8 at alpha = 1.1; float64 has 63 bits. Where |X| exceeds the largest float (alpha
    well below 1), the draw is inf.

    Args:
        alpha: stability index in (0, 2].
        size: shape of the result; a parameter may be a tensor that broadcasts to it.
        scale: >= 0 and in the range of dtype; at alpha = 2 the standard deviation is sqrt(2) scale.
        generator: source of the random bits; None is torch's global generator.
        device: where to draw; None is the generator's device, else torch's default device.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.

    Source: Chambers, Mallows and Stuck 1976, as in ``symmetric_from_uniforms``.
    """
    shape, place = _check.shape("size", size), _check.place(generator, device, dtype)
    alpha = _check.numbers("alpha", alpha, "(0, 2]", shape)
    most = torch.finfo(place[1]).max  # beyond it, 0 times inf is no number
    scale = _check.numbers("scale", scale, f"[0, {most}]", shape)
    X = draw(symmetric_from_uniforms, (alpha,), shape, generator, *place)
    if isinstance(scale, float) and scale == 1:
        return X
    scale = torch.as_tensor(scale, dtype=X.dtype, device=X.device)
    return X.mul_(scale).masked_fill_(scale == 0, 0)  # 0, where X is infinite too


def positive_stable(
    alpha: float | Tensor,
    size: int | Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the standard positive stable law, E exp(-s A) = exp(-s^alpha) for s >= 0.

    P(A > x) ~ x^-alpha / Gamma(1 - alpha), and at ``alpha`` = 1, its largest, A is the constant 1.
    At small alpha A leaves the floats: a draw beyond the largest is inf, one below the smallest 0.
    The other arguments are those of :func:`heavytail.symmetric_stable`.

    Source: Kanter 1975, see
    :func:`heavytail.laws.chambers_mallows_stuck.log_positive_from_uniforms`.
    """
    shape, place = _check.shape("size", size), _check.place(generator, device, dtype)
    alpha = _check.numbers("alpha", alpha, "(0, 1]", shape)
    return draw(log_positive_from_uniforms, (alpha,), shape, generator, *place).exp_()


def stable(
    alpha: float | Tensor,
    beta: float | Tensor,
    size: int | Sequence[int],
    *,
    loc: float | Tensor = 0.0,
    scale: float | Tensor = 1.0,
    parameterization: str = "S1",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the general stable law S(alpha, beta, scale, loc), in Nolan's form S0 or S1.

    S1, the form most texts use, has for alpha != 1

        E exp(iuX) = exp(i loc u - |scale u|^alpha (1 - i beta sign(u) tan(pi alpha / 2))),

    and for alpha = 1 the term (2/pi) log|u| in place of -tan(pi alpha / 2). Its loc is the mean
    for alpha > 1, and the law jumps at alpha = 1. S0 is continuous in all parameters: with the
    same loc, X_S0 = X_S1 - beta scale tan(pi alpha / 2), and X_S1 - beta (2/pi) scale log(scale)
    at alpha = 1. Draws are computed in float64 and rounded once, to about 1e-16 scale next to the
    end of a half-line (for relative precision there see :func:`positive_stable`).

    ``alpha`` is in (0, 2], ``beta`` in [-1, 1], without effect at alpha = 2; at +-1 and alpha < 1
    the law lives on a half-line. ``loc`` and ``scale``, in [0, 1e290], are in the unit of X. The
    other arguments are those of :func:`heavytail.symmetric_stable`.

    Source: Chambers, Mallows and Stuck 1976; Nolan 2020, Definitions 1.4 and 1.5.
    """
    shape, place = _check.shape("size", size), _check.place(generator, device, dtype)
    parameters = (
        _check.numbers("alpha", alpha, "(0, 2]", shape),
        _check.numbers("beta", beta, "[-1, 1]", shape),
        _check.numbers("loc", loc, size=shape),
        _check.numbers("scale", scale, "[0, 1e290]", shape),  # S1 - S0 must be a float
    )
    _check.one_of("parameterization", parameterization, FORMS)
    doubles = tuple(torch.as_tensor(v, dtype=torch.float64, device=place[0]) for v in parameters)
    return draw(FORMS[parameterization], doubles, shape, generator, *place)


def tail_constant(alpha: float) -> float:
    r"""Return C_alpha with P(|X| > x) ~ C_alpha scale^alpha x^-alpha for X ~ S(alpha)S(scale).

        C_alpha = (2 / pi) Gamma(alpha) sin(pi alpha / 2)

    Args:
        alpha: stability index in (0, 2]. At 2 the tail is Gaussian and the constant is 0.

    Source: Nolan 2020, Theorem 1.2.
    """
    alpha = _check.number("alpha", alpha, "(0, 2]")
    # sin(pi alpha / 2) = sin(pi (2 - alpha) / 2), which is exact at alpha = 2.
    sine = math.sin(math.pi / 2 * min(alpha, 2 - alpha))
    return math.gamma(alpha + 1) * sine / (math.pi / 2 * alpha)


def draw(
    transform: Callable[..., Tensor],
    parameters: tuple[float | Tensor, ...],
    size: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Fill a tensor of shape ``size`` with a map of parameters, angles and uniforms, by blocks.

    Parameters that are tensors broadcast to ``size``. Arguments are not checked.
    """
    out = torch.empty(size, dtype=dtype, device=device)
    flat, on_cpu = out.view(-1), device.type == "cpu"
    block = _BLOCK if on_cpu else _DEVICE_BLOCK
    kernel = partial(_from_words, transform) if on_cpu else _compiled(transform)
    values = [_flat(value, out) for value in parameters]
    with _one_thread() if on_cpu else nullcontext():
        for start in range(0, len(flat), block):
            here = slice(start, start + block)
            some = [v[here] if isinstance(v, Tensor) and v.dim() else v for v in values]
            flat[here] = kernel(words_for(flat[here], generator), len(flat[here]), *some)
    return out


def _flat(value: float | Tensor, out: Tensor) -> float | Tensor:
    """Return a parameter as a number, or with an entry for each of ``out``."""
    if isinstance(value, Tensor):
        value = value.to(out.device)
        return value.expand(out.shape).reshape(-1) if value.dim() else value
    # A compiled map is compiled anew for each float, but not for each value of a tensor.
    return value if out.device.type == "cpu" else out.new_full((), value)


def _from_words(
    transform: Callable[..., Tensor], words: Tensor, n: int, *parameters: float | Tensor
) -> Tensor:
    """Return n draws from their words, of whole rows."""
    angle, uniform = uniforms_from_words(words)
    if any(isinstance(value, Tensor) and value.dim() for value in parameters):
        return transform(*parameters, angle[:n], uniform[:n])
    # Vector instructions may round otherwise than what finishes a broken row does.
    return transform(*parameters, angle, uniform)[:n]


@cache
def _compiled(transform: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the map from words to draws as one kernel, or as it stands where nothing compiles."""
    eager = partial(_from_words, transform)
    kernel = torch.compile(eager, dynamic=True)

    def run(*arguments: Any) -> Tensor:
        nonlocal kernel
        try:
            return kernel(*arguments)
        except Exception as failure:  # whatever a compiler, or its absence, may raise
            if kernel is eager:
                raise
            kernel = eager
            message = f"stable draws here are not compiled and slower: {failure}"
            warnings.warn(message, stacklevel=2)
        return eager(*arguments)

    return run


_lock = threading.Lock()
_threads: list[int] = []  # for each Python thread that is drawing, what torch had before the first


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: a block is too short to share.

    Threads that meet at each sine and logarithm wait for each other, and bits would depend on where
    a block is cut. A young Python thread takes over torch's number from any other: so each of those
    that draw at a time sets again what was there first. One that first asks torch for threads while
    another draws, and does not draw itself, keeps the 1 that it finds: torch offers no way round.
    """
    with _lock:
        _threads.append(_threads[0] if _threads else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(_threads.pop())
