"""Rates: the power by which measured errors fall, with its standard error.

The slope is that of log error on log size, by least squares. Its standard error is a bootstrap over
seeds of the whole fit: errors at different x of one seed share starts and noise, so that residuals
say nothing.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from heavytail import _check

STATISTICS = ("mean", "geometric", "median")
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Rates:
    """Errors of several seeds that fall like a power of x, and the fit of the power."""

    x: Tensor  #: shape (m,), m >= 2, float64: the widths, or the step sizes, all different
    errors: Tensor  #: shape (seeds, m), seeds >= 2, float64, > 0
    size: Tensor  #: shape (m,), float64, > 0: x, corrected for a reference that is finite
    statistic: str = "geometric"  #: over seeds: that, exp of the mean of logs; "mean"; "median"
    sup: "Rates | None" = None  #: of a supremum: over time for widths, over particles for steps

    def __post_init__(self) -> None:
        _check.one_of("statistic", self.statistic, STATISTICS)
        for name in ("x", "errors", "size"):
            value = _check.tensor(name, getattr(self, name)).detach().double()
            _check.numbers(name, value, _check.POSITIVE)
            object.__setattr__(self, name, value)
        m = max(self.x.numel(), 2)
        for name, value in (("x", self.x), ("size", self.size)):
            if value.shape != (m,) or len(value.unique()) < m:
                raise ValueError(f"{name} must hold {m} different numbers, got {value}")
        if self.errors.dim() != 2 or len(self.errors) < 2 or self.errors.shape[1] != m:
            raise ValueError(f"errors must be (2 or more, {m}), got {tuple(self.errors.shape)}")
        if not isinstance(self.sup, Rates | None):
            raise TypeError(f"sup must be Rates or None, got {self.sup!r}")

    @property
    def error(self) -> Tensor:
        """The statistic of the errors, shape (m,)."""
        return self._log_error(self.errors).exp()

    @property
    def stderr(self) -> Tensor:
        """The standard error of :attr:`error`, shape (m,)."""
        return self.error * self._spread((self._resampled - self.error.log()).exp())

    @property
    def slope(self) -> float:
        """The fitted power."""
        return float(self._slope(self._log_error(self.errors)))

    @property
    def slope_stderr(self) -> float:
        """The standard error of :attr:`slope`."""
        return float(self._spread(self._slope(self._resampled)))

    @property
    def local_slopes(self) -> Tensor:
        """The power between neighbouring x, shape (m - 1,)."""
        return self._log_error(self.errors).diff() / self.size.log().diff()

    @property
    def local_stderr(self) -> Tensor:
        """The standard errors of :attr:`local_slopes`."""
        return self._spread(self._resampled.diff() / self.size.log().diff())

    def between(self, low: float, high: float) -> "Rates":
        """Return the rates of low <= x <= high, at least two; -inf and inf are no bounds."""
        low, high = (_check.number(*v, "[-inf, inf]") for v in (("low", low), ("high", high)))
        inside = (self.x >= low) & (self.x <= high)
        if inside.sum() < 2:
            raise ValueError(f"low and high must hold two of x or more, got {low:g} and {high:g}")
        sup = None if self.sup is None else self.sup.between(low, high)
        parts = self.x[inside], self.errors[:, inside], self.size[inside]
        return Rates(*parts, self.statistic, sup)

    def __repr__(self) -> str:
        seeds, fit = len(self.errors), f"{self.slope:.3f} +- {self.slope_stderr:.3f}"
        return f"Rates(slope {fit}, {self.statistic} of {seeds} seeds, x = {self.x.tolist()})"

    def _log_error(self, errors: Tensor) -> Tensor:
        if self.statistic == "median":
            return errors.quantile(0.5, 0).log()
        logs, R = errors.log(), len(errors)  # of the mean too: a sum of errors may leave the floats
        return logs.mean(0) if self.statistic == "geometric" else logs.logsumexp(0) - math.log(R)

    def _slope(self, log_error: Tensor) -> Tensor:
        u = self.size.log() - self.size.log().mean()
        return log_error @ u / (u @ u)

    @cached_property
    def _resampled(self) -> Tensor:
        """The log errors of resampled seeds, (resamples, m); the same for the same errors."""
        generator, R = torch.Generator().manual_seed(0), len(self.errors)
        picks = torch.randint(R, (_RESAMPLES, R), generator=generator, device="cpu")
        return torch.stack([self._log_error(self.errors[pick]) for pick in picks])

    def _spread(self, values: Tensor) -> Tensor:
        """Return the standard deviation over resamples, without its bias for few seeds."""
        R = len(self.errors)
        return values.std(0) * math.sqrt(R / (R - 1))
