r"""How wide is wide enough: the law of the pruning error, and the width that makes it small.

Let R_1, ..., R_n be the norms of independent columns with one law, with a tail
P(R > r) ~ c r^{-alpha}, alpha < 2. Their squares add up, nearly, to

    sum R_i^2 = n^{2/alpha} (c Gamma(1 - alpha/2))^{2/alpha} A + n b,
    b = lim E min(R^2, z) - c z^{1 - alpha/2} / (1 - alpha/2) as z grows,

A being standard positive (alpha/2)-stable, made by the large columns; b is 0 for stable noise
alone, the mean square of the start's norm for a start plus noise.

The (1 - kappa) n smallest squares add up to n m(kappa), m(kappa) being the mean of R^2 counted as 0
above the (1 - kappa)-quantile of R. So the relative error of keeping the fraction kappa is

    eps_n(kappa) = sqrt( m(kappa) / (n^{2/alpha - 1} (c Gamma(1 - alpha/2))^{2/alpha} A + b) ),

cut at 1: where b = 0, the limit in law of the error times n^{1/alpha - 1/2}. Where alpha is 1 or
more and 50 columns or more are kept, its quantiles are right to some percent from n = 1000 on. With
few columns kept it is too small, by a tenth at kappa n = 3.

An argument outside the set that its line names is a TypeError or a ValueError; an ArithmeticError
says where the floats end. Source: ours; Wan et al. 2024 prove that the error vanishes.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from heavytail import _check
from heavytail.compression.prediction import noise_terms, squared_norms
from heavytail.compression.pruning import finite_norms, kept_columns, relative_error
from heavytail.laws.distribution import Stable
from heavytail.laws.draws import tail_constant
from heavytail.noise import noise_tail_constant

_AT_ONCE = 1 << 22  # coordinates of columns
_SCALES = "[1e-100, 1e100]"  # squares stay within the floats; no error depends on the scale


@dataclass(frozen=True, eq=False)
class ColumnLaw:
    """The law of a column's norm R, as far as pruning needs it: |S(alpha)S(scale)|, or a sample."""

    alpha: float  #: stability index in (0, 2]
    tail: float  #: c >= 0 in P(R > r) ~ c r^-alpha; 0 at alpha = 2
    light: float  #: b in the unit of R^2, see the module; E R^2 at alpha = 2
    norms: Tensor | None = field(default=None, repr=False)  #: sample: (N,), float64, ascending
    scale: float = 1.0  #: in [1e-100, 1e100], without a sample

    def __post_init__(self) -> None:
        _check.number("alpha", self.alpha, "(0, 2]")
        _check.number("tail", self.tail, _check.NONNEGATIVE)
        _check.number("light", self.light)
        _check.number("scale", self.scale, _SCALES)
        if (self.tail == 0) != (self.alpha == 2):
            raise ValueError(f"tail must be 0 at alpha = 2 only, got {self.tail:g}")

    @classmethod
    def stable(cls, alpha: float, *, scale: float = 1.0) -> "ColumnLaw":
        """Return the law of |X|, X ~ S(alpha)S(scale); for type I in R^d scale is sqrt(d) sigma."""
        tail = tail_constant(alpha) * _check.number("scale", scale, _SCALES) ** alpha
        return cls(alpha, tail, 2 * scale**2 if alpha == 2 else 0.0, scale=scale)

    @classmethod
    def noisy(
        cls,
        start: Tensor | int,
        *,
        kind: str,
        alpha: float,
        scale: float,
        samples: int = 1_000_000,
        generator: torch.Generator | None = None,
    ) -> "ColumnLaw":
        """Return the law of a start plus noise, ||theta_0 + scale xi||, by simulation.

        Args:
            start: columns, shape (n, d), finite, of which each draw takes one in turn; or the
                dimension d >= 1, for noise alone.
            kind: ``"shared"``, ``"independent"`` or ``"isotropic"``.
            alpha: stability index in (0, 2].
            scale: that of all noise together, in [1e-100, 1e100], see
                :func:`heavytail.compression.prediction.accumulated_scale`.
            samples: number of draws, >= 1000.
            generator: source of the random bits, on the start's device; None is the global one.
        """
        scale = _check.number("scale", scale, _SCALES)
        samples = _check.count("samples", samples, 1000)
        if not isinstance(start, Tensor):
            device = torch.device("cpu") if generator is None else generator.device
            start = torch.zeros(1, _check.count("start", start, 1), device=device)
        finite_norms("start", start)
        columns = start.detach().flatten(1).double()
        n, d = columns.shape
        tail = noise_tail_constant(kind, alpha, d) * scale**alpha
        terms = noise_terms(columns, samples, max(1, _AT_ONCE // d), kind, alpha, generator)
        squares = columns.square().sum(1)
        each = squares[torch.arange(samples, device=columns.device) % n]
        norms = squared_norms(each, *terms, scale).sqrt().sort().values
        light = norms.square().mean() if alpha == 2 else squares.mean()
        return cls(alpha, tail, float(light), norms)

    @classmethod
    def of(cls, columns: Tensor, *, alpha: float, tail: float) -> "ColumnLaw":
        """Return the law of which columns are a sample, their tail constant being known.

        ``light`` is read off at the z that 3 in 1000 columns exceed.

        Args:
            columns: shape (N, d), N >= 1000, finite and independent: particles at time t, say.
            alpha: stability index in (1, 2].
            tail: c > 0, not read at alpha = 2; under a bounded drift, sigma^alpha t times
                :func:`heavytail.noise_tail_constant`.
        """
        alpha = _check.number("alpha", alpha, "(1, 2]")
        norms = finite_norms("columns", columns).sort().values
        if len(norms) < 1000:
            raise ValueError(f"columns must be 1000 or more, got {len(norms)}")
        if alpha == 2:
            return cls(alpha, 0.0, float(norms.square().mean()), norms)
        tail = _check.number("tail", tail, _check.POSITIVE)
        z = float(norms[-round(0.003 * len(norms)) - 1]) ** 2
        light = float(norms.square().clamp_max(z).mean())
        light -= tail * z ** (1 - alpha / 2) / (1 - alpha / 2)
        return cls(alpha, tail, light, norms)

    def dropped(self, keep: float) -> float:
        """Return m(keep), ``keep`` in [0, 1]: inf at 0 for alpha < 2."""
        keep = _check.number("keep", keep, "[0, 1]")
        if keep == 1:
            return 0.0
        if keep == 0 and self.alpha < 2:
            return math.inf
        if self.norms is None:
            bulk = _stable_bulk(self.alpha, keep) * self.scale**2 if keep else self.light
        else:  # beyond the 100 largest of a sample the tail is taken from its constant
            n = len(self.norms)
            most = keep if self.alpha == 2 else max(keep, min(100 / n, 1.0))
            bulk = float(self.norms[: n - round(most * n)].square().sum()) / n
            if most > keep:
                power = 1 - 2 / self.alpha
                bulk += self.tail ** (2 / self.alpha) * (keep**power - most**power) / -power
        if not math.isfinite(bulk):
            raise ArithmeticError(f"m({keep:g}) leaves the floats at alpha = {self.alpha:g}")
        return bulk

    def _log_needed(self, keep: float, error: Tensor) -> Tensor:
        """Return log(m(keep) / error^2 - b), -inf where that is not positive."""
        root = math.sqrt(self.dropped(keep)) / error  # its square may leave the floats
        root = root.nan_to_num(0, posinf=math.inf)  # 0 / 0: nothing is lost
        light = torch.where(root > 0, self.light / root / root, 1.0).clamp_max(1)
        return 2 * root.log() + torch.log1p(-light)

    @property
    def strength(self) -> float:
        """(c Gamma(1 - alpha/2))^{2/alpha}: what multiplies n^{2/alpha} A; 0 at alpha = 2."""
        return float(_double(self._log_strength).exp())

    @property
    def _log_strength(self) -> float:
        a = self.alpha / 2
        return (math.log(self.tail) + math.lgamma(1 - a)) / a if a < 1 else -math.inf


@dataclass(frozen=True, eq=False)
class PruningErrorLaw:
    """The law of eps_n(keep), the relative error (the norm, not its square)."""

    columns: ColumnLaw
    keep: float  #: fraction of columns kept, in [0, 1]
    n: float  #: number of columns

    def quantile(self, p: float | Tensor) -> Tensor:
        """Return the p-quantile, p in (0, 1); shape of ``p``, float64, in [0, 1]."""
        level, law = _double(_check.numbers("p", p, "(0, 1)")), self.columns
        if self.keep in (0, 1):
            return torch.full_like(level, 1 - self.keep)
        A = _heavy_law(law.alpha).icdf(1 - level) if law.alpha < 2 else 0 * level
        ratio = (torch.exp(self._log_heavy + A.log()) + law.light) / law.dropped(self.keep)
        # At small n the sum of two parts may say that the kept columns have less than nothing.
        return _found("quantile", law.alpha, ratio.clamp_min(1).rsqrt())

    def cdf(self, error: float | Tensor) -> Tensor:
        """Return P(eps_n <= error), ``error`` in [0, 1]; its shape, float64."""
        e, alpha = _double(_check.numbers("error", error, "[0, 1]")), self.columns.alpha
        needed = self.columns._log_needed(self.keep, e)
        if alpha == 2:
            below = needed.isneginf().double()
        else:
            below = _heavy_law(alpha).sf(torch.exp(needed - self._log_heavy))
        return _found("cdf", alpha, torch.where(e == 1, 1.0, below))

    @property
    def _log_heavy(self) -> float:
        """log(n^{2/alpha - 1} strength)."""
        return (2 / self.columns.alpha - 1) * math.log(self.n) + self.columns._log_strength

    def __str__(self) -> str:
        found = ", ".join(f"{p} %: {self.quantile(p / 100):.3g}" for p in (5, 10, 50, 90, 95))
        return f"error of keeping {self.keep:.4g} of {self.n:g} columns, by quantile:\n{found}"


def pruning_error_law(
    alpha: float, keep: float, n: float, *, columns: ColumnLaw | None = None
) -> PruningErrorLaw:
    """Return the law of the relative error when, of n random columns, the largest are kept.

    Args:
        alpha: stability index in (0, 2].
        keep: fraction kept, kappa in [0, 1].
        n: number of columns, >= 1; may be as large as a float is.
        columns: their law, of the same alpha; None is |S(alpha)S(1)|, dimension 1.
    """
    keep, n = _check.number("keep", keep, "[0, 1]"), _check.number("n", n, "[1, inf)")
    return PruningErrorLaw(_columns(alpha, columns), keep, n)


def required_width(
    alpha: float,
    keep: float,
    error: float,
    delta: float,
    *,
    columns: ColumnLaw | None = None,
    log10: bool = False,
) -> float:
    r"""Return the n from which on P(eps_n(keep) <= error) >= 1 - delta, by the limit law.

        n^{2/alpha - 1} = (m(keep) / error^2 - b) / ((c Gamma(1 - alpha/2))^{2/alpha} q_A(delta))

    with q_A the quantile function of A: n >= 1, not rounded; inf where no width will do, as at
    alpha = 2, or where the float ends. Where keep times n is below 50 the law fails: read "small".

    Args:
        alpha: stability index in (0, 2].
        keep: fraction kept, kappa in (0, 1].
        error: allowed relative error in (0, 1]: the norm, not its square.
        delta: allowed probability of a larger error, in (0, 1).
        columns: as for :func:`pruning_error_law`.
        log10: return the logarithm of n to base 10: n itself may leave the floats.
    """
    columns = _columns(alpha, columns)
    keep, error = _check.number("keep", keep, "(0, 1]"), _check.number("error", error, "(0, 1]")
    delta = _check.number("delta", delta, "(0, 1)")
    needed = float(columns._log_needed(keep, _double(error)))
    if needed == -math.inf or error == 1:
        logarithm = 0.0
    elif columns.alpha == 2:
        logarithm = math.inf
    else:
        needed -= columns._log_strength + math.log(_low_quantile(alpha, delta))
        logarithm = max(0.0, needed * alpha / (2 - alpha))
    return logarithm / math.log(10) if log10 else float(_double(logarithm).exp())


@dataclass(frozen=True)
class Certificate:
    """A trained matrix beside the law."""

    keep: float  #: fraction of columns kept, in [0, 1]
    error: float  #: relative error of that pruning: the norm, not its square
    law: PruningErrorLaw  #: what the law says of this error
    #: P(eps_n(keep) <= error), in [0, 1]: near 0 the matrix compresses better than the law has it,
    #: near 1 worse; nan where all columns are kept or none
    level: float

    def __str__(self) -> str:
        found = f"kept {self.keep:.4g} of the columns at a relative error of {self.error:.4g}"
        return f"{found},\nthe law's {100 * self.level:.3g} % quantile\n{self.law}"


def certificate(
    weight: Tensor, columns: ColumnLaw, *, keep: float | None = None, error: float | None = None
) -> Certificate:
    """Prune one weight matrix, as :func:`heavytail.prune` would, and hold it against the law.

    ``columns`` is the law that the columns should have; the other arguments are those of
    :func:`heavytail.kept_columns`, with one column or more.
    """
    columns = _columns(None, columns)
    n = len(finite_norms("weight", weight))
    kept = kept_columns(weight, keep=keep, error=error)
    k, found = int(kept.sum()), relative_error(weight, kept)
    law = pruning_error_law(columns.alpha, k / n, n, columns=columns)
    return Certificate(k / n, found, law, float(law.cdf(found)) if 0 < k < n else math.nan)


def _columns(alpha: float | None, columns: ColumnLaw | None) -> ColumnLaw:
    if columns is None and alpha is not None:
        return ColumnLaw.stable(alpha)
    if not isinstance(columns, ColumnLaw):
        raise TypeError(f"columns must be a ColumnLaw, got {type(columns).__name__}")
    if alpha not in (None, columns.alpha):
        raise ValueError(f"alpha must be that of columns, {columns.alpha:g}, got {alpha!r}")
    return columns


@lru_cache(maxsize=1024)
def _stable_bulk(alpha: float, keep: float) -> float:
    """Return m(keep) of |S(alpha)S(1)|, 0 < keep < 1."""
    # By parts: the integral of 2r (P(R > r) - keep) dr up to the quantile, at r = top e^{-u}.
    law = Stable(_double(alpha))
    top = -law.icdf(_double(keep / 2))
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(160))
    r = top * torch.exp(-10 * (nodes + 1))  # u up to 20
    return float((20 * weights * r**2 * (2 * law.sf(r) - keep)).sum())


@lru_cache(maxsize=1024)
def _low_quantile(alpha: float, delta: float) -> float:
    """Return q_A(delta), alpha < 2."""
    q = _heavy_law(alpha).icdf(_double(delta))
    return float(_found("the quantile of A", alpha, torch.where(q > 0, q, math.nan)))


def _heavy_law(alpha: float) -> Stable:
    """Return the law of A, alpha < 2, on a half-line: S1 at loc 0."""
    e = 1 - _double(alpha) / 2
    return Stable(1 - e, 1.0, scale=torch.sin(math.pi / 2 * e) ** (1 / (1 - e)))


def _double(value: float | Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=getattr(value, "device", "cpu"))


def _found(name: str, alpha: float, value: Tensor) -> Tensor:
    if value.isnan().any():
        raise ArithmeticError(f"{name} leaves the floats at alpha = {alpha:g}")
    return value
