"""The stable law as a torch distribution.

Its density and tails are those of :mod:`heavytail.laws.zolotarev`. A law that is asked at many
points is tabulated, quantiles are roots of the logarithm of a tail.
"""

import math
from functools import lru_cache, reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from heavytail import _check
from heavytail.laws.maps import (
    FORMS,
    PARAMETERS,
    on_half_line,
    s1_shift,
    uniforms,
    within_support,
)
from heavytail.laws.zolotarev import (
    CDF,
    PDF,
    SF,
    chebyshev,
    in_band,
    peak_width,
    polynomials,
    rows_at,
    tangent,
)

_LEAST = 0.05  # the least alpha of a density with |beta| < 1
_MANY = 2000  # points of one law from which on a table pays
_DEGREE = 16  # coefficients of a panel of the table
_RANGES = {"alpha": "(0, 2]", "beta": "[-1, 1]", "loc": _check.FINITE, "scale": _check.POSITIVE}


class _Table:
    """Chebyshev series of the rows of one law on panels in asinh((point - centre) / width).

    Points off the panels, or on one whose last coefficients are not small, take the integrals.
    """

    def __init__(self, alpha: float, beta: float, of: int | None, device: torch.device) -> None:
        self.of = of
        self.law = torch.tensor([[alpha], [beta]], dtype=torch.float64, device=device)
        a, b = self.law[:, 0]
        self.width = peak_width(a)
        near_1 = (a - 1).abs() < 0.4  # the peak is off 0 in S1
        self.centre = torch.where(near_1 & ~in_band(a), b * tangent(a), 0.0)
        reach = math.asinh((6 + 16 / alpha) / 1.5)  # to tails of e^-16
        ends = torch.linspace(-reach, reach, round(22 * reach), dtype=torch.float64, device=device)
        self.ends = 1.5 * torch.sinh(ends)
        nodes, matrix = chebyshev(_DEGREE, ends)
        low, high = self.ends[:-1, None], self.ends[1:, None]
        s = (low + high) / 2 + (high - low) / 2 * nodes
        rows = self._exact((self.centre + self.width * torch.sinh(s)).flatten())
        series = rows.unflatten(1, s.shape) @ matrix.T
        rough = series[..., -2:].abs().amax(2) / (1 + series.abs().amax(2))
        bars = rough.new_tensor([2e-12] * 3 + [1e-9] * 3)[: len(rows), None]
        self.series = torch.where((rough <= bars)[..., None], series, math.nan)

    def _exact(self, points: Tensor) -> Tensor:
        alpha, beta = self.law.expand(2, len(points))
        return rows_at(points, alpha, beta, self.of)

    def __call__(self, points: Tensor, wanted: list[int]) -> Tensor:
        """Return the wanted rows."""
        return torch.cat([self._look_up(block, wanted) for block in points.split(1 << 14)], 1)

    def _look_up(self, points: Tensor, wanted: list[int]) -> Tensor:
        s = torch.asinh((points - self.centre) / self.width)
        panel = (torch.bucketize(s, self.ends) - 1).clamp(0, len(self.ends) - 2)
        low, high = self.ends[panel], self.ends[panel + 1]
        basis = polynomials(_DEGREE, (2 * s - low - high) / (high - low)).T
        out = torch.stack([(self.series[row][panel] * basis).sum(1) for row in wanted])
        bad = torch.isnan(out).any(0)
        if bool(bad.any()):
            out[:, bad] = self._exact(points[bad])[wanted]
        return out


_table = lru_cache(maxsize=16)(_Table)


def _rows(point: Tensor, alpha: Tensor, beta: Tensor, of: int | None, wanted: list[int]) -> Tensor:
    """Return the wanted rows at flat points, by the table of a law where that pays."""
    if len(point) >= _MANY and all(bool((v == v[0]).all()) for v in (alpha, beta)):
        return _table(float(alpha[0]), float(beta[0]), of, point.device)(point, wanted)
    return rows_at(point, alpha, beta, of)[wanted]


