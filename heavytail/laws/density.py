"""The stable law as a torch distribution: parameters, constraints, location and scale.

The standard law is elsewhere: its draws in :mod:`heavytail.laws.maps`, its density, distribution
function and quantiles in :mod:`heavytail.laws._integrals`. Public in :mod:`heavytail.laws.draws`.
"""

import math
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints, transform_to
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    Transform,
)
from torch.distributions.utils import broadcast_all

from heavytail import _check
from heavytail.laws import maps as _draws
from heavytail.laws import _integrals
from heavytail.laws.maps import FORMS, PARAMETERS, on_half_line, s1_shift, within_support


class _Index(constraints.interval):
    """Numbers in (0, 2]."""

    def __init__(self) -> None:
        super().__init__(0.0, 2.0)

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = (value > self.lower_bound) & (value <= self.upper_bound)
        return inside


class _AtMost(constraints.Constraint):
    """Numbers <= ``upper_bound``, which broadcasts with them."""

    def __init__(self, upper_bound: Tensor) -> None:
        self.upper_bound = upper_bound
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        below: Tensor = value <= self.upper_bound
        return below

    def __repr__(self) -> str:
        return f"_AtMost(upper_bound={self.upper_bound})"


def _to_index(constraint: _Index) -> Transform:
    open_interval = constraints.interval(constraint.lower_bound, constraint.upper_bound)
    transform: Transform = biject_to(open_interval)
    return transform


def _to_at_most(constraint: _AtMost) -> Transform:
    return ComposeTransform([ExpTransform(), AffineTransform(constraint.upper_bound, -1)])


for _registry in (biject_to, transform_to):
    _registry.register(_Index, _to_index)
    _registry.register(_AtMost, _to_at_most)


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
    parameters as stored (a float32 alpha of 1.1 is 1.10000002). A single law asked at 2000 points
    or more is tabulated once, see ``heavytail.laws._integrals.log_density``.

    First derivatives exist in the points and in all four parameters; second ones raise
    RuntimeError, and so does ``torch.func.vmap`` over a method. The derivatives of log_prob are
    good to about 1e-7, relative or absolute. Draws of ``rsample`` are differentiable in alpha on
    either side of 1. In the form S1 with beta != 0 the law jumps at alpha = 1, and what backward
    finds in alpha there is no derivative.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: Nolan, Univariate Stable Distributions, Springer, 2020, Definitions 1.4 and 1.5.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "alpha": _Index(),
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
        if check:
            _check.index_or_tensor("alpha", alpha, 2)
            _check.skewness_or_tensor("beta", beta)
            _check.real_or_tensor("loc", loc)
            _check.positive_or_tensor("scale", scale)
        values = broadcast_all(alpha, beta, loc, scale)
        tensors = [value for value in (alpha, beta, loc, scale) if isinstance(value, Tensor)]
        # As torch promotes: a tensor without dimensions decides only where there is no other.
        tensors = [value for value in tensors if value.dim()] or tensors or [values[0]]
        dtype = reduce(torch.promote_types, (value.dtype for value in tensors))
        for name, value in zip(PARAMETERS, values, strict=True):
            setattr(self, name, value.to(dtype))
        if check:
            _check.positive_or_tensor("scale", self.scale)  # a float may underflow
        super().__init__(self.alpha.shape, validate_args=False)  # done, with better messages
        self._validate_args = check

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

    def _loc_s1(self) -> Tensor:
        """Return loc in the form S1, in float64: the end of the support of a half-line law."""
        alpha, beta, loc, scale = self._doubles()
        return loc if self.parameterization == "S1" else loc - s1_shift(alpha, beta, scale)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """A half-line where all laws have alpha < 1 and beta = 1, or all beta = -1; else reals."""
        half_line = on_half_line(self.alpha, self.beta)
        for sign, half in ((1, constraints.greater_than_eq), (-1, _AtMost)):
            if self.alpha.numel() and bool((half_line & (self.beta == sign)).all()):
                return half(self._loc_s1().detach().to(self.loc.dtype))
        return constraints.real

    @property
    def mean(self) -> Tensor:
        """S1's loc for alpha > 1, else nan: there is no mean."""
        return torch.where(self.alpha > 1, self._loc_s1().to(self.loc.dtype), math.nan)

    @property
    def variance(self) -> Tensor:
        """2 scale^2 for alpha = 2, else inf."""
        return torch.where(self.alpha == 2, 2 * self.scale.square(), math.inf)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        """Draw from torch's global generator, differentiable in the four parameters."""
        shape = self._extended_shape(sample_shape)
        like = self.alpha.new_empty(shape.numel(), dtype=torch.float64)
        angle, uniform = (bits.view(shape) for bits in _draws.uniforms(like, None))
        draws = FORMS[self.parameterization](*self._doubles(), angle, uniform)
        return draws.to(self.loc.dtype)

    def _standard(self, value: Tensor) -> Tensor:
        """Return the points of S0(alpha, beta), -inf and inf for those off a half-line."""
        _check.any_tensor("value", value)
        _check.broadcasts_with("value", value, self.batch_shape)
        alpha, beta, loc, scale = self._doubles()
        z = (value.double() - loc) / scale
        if self.parameterization == "S1":
            z = z - s1_shift(alpha, beta, scale) / scale
        half_line = on_half_line(alpha, beta)
        if bool(half_line.any()):
            off = half_line & (beta * (value.double() - self._loc_s1()) <= 0)
            z = torch.where(off, -beta.detach() * math.inf, z)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, see ``heavytail.laws._integrals.log_density``."""
        z = self._standard(value)
        if self._validate_args:
            self._validate_sample(value)
        log_f = _integrals.log_density(z, self.alpha.double(), self.beta.double())
        return (log_f - torch.log(self.scale.double())).to(self.loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value)."""
        F = _integrals.cdf(self._standard(value), self.alpha.double(), self.beta.double())
        return F.to(self.loc.dtype)

    def sf(self, value: Tensor) -> Tensor:
        """Return P(X > value), to relative precision where it is small."""
        S = _integrals.sf(self._standard(value), self.alpha.double(), self.beta.double())
        return S.to(self.loc.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of a level in [0, 1]: safeguarded Newton on the log of a tail.

        The ends of the support at 0 and 1, nan outside. Differentiable in the level and in the
        parameters. Near a level of 1 the level's own rounding is the error. It takes some ten
        evaluations of the distribution function, by quadrature for fewer than 2000 levels.
        """
        _check.any_tensor("value", value)
        _check.broadcasts_with("value", value, self.batch_shape)
        bad = ~((value >= 0) & (value <= 1))  # nan too
        if self._validate_args and bool(bad.any()):
            raise ValueError(f"level must be in [0, 1], got {value[bad][0]:g}")
        alpha, beta, loc, scale = self._doubles()
        z = _integrals.quantile(value.double(), alpha, beta)
        x = loc + scale * z
        if self.parameterization == "S1":
            x = x + s1_shift(alpha, beta, scale)
        return within_support(x, alpha, beta, self._loc_s1()).to(self.loc.dtype)
