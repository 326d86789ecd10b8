import math
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

import heavytail
from heavytail import (
    ColumnLaw,
    certificate,
    noise_tail_constant,
    noise_vectors,
    positive_stable,
    pruning_error_law,
    required_width,
    symmetric_stable,
    tail_constant,
)
from heavytail.compression.width import _heavy_law
from heavytail.noise import KINDS

LEVELS = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
EXACT = ColumnLaw.stable(1.5)


def errors_of(columns: Tensor, keep: float) -> Tensor:
    """Return eps_n(keep) of each matrix, from columns (repetitions, n, d) or norms (.., n, 1)."""
    squares = columns.square().sum(2).sort(1).values
    n = squares.shape[1]
    return (squares[:, : n - round(keep * n)].sum(1) / squares.sum(1)).sqrt()


def simulated(kind, alpha, n, repetitions, generator, d=5, keep=0.1):
    """Return the errors of so many matrices of noise alone, in parts that fit the memory."""
    source = {"generator": generator, "dtype": torch.float64}
    at_once = max(1, 4_000_000 // (n * d))
    parts = [min(at_once, repetitions - i) for i in range(0, repetitions, at_once)]
    return torch.cat(
        [
            errors_of(noise_vectors(kind, alpha, k * n, d, **source).view(k, n, d), keep)
            for k in parts
        ]
    )


def uniform(levels: Tensor) -> float:
    """Return Kolmogorov's and Smirnov's p-value of uniform levels."""
    return float(stats.kstest(levels.numpy(), "uniform").pvalue)


# The law of a column.


@pytest.mark.parametrize("kind", KINDS)
def test_tail_constants_of_noise(kind, generator):
    assert noise_tail_constant(kind, 1.5, 1) == pytest.approx(tail_constant(1.5))
    assert noise_tail_constant(kind, 2.0, 5) == 0
    assert math.isfinite(noise_tail_constant(kind, 1.9, 10_000))
    n, c = 1_000_000, noise_tail_constant(kind, 1.5, 5)
    norms = noise_vectors(kind, 1.5, n, 5, generator=generator, dtype=torch.float64).norm(dim=1)
    beyond = int((norms > (c * n / 1000) ** (1 / 1.5)).sum())  # a thousand are expected
    assert abs(beyond / 1000 - 1) < 4 / 1000**0.5 + 0.02  # the tail's second term


@pytest.mark.parametrize("keep", [0.01, 0.2, 0.9])
def test_the_bulk_of_stable_columns(keep):
    """m(keep) against integrals of r^2 times the density: Cauchy, Gauss."""
    q = math.tan(math.pi / 2 * (1 - keep))
    exact, _ = integrate.quad(lambda r: r**2 * 2 / math.pi / (1 + r**2), 0, q, epsrel=1e-11)
    assert exact == pytest.approx(2 / math.pi * (q - math.atan(q)))
    assert ColumnLaw.stable(1.0, scale=3.0).dropped(keep) == pytest.approx(9 * exact, rel=1e-8)
    law = stats.norm(scale=math.sqrt(2) * 3)
    exact, _ = integrate.quad(lambda r: r**2 * 2 * law.pdf(r), 0, law.isf(keep / 2), epsrel=1e-11)
    assert ColumnLaw.stable(2.0, scale=3.0).dropped(keep) == pytest.approx(exact, rel=1e-8)


def test_the_bulk_at_its_ends():
    """The tail: m(keep) ~ alpha / (2 - alpha) c^{2/alpha} keep^{1 - 2/alpha}."""
    power = 3 * tail_constant(1.5) ** (4 / 3) * 1e-9 ** (-1 / 3)
    assert EXACT.dropped(1e-9) == pytest.approx(power, rel=1e-3)
    gauss = ColumnLaw.stable(2.0, scale=3.0)
    assert (gauss.dropped(1.0), gauss.dropped(0.0), EXACT.dropped(0.0)) == (0, 18, math.inf)
    huge = ColumnLaw(1.5, 1.0, 0.0, torch.full((1000,), 1e200, dtype=torch.float64))
    with pytest.raises(ArithmeticError, match=r"m\(0\.5\) leaves the floats"):
        huge.dropped(0.5)


def test_laws_by_simulation_agree_with_the_exact_one(generator):
    exact = ColumnLaw.stable(1.5, scale=0.2 * math.sqrt(3))
    options = {"kind": "shared", "alpha": 1.5, "scale": 0.2, "samples": 300_000}
    drawn = ColumnLaw.noisy(3, **options, generator=generator)
    assert (drawn.tail, drawn.strength) == pytest.approx((exact.tail, exact.strength))
    assert drawn.light == exact.light == 0
    for keep in (1e-9, 1e-4, 0.05, 0.5):  # below 100 of the sample by the tail
        assert drawn.dropped(keep) == pytest.approx(exact.dropped(keep), rel=0.05)
    assert drawn.dropped(0.0) == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_the_light_part_is_the_starts(kind, generator):
    """Where the law is read off columns, b comes out as the mean square of the start."""
    start = torch.randn(1000, 4, generator=generator, dtype=torch.float64) + 1
    options = {"kind": kind, "alpha": 1.7, "scale": 0.1, "samples": 300_000}
    law = ColumnLaw.noisy(start, **options, generator=generator)
    assert law.light == pytest.approx(float(start.square().sum(1).mean()))
    xi = noise_vectors(kind, 1.7, 500_000, 4, generator=generator, dtype=torch.float64)
    read = ColumnLaw.of(start.repeat(500, 1) + 0.1 * xi, alpha=1.7, tail=law.tail)
    assert read.light == pytest.approx(law.light, rel=0.02)
    assert read.dropped(0.3) == pytest.approx(law.dropped(0.3), rel=0.02)
    alone = ColumnLaw.of(10 * xi, alpha=1.7, tail=law.tail * 100**1.7)
    assert abs(alone.light) < 0.1 * float(10 * xi.norm(dim=1).median()) ** 2


# The law of the error.


@pytest.mark.parametrize("kind", KINDS)
def test_errors_follow_the_law(kind, generator):
    """At a thousand columns; of another index they do not."""
    law = ColumnLaw.noisy(5, kind=kind, alpha=1.75, scale=1.0, samples=300_000, generator=generator)
    errors = simulated(kind, 1.75, 1000, 600, generator)
    assert uniform(pruning_error_law(1.75, 0.1, 1000, columns=law).cdf(errors)) > 1e-5
    other = ColumnLaw.stable(1.6)
    assert uniform(pruning_error_law(1.6, 0.1, 1000, columns=other).cdf(errors)) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.75, 1.9])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_follow_the_law_at_many_columns(kind, alpha, generator):
    law = ColumnLaw.noisy(5, kind=kind, alpha=alpha, scale=1.0, generator=generator)
    for keep in (0.1, 0.5):
        errors = simulated(kind, alpha, 100_000, 400, generator, keep=keep)
        assert uniform(pruning_error_law(alpha, keep, 100_000, columns=law).cdf(errors)) > 1e-5