class _Log(torch.autograd.Function):
    """A row and its first derivatives, which are found with it: no graph of nodes is kept."""

    @staticmethod
    def forward(
        x: Tensor, alpha: Tensor, beta: Tensor, point: Tensor, row: int, slopes: bool
    ) -> tuple[Tensor, Tensor]:
        points, alphas, betas = (v.reshape(-1) for v in (point, alpha, beta))
        of, wanted = (row, [row, 3, 4, 5]) if slopes else (None, [row])
        rows = _rows(points, alphas, betas, of, wanted).view(len(wanted), *x.shape)
        return rows[0].clone(), rows[1:]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: what would follow is a constant, silently
            raise RuntimeError("the stable law has first derivatives only, no graph of them")
        (slopes,) = ctx.saved_tensors
        return *(grad * slopes), None, None, None


def _log(row: int, x: Tensor, alpha: Tensor, beta: Tensor, point: Tensor) -> Tensor:
    """Return a row at the points x of S0, which are ``point`` in the form of the integrals."""
    x, alpha, beta, point = torch.broadcast_tensors(x, alpha, beta, point.detach())
    slopes = torch.is_grad_enabled() and any(v.requires_grad for v in (x, alpha, beta))
    value: Tensor = _Log.apply(x, alpha, beta, point, row, slopes)[0]
    return value


