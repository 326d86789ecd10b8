"""The stable law as a torch distribution.

Its density and tails are those of :mod:`heavytail.laws.density`. A law that is asked at 2000
points or more is tabulated once, quantiles are roots of the logarithm of a tail.
"""

import copy
import math
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd.forward_ad import unpack_dual
from torch.distributions import Distribution, constraints

from heavytail import _check
from heavytail.laws import chambers_mallows_stuck as maps
from heavytail.laws.density import BAND, logs_at, peak_width, tangent, weights

_LEAST = 0.05  # the least alpha of a density with |beta| < 1
_MANY = 2000  # points of one law from which on a table pays
_FINE = 180  # its nodes to a unit of t
_NO_FUNC = "Stable runs outside torch.func and forward mode: it takes batches, and has backward"
_RANGES = {"alpha": "(0, 2]", "beta": "[-1, 1]", "loc": _check.FINITE, "scale": _check.POSITIVE}


@lru_cache(maxsize=16)
def _table(alpha: float, beta: float, slopes: bool, device: torch.device) -> tuple[Any, ...]:
    """Return centre, width, reach and the logs of a law at centre + width sinh(1.5 sinh t).

    t runs over [-reach, reach], to tails of e^-16; nan where every other t does not give the next.
    """
    reach = math.asinh((6 + 16 / alpha) / 1.5)
    t = torch.arange(-reach, reach, 1 / _FINE, dtype=torch.float64, device=device)
    a, b = torch.full_like(t, alpha), torch.full_like(t, beta)
    off_0 = alpha > 0.6 and abs(alpha - 1) >= BAND  # the peak, in S1
    centre, width = (b * tangent(a))[0] * off_0, peak_width(a)[0]
    logs = logs_at(centre + width * torch.sinh(1.5 * torch.sinh(t)), a, b, slopes)
    error = (_look_up(logs[..., ::2], _FINE / 2 * (reach + t)) - logs).abs() / (1 + logs.abs())
    good = (error[:1] < 2e-9).all(0).all(0) & (error < 1e-6).all(0).all(0)
    return centre, width, reach, logs.masked_fill(~good, math.nan)


def _look_up(table: Tensor, u: Tensor) -> Tensor:
    """Interpolate what lies at 0, 1, 2, ... in the last dimension, by the eight next to u."""
    first = (u.floor() - 3).clamp(0, table.shape[-1] - 8).nan_to_num(0)
    k = torch.arange(8, dtype=u.dtype, device=u.device)
    return (table[..., (first + k[:, None]).long()] * weights(k, u - first)).sum(-2)


def _logs(point: Tensor, alpha: Tensor, beta: Tensor, slopes: bool) -> Tensor:
    """Return the logs at flat points, by the table of a law where that pays."""
    if len(point) < _MANY or any(bool((v != v[0]).any()) for v in (alpha, beta)):
        return logs_at(point, alpha, beta, slopes)
    centre, width, reach, table = _table(float(alpha[0]), float(beta[0]), slopes, point.device)
    u = _FINE * (reach + torch.asinh(torch.asinh((point - centre) / width) / 1.5))
    u = torch.where((u >= 0) & (u <= table.shape[-1] - 1), u, math.nan)
    logs = torch.cat([_look_up(table, some) for some in u.split(1 << 14)], -1)
    bad = torch.isnan(logs).any(0).any(0)
    logs[..., bad] = logs_at(point[bad], alpha[bad], beta[bad], slopes)
    return logs


def _double(v: Tensor) -> Tensor:
    """Return float64, on the CPU if the device has none; results go back."""
    return v.to("cpu" if v.device.type == "mps" else v.device, torch.float64)


class _Sloped(torch.autograd.Function):
    """Logs with their slopes, which were found with them: no graph of nodes is kept."""

    @staticmethod
    def forward(ctx: Any, logs: Tensor, *given: Tensor) -> Tensor:
        ctx.save_for_backward(logs)
        return logs[0].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: what would follow is a constant, silently
            raise RuntimeError("the stable law has first derivatives only, no graph of them")
        (logs,) = ctx.saved_tensors
        flat = (grad == 0) | logs[0].isinf()
        return None, *torch.where(flat, 0.0, grad * logs[1:]).sum(1)