def test_start_and_noise(generator):
    """Columns like those of a network on series of 140 numbers: the median, with b and without."""
    n, scale = 2000, 0.003 * 20 ** (1 / 1.75)

    def starts():
        out = torch.empty(n, 140, dtype=torch.float64)
        return out.uniform_(-(140**-0.5), 140**-0.5, generator=generator)

    options = {"kind": "shared", "alpha": 1.75, "scale": scale, "samples": 200_000}
    law = ColumnLaw.noisy(starts(), **options, generator=generator)
    errors = []
    for _ in range(400):
        zeta = symmetric_stable(1.75, (n, 1), generator=generator, dtype=torch.float64)
        errors.append(errors_of((starts() + scale * zeta)[None], 0.1))
    found = float(torch.cat(errors).median())
    predicted = float(pruning_error_law(1.75, 0.1, n, columns=law).quantile(0.5))
    assert found == pytest.approx(predicted, rel=0.03)
    bare = ColumnLaw(law.alpha, law.tail, 0.0, law.norms)
    assert float(pruning_error_law(1.75, 0.1, n, columns=bare).quantile(0.5)) > 1.1 * found


def test_a_law_is_consistent_with_itself():
    law = pruning_error_law(1.6, 0.2, 500)
    p = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    error = law.quantile(p)
    assert error.diff().min() > 0
    assert torch.allclose(law.cdf(error), p, atol=1e-9)
    assert (law.cdf(0.0), law.cdf(1.0)) == (0, 1)
    assert f"500 columns, by quantile:\n5 %: {float(law.quantile(0.05)):.3g}" in str(law)
    assert pruning_error_law(1.9, 0.01, 2).quantile(LEVELS).max() <= 1