def log_density(x: Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    """Return log f(x) of the standard law S0(alpha, beta) in float64.

    The arguments broadcast and are not checked. Differentiable once, in all three.
    """
    alpha, beta = (torch.as_tensor(v, dtype=torch.float64, device=x.device) for v in (alpha, beta))
    x = x.double()
    return _log(PDF, x, alpha, beta, torch.where(in_band(alpha), x, x + beta * tangent(alpha)))


def _quantile(p: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the points of flat levels in (0, 1), else nan, as where the iteration fails.

    The unknown is s = asinh(point / width). Newton's iteration is for log(-log P) with P the tail
    on the side of min(p, 1 - p): linear where the tail is light, nearly so where it is heavy. A
    step out of the bracket, or one after a miss that was not halved, is a bisection instead.
    """
    width = peak_width(alpha)
    side = torch.where(p <= 0.5, -1.0, 1.0).to(p)
    goal = torch.log(torch.where(side < 0, p, 1 - p))
    weight = (1 + side * beta) * torch.sin(math.pi / 2 * torch.minimum(alpha, 2 - alpha)) / math.pi
    log_size = (torch.lgamma(alpha) + torch.log(weight) - goal) / alpha  # of the tail law
    high = 700 - torch.log(width)
    s = torch.log(2 / width) + log_size
    s = torch.minimum(s.nan_to_num(0).clamp_min(0.01), high - 10)
    s = s * torch.where(on_half_line(alpha, beta), beta, side)
    last = torch.full_like(p, math.inf)
    found = p * math.nan
    todo = ((p > 0) & (p < 1)).nonzero()[:, 0]
    state = torch.stack((s, -high, high, last, goal, side, width, alpha, beta))[:, todo]
    for _ in range(120):
        if not len(todo):
            break
        s, low, high, last, goal, side, width, alpha, beta = state
        point = _sinh(s, width)
        log_f, log_F, log_S = _rows(point, alpha, beta, None, [PDF, CDF, SF])
        reached = torch.where(side < 0, log_F, log_S)
        miss = torch.log(reached / goal)
        above = (miss < 0) == (side < 0)
        low, high = torch.where(above, low, s), torch.where(above, s, high)
        slope = torch.exp(log_f - reached) * torch.hypot(point, width)  # |d log P / ds|
        new = s + side * miss * reached / slope
        size = miss.abs()
        done = (((new - s).abs() <= 1e-9 * s.abs()) & (size < 1e-6)) | (size < 1e-12)
        found[todo[done]] = _sinh(new, width)[done]
        newton = (new >= low) & (new <= high) & (size < last / 2)
        new = torch.where(newton, new, (low + high) / 2)
        state = torch.stack((new, low, high, size, goal, side, width, alpha, beta))[:, ~done]
        todo = todo[~done]
    return found


def _sinh(s: Tensor, unit: Tensor) -> Tensor:
    """Return unit sinh(s), which may be a float where sinh(s) is not."""
    near = s.clamp(-300, 300)
    return torch.sinh(near) * torch.exp((s - near).abs() + torch.log(unit))


class Stable(Distribution):
    r"""The stable law S(alpha, beta, scale, loc), in Nolan's form S1 or S0.

    S1, which scipy's ``levy_stable`` takes by default too, has for alpha != 1

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

    The four broadcast to ``batch_shape`` and are promoted to one dtype, which the results have;
    float32 if all four are floats and torch's default is. Computations run in float64 on the
    parameters as stored (a float32 alpha of 1.1 is 1.10000002). A law asked at 2000 points or more
    is tabulated once.

    First derivatives exist in the points and in all four parameters; ``create_graph``,
    ``torch.func.grad`` and ``torch.func.vmap`` over a method raise RuntimeError. Draws are
    differentiable in alpha on either side of 1. In the form S1 with beta != 0 the law jumps at
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

    alpha: Tensor
    beta: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        alpha: float | Tensor,
        beta: float | Tensor = 0.0,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        parameterization: str = "S1",
        validate_args: bool | None = None,
    ) -> None:
        self.parameterization = _check.one_of("parameterization", parameterization, FORMS)
        check = validate_args is not False  # torch's own default changes as its compiler loads
        given = (alpha, beta, loc, scale)
        if check:
            for name, value in zip(PARAMETERS, given, strict=True):
                _check.numbers(name, value, _RANGES[name])
        values = broadcast_all(*(v if isinstance(v, Tensor) else float(v) for v in given))
        tensors = [v for v in given if isinstance(v, Tensor)]
        # As torch promotes: a tensor without dimensions decides only where there is no other.
        tensors = [v for v in tensors if v.dim()] or tensors or [values[0]]
        dtype = reduce(torch.promote_types, (v.dtype for v in tensors))
        for name, value in zip(PARAMETERS, values, strict=True):
            setattr(self, name, value.to(dtype))
        if check:
            _check.numbers("scale", self.scale, _check.POSITIVE)  # a float may underflow
        super().__init__(self.alpha.shape, validate_args=False)  # done, with better messages
        self._validate_args = check

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, parameterization: {self.parameterization})"

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Stable":
        """Return the law with its parameters expanded to ``batch_shape``."""
        new: Stable = self._get_checked_instance(Stable, _instance)
        size = torch.Size(batch_shape)
        new.parameterization = self.parameterization
        for name in PARAMETERS:
            setattr(new, name, getattr(self, name).expand(size))
        super(Stable, new).__init__(size, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _doubles(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return alpha, beta, loc and scale in float64."""
        return self.alpha.double(), self.beta.double(), self.loc.double(), self.scale.double()

    def _loc_in(self, form: str) -> Tensor:
        """Return loc in a form, in float64; S1's is the end of a half-line."""
        alpha, beta, loc, scale = self._doubles()
        if form == self.parameterization:
            return loc
        shift = s1_shift(alpha, beta, scale)
        return loc + shift if form == "S0" else loc - shift

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """A half-line where all laws have alpha < 1 and beta = 1, or all beta = -1; else reals."""
        end = self._loc_in("S1").detach().to(self.loc.dtype)
        half_line = on_half_line(self.alpha, self.beta)
        if half_line.numel() and bool((half_line & (self.beta > 0)).all()):
            return constraints.greater_than_eq(end)
        if half_line.numel() and bool((half_line & (self.beta < 0)).all()):
            return constraints.less_than(torch.nextafter(end, torch.full_like(end, math.inf)))
        return constraints.real

    @property
    def mean(self) -> Tensor:
        """S1's loc for alpha > 1, else nan: there is no mean."""
        return torch.where(self.alpha > 1, self._loc_in("S1").to(self.loc.dtype), math.nan)

    @property
    def variance(self) -> Tensor:
        """2 scale^2 for alpha = 2, else inf."""
        return torch.where(self.alpha == 2, 2 * self.scale.square(), math.inf)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        """Draw from torch's global generator, differentiable in the four parameters."""
        shape = self._extended_shape(sample_shape)
        like = self.alpha.new_empty(shape.numel(), dtype=torch.float64)
        angle, uniform = (bits.view(shape) for bits in uniforms(like, None))
        draws = FORMS[self.parameterization](*self._doubles(), angle, uniform)
        return draws.to(self.loc.dtype)

    def _check_request(self, value: object) -> None:
        """Refuse a value that is no tensor or does not broadcast, and a law that is too narrow."""
        if not isinstance(value, Tensor):
            raise TypeError(f"value must be a tensor, got {value!r}")
        try:
            torch.broadcast_shapes(value.shape, self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"value must broadcast with shape {tuple(self.batch_shape)}, "
                f"got shape {tuple(value.shape)}"
            ) from None
        narrow = (self.alpha < _LEAST) & (self.beta.abs() < 1)
        if bool(narrow.any()):
            least = self.alpha[narrow].min()
            raise ValueError(f"alpha must be in [{_LEAST}, 2] where |beta| < 1, got {least:g}")

    def _row(self, row: int, value: Tensor) -> Tensor:
        alpha, beta, _, scale = self._doubles()
        x, z = ((value.double() - self._loc_in(form)) / scale for form in ("S0", "S1"))
        return _log(row, x, alpha, beta, torch.where(in_band(alpha), x, z))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density."""
        self._check_request(value)
        if self._validate_args:
            self._validate_sample(value)
        return (self._row(PDF, value) - torch.log(self.scale.double())).to(self.loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value), to relative precision where it is small."""
        self._check_request(value)
        return torch.exp(self._row(CDF, value)).to(self.loc.dtype)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), to relative precision where it is small."""
        self._check_request(value)
        return torch.exp(self._row(SF, value)).to(self.loc.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of a level in [0, 1]: F(quantile) = level, or nan.

        The ends of the support at 0 and 1, nan outside. Differentiable in the level and in the
        parameters. Near 1 the rounding of the level is the error.
        """
        self._check_request(value)
        bad = ~((value >= 0) & (value <= 1))  # nan too
        if self._validate_args and bool(bad.any()):
            raise ValueError(f"level must be in [0, 1], got {value[bad][0]:g}")
        p, alpha, beta, _, scale = torch.broadcast_tensors(value.double(), *self._doubles())
        band, loc, end = in_band(alpha), self._loc_in("S0"), self._loc_in("S1")
        with torch.no_grad():
            point = _quantile(p.reshape(-1), alpha.reshape(-1), beta.reshape(-1)).view(p.shape)
            x = torch.where(band, loc, end) + scale * point
            x = torch.where(p == 0, -math.inf, torch.where(p == 1, math.inf, x))
            x = within_support(x, alpha, beta, end)
            inner = torch.isfinite(point)
            point = torch.where(inner, point, 0.0)
            z = torch.where(band, point, point - beta * tangent(alpha))
            f = torch.exp(_log(PDF, z, alpha, beta, point)).clamp_min(1e-300)
        F = torch.exp(_log(CDF, z, alpha, beta, point))
        moved = loc + scale * (z + (p - F) / f)  # its derivatives are those of the quantile
        return torch.where(inner, x + (moved - moved.detach()), x).to(self.loc.dtype)