def _log(point: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return log f, log F and log(1 - F), (3, ...), with their first derivatives."""
    given = torch.broadcast_tensors(point, alpha, beta)
    slopes = torch.is_grad_enabled() and any(v.requires_grad for v in given)
    z, a, b = (v.detach().flatten() for v in given)
    logs = _logs(z, a, b, slopes).view(4 if slopes else 1, 3, *given[0].shape)
    return _Sloped.apply(logs, *given) if slopes else logs[0]


def log_density(x: Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    """Return log f(x) of the standard law S0(alpha, beta) in float64; arguments broadcast."""
    index = torch.as_tensor(alpha, dtype=torch.float64, device=x.device)
    return Stable(index, beta, 0.0, 1.0, "S0", validate_args=False).log_prob(x.double())


def _quantile(p: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the points of flat levels: infinite at 0 and 1, nan elsewhere and where it fails.

    Newton's iteration for log(-log P), P the tail on the side of min(p, 1 - p), in
    s = asinh(point / width): linear where the tail is light, nearly so where it is heavy. A step
    out of the bracket, or one after a miss that was not halved, is a bisection instead.
    """
    side, width = torch.where(p <= 0.5, -1.0, 1.0).to(p), peak_width(alpha)
    goal, todo = torch.log(torch.where(side < 0, p, 1 - p)), (p > 0) & (p < 1)
    s = torch.where(maps.on_half_line(alpha, beta), beta, side)
    high = 700 - torch.log(width)
    low, last, logs = -high, torch.full_like(p, math.inf), p.new_zeros(3, len(p))
    for _ in range(120):
        point = 2 * width * torch.sinh(s / 2) * torch.cosh(s / 2)
        if not bool(todo.any()):
            break
        logs[:, todo] = _logs(point[todo], alpha[todo], beta[todo], False)[0]
        log_P = torch.where(side < 0, logs[1], logs[2])
        miss = torch.log(log_P / goal)
        above = (miss < 0) == (side < 0)
        low, high = torch.where(above, low, s), torch.where(above, s, high)
        slope = torch.exp(logs[0] - log_P) * torch.hypot(point, width)  # |d log P / ds|
        new, size = s + side * miss * log_P / slope, miss.abs()
        done = (((new - s).abs() <= 1e-9 * s.abs()) & (size < 1e-6)) | (size < 1e-12)
        newton = done | ((new >= low) & (new <= high) & (size < last / 2))
        s, last = torch.where(todo, torch.where(newton, new, (low + high) / 2), s), size
        todo = todo & ~done
    ends = torch.where(p == 0, -math.inf, torch.where(p == 1, math.inf, math.nan))
    return torch.where((p > 0) & (p < 1) & ~todo, point, ends)


class Stable(Distribution):
    r"""The stable law S(alpha, beta, scale, loc), in Nolan's form S1 or S0.

    S1, scipy's default too, has for alpha != 1

        E exp(iuX) = exp(i loc u - |scale u|^alpha (1 - i beta sign(u) tan(pi alpha / 2)))

    and for alpha = 1 the term (2/pi) log|u| in place of -tan(pi alpha / 2). Its loc is the mean
    for alpha > 1. With the same loc, X_S0 = X_S1 - beta scale tan(pi alpha / 2), and
    X_S1 - beta (2/pi) scale log(scale) at alpha = 1; only S0 is continuous there. alpha = 2 is
    N(loc, 2 scale^2), whatever beta.

    Args:
        alpha: stability index in (0, 2]; a float or a floating-point tensor, as all four.
        beta: skewness in [-1, 1].
        loc: location, finite, in the unit of X.
        scale: > 0, in the unit of X.
        parameterization: ``"S1"`` or ``"S0"``.
        validate_args: False skips the checks of arguments.

    The four broadcast to ``batch_shape`` and promote to one dtype, that of the results, which are
    computed in float64 from the parameters as stored (a float32 alpha of 1.1 is 1.10000002).

    ``backward`` finds first derivatives in points and parameters; ``torch.func`` is refused. Draws
    are differentiable in alpha on either side of 1. In the form S1 with beta != 0 the law jumps at
    alpha = 1, and what backward finds in alpha there is no derivative.

    Raises:
        TypeError, ValueError: on an argument outside the sets above; ValueError on asking for
            densities, tails or quantiles with alpha < 0.05 and |beta| < 1.

    Source: Nolan, Univariate Stable Distributions, Springer, 2020, Definitions 1.4 and 1.5.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "alpha": constraints.interval(0, 2),
        "beta": constraints.interval(-1, 1),
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor = 0.0,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        parameterization: str = "S1",
        validate_args: bool | None = None,
    ) -> None:
        self.parameterization = _check.one_of("parameterization", parameterization, maps.FORMS)
        check = validate_args is not False  # torch's own default changes as its compiler loads
        given = (alpha, beta, loc, scale)
        if any(isinstance(v, Tensor) and _functorch.is_batchedtensor(v) for v in given):
            raise RuntimeError(_NO_FUNC)
        if check:
            for name, value in zip(maps.PARAMETERS, given, strict=True):
                _check.numbers(name, value, _RANGES[name])
        plain = [v if isinstance(v, Tensor) else float(v) for v in given]
        total = sum(plain)  # has the dtype to which torch promotes
        like = total if isinstance(total, Tensor) else torch.tensor(total)
        same = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in plain)
        values: list[Tensor] = list(torch.broadcast_tensors(*same))
        self.alpha, self.beta, self.loc, self.scale = values
        for name in maps.PARAMETERS if check else ():  # a float may underflow
            _check.numbers(name, getattr(self, name), _RANGES[name])
        super().__init__(self.alpha.shape, validate_args=False)  # done, with better messages
        self._validate_args = check

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, parameterization: {self.parameterization})"

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Stable":
        """Return the law with its parameters expanded to ``batch_shape``."""
        new, size = copy.copy(self), _check.shape("batch_shape", batch_shape)
        _check.broadcasts("parameters, expanded to batch_shape,", self.alpha, size)
        for name in maps.PARAMETERS:
            setattr(new, name, getattr(self, name).expand(size))
        new._batch_shape = new.alpha.shape
        return new

    def _doubles(self) -> tuple[Tensor, ...]:
        """Return alpha, beta, loc in S0, loc in S1, the end of a half-line, and scale."""
        alpha, beta, loc, scale = (_double(getattr(self, name)) for name in maps.PARAMETERS)
        shift = maps.s1_shift(alpha, beta, scale)
        locs = (loc + shift, loc) if self.parameterization == "S1" else (loc, loc - shift)
        return alpha, beta, *locs, scale

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """A half-line where all laws have alpha < 1 and beta = 1, or all beta = -1; else reals."""
        end = self._doubles()[3].detach().to(self.loc)
        sides = torch.where(maps.on_half_line(self.alpha, self.beta), self.beta, 0.0).unique()
        if sides.tolist() == [1]:
            return constraints.greater_than_eq(end)
        if sides.tolist() == [-1]:
            return constraints.less_than(torch.nextafter(end, torch.full_like(end, math.inf)))
        return constraints.real

    @property
    def mean(self) -> Tensor:
        """S1's loc for alpha > 1, else nan: there is no mean."""
        return torch.where(self.alpha > 1, self._doubles()[3].to(self.loc), math.nan)

    @property
    def variance(self) -> Tensor:
        """2 scale^2 for alpha = 2, else inf."""
        return torch.where(self.alpha == 2, 2 * self.scale.square(), math.inf)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        """Draw from torch's global generator, differentiable in the four parameters."""
        shape = self._extended_shape(_check.shape("sample_shape", sample_shape))
        values = [_double(getattr(self, name)) for name in maps.PARAMETERS]
        bits = (v.view(shape) for v in maps.uniforms(values[0].new_empty(shape.numel()), None))
        return maps.FORMS[self.parameterization](*values, *bits).to(self.loc)

    def _standard(self, value: Tensor) -> tuple[Tensor, ...]:
        """Check a value; return alpha, beta, loc in the form of the logs' points, and scale."""
        if not isinstance(value, Tensor) or value.is_complex() or value.is_meta:
            raise TypeError(f"value must be a real tensor with values, got {value!r:.80}")
        for v in (value, self.alpha, self.beta, self.loc, self.scale):
            if _functorch.is_functorch_wrapped_tensor(v) or unpack_dual(v).tangent is not None:
                raise RuntimeError(_NO_FUNC)
        own, size = tuple(self.batch_shape), tuple(value.shape)
        try:
            torch.broadcast_shapes(own, size)
        except RuntimeError:
            raise ValueError(f"value must broadcast with shape {own}, got shape {size}") from None
        low = self.alpha[(self.alpha < _LEAST) & (self.beta.abs() < 1)]
        if len(low):
            raise ValueError(f"alpha must be in [{_LEAST}, 2] where |beta| < 1, got {low.min():g}")
        alpha, beta, loc_0, loc_1, scale = self._doubles()
        return alpha, beta, torch.where((alpha - 1).abs() < BAND, loc_0, loc_1), scale

    def _logs(self, value: Tensor) -> Tensor:
        alpha, beta, loc, scale = self._standard(value)
        return _log((_double(value) - loc) / scale, alpha, beta)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density."""
        log_f = self._logs(value)[0] - _double(self.scale).log()
        if self._validate_args:
            self._validate_sample(value)
        return log_f.to(self.loc)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value), to relative precision where it is small; nan of nan."""
        return self._logs(value)[1].exp().to(self.loc)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), to relative precision where it is small; nan of nan."""
        return self._logs(value)[2].exp().to(self.loc)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of a level in [0, 1]: F(quantile) = level, or nan.

        The ends of the support at 0 and 1, nan outside. Near 1 the level's rounding is the error.
        """
        standard = self._standard(value)
        bad = ~((value >= 0) & (value <= 1))  # nan too
        if self._validate_args and bool(bad.any()):
            raise ValueError(f"value must be in [0, 1], got {value[bad][0]:g}")
        p, alpha, beta, loc, scale = torch.broadcast_tensors(_double(value), *standard)
        found = _quantile(*(v.detach().flatten() for v in (p, alpha, beta))).view(p.shape)
        inner = torch.isfinite(found)
        point = torch.where(inner, found, 0.0)
        log_f, log_F, _ = _log(point, alpha, beta)
        moved = (p - log_F.exp()) / log_f.detach().exp().clamp_min(1e-300)
        x = loc + scale * (point + moved - moved.detach())  # with the derivatives of the quantile
        x = torch.where(inner, x, found)
        return maps.within_support(x, alpha, beta, self._doubles()[3]).to(self.loc)