def test_scale_does_not_matter():
    one, *others = (
        pruning_error_law(1.4, 0.3, 1e6, columns=ColumnLaw.stable(1.4, scale=c)).quantile(LEVELS)
        for c in (1.0, 1e-100, 1e100)
    )
    assert all(torch.allclose(one, other, rtol=1e-9) for other in others)


def test_gaussian_columns_do_not_compress():
    law = pruning_error_law(2.0, 0.5, 10**9)
    fixed = math.sqrt(law.columns.dropped(0.5) / 2)
    assert law.quantile(LEVELS).tolist() == pytest.approx([fixed] * 3)
    assert (law.cdf(0.9 * fixed), law.cdf(1.1 * fixed)) == (0, 1)
    assert required_width(2.0, 0.5, 0.9 * fixed, 0.05) == math.inf
    assert required_width(2.0, 0.5, 1.1 * fixed, 0.05) == 1


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_keep_all_and_keep_none(keep):
    law = pruning_error_law(1.5, keep, 100)
    assert law.quantile(LEVELS).tolist() == [1 - keep] * 3
    assert law.cdf(0.5) == pytest.approx(keep, abs=1e-12)
    found = certificate(torch.ones(4, 1), EXACT, keep=keep)
    assert found.error == 1 - keep
    assert math.isnan(found.level)


# The width.


def test_the_width_law_inverts_the_law(generator):
    start = ColumnLaw.noisy(
        torch.ones(2, 3), kind="isotropic", alpha=1.4, scale=0.5, generator=generator
    )
    cases = ((1.2, 0.5, 0.1, 0.05, None), (1.6, 0.2, 0.2, 0.3, None), (1.4, 0.3, 0.2, 0.1, start))
    for alpha, keep, error, delta, columns in cases:
        n = required_width(alpha, keep, error, delta, columns=columns)
        law = pruning_error_law(alpha, keep, n, columns=columns)
        assert law.cdf(error) == pytest.approx(1 - delta, abs=1e-8)
        log10 = required_width(alpha, keep, error, delta, columns=columns, log10=True)
        assert log10 == pytest.approx(math.log10(n))


def test_known_widths():
    """Keep 0.1 and 0.5, error 0.1, delta 0.05."""
    found = [
        [required_width(alpha, keep, 0.1, 0.05, log10=True) for alpha in (1.2, 1.5, 1.75, 1.9)]
        for keep in (0.1, 0.5)
    ]
    assert found[0] == pytest.approx([4.22, 7.03, 14.32, 35.71], abs=0.01)
    assert found[1] == pytest.approx([2.49, 4.05, 7.82, 18.48], abs=0.01)
    assert required_width(1.2, 0.5, 1.0, 0.05) == required_width(1.2, 1.0, 0.1, 0.05) == 1


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5, 1.0, 1.2, 1.5, 1.9, 1.999999])
def test_the_heavy_part(alpha, generator):
    """Quantiles rise with 500 levels, so that widths fall; E exp(-A) = exp(-1); draws have it."""
    A, levels = _heavy_law(alpha), (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    quantiles = A.icdf(levels)
    assert quantiles.diff().min() > 0
    assert torch.allclose(A.cdf(quantiles), levels, rtol=1e-8)
    assert float(torch.exp(-quantiles).mean()) == pytest.approx(math.exp(-1), abs=1e-4)
    widths = [required_width(alpha, 0.5, 0.1, d, log10=True) for d in (0.01, 0.33, 0.34, 0.35)]
    assert widths == sorted(widths, reverse=True)
    if alpha == 1:  # Levy's law
        assert torch.allclose(A.cdf(LEVELS), torch.special.erfc(0.5 * LEVELS.rsqrt()), rtol=1e-12)
    source = {"generator": generator, "dtype": torch.float64}
    assert uniform(A.cdf(positive_stable(alpha / 2, 1000, **source))) > 1e-5
    assert uniform(A.cdf(positive_stable(alpha / 4, 1000, **source))) < 1e-5


def test_the_width_at_the_ends():
    """It grows with alpha up to 2, where no width will do; and with the error's fall."""
    alphas = [1.5, 1.9, 1.999, 1.9999, 1.99999, 1.999999, 2.0]
    wide = [required_width(alpha, 0.1, 0.1, 0.05, log10=True) for alpha in alphas]
    assert wide == sorted(wide)
    assert wide[-1] == math.inf > wide[-2] > 1e6
    assert required_width(1.99, 0.1, 0.1, 0.05) == math.inf
    tiny = required_width(1.5, 0.1, 1e-200, 0.05, log10=True)
    assert tiny == pytest.approx(required_width(1.5, 0.1, 0.1, 0.05, log10=True) + 199 * 6)
    assert pruning_error_law(0.5, 0.1, 1e308).quantile(0.5) == 0
    nothing = ColumnLaw(2.0, 0.0, 0.0, torch.zeros(1000, dtype=torch.float64))
    law = pruning_error_law(2.0, 0.5, 9, columns=nothing)
    assert law.cdf(0.0) == 1
    with pytest.raises(ArithmeticError, match="quantile leaves the floats at alpha = 2"):
        law.quantile(0.5)


# A trained matrix beside the law.


def test_a_certificate_says_what_prune_does(generator):
    layer = torch.nn.Linear(5, 200)
    with torch.no_grad():
        layer.weight.copy_(noise_vectors("isotropic", 1.5, 200, 5, generator=generator))
    law = ColumnLaw.noisy(5, kind="isotropic", alpha=1.5, scale=1.0, generator=generator)
    found = certificate(layer.weight, law, error=0.3)
    assert found.level == pruning_error_law(1.5, found.keep, 200, columns=law).cdf(found.error)
    assert 0.001 < found.level < 0.999
    gaussian = torch.randn(200, 5, generator=generator)
    assert certificate(gaussian, law, keep=0.1).level > 0.9999
    report = heavytail.prune(torch.nn.Sequential(layer), error=0.3, layers="0")
    assert found.keep == report.kept / report.units
    assert found.error == report.error
    assert f"{found.error:.4g}" in str(found)


WRONG: Any = 1.0
FEW: dict[str, Any] = {"kind": "shared", "alpha": 1.5, "scale": 1.0, "samples": 10}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ColumnLaw.stable(2.5), r"alpha must be in \(0, 2\], got 2.5"),
        (lambda: ColumnLaw(2.0, 1.0, 0.0), "tail must be 0 at alpha = 2 only, got 1"),
        (lambda: ColumnLaw.noisy(3, **FEW), "samples must be >= 1000, got 10"),
        (lambda: ColumnLaw.of(torch.ones(9, 2), alpha=1.5, tail=1.0), "1000 or more, got 9"),
        (lambda: pruning_error_law(1.5, 0.1, 0.5), r"n must be in \[1, inf\), got 0.5"),
        (lambda: pruning_error_law(1.6, 0.1, 9, columns=EXACT), "that of columns, 1.5, got 1.6"),
        (lambda: pruning_error_law(1.5, 0.1, 9, columns=WRONG), "must be a ColumnLaw, got float"),
        (lambda: pruning_error_law(1.5, 0.1, 9).quantile(1.0), r"p must be in \(0, 1\), got 1"),
        (lambda: required_width(1.5, 0.1, 0.1, 1.0), r"delta must be in \(0, 1\), got 1"),
        (lambda: certificate(torch.ones(0, 2), EXACT, keep=0.5), "not empty, got"),
    ],
)
def test_bad_input_stops_at_the_door(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
