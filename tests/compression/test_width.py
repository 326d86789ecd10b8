import math

import pytest
import torch
from torch import Tensor

import heavytail
from heavytail import noise_tail_constant, noise_vectors, symmetric_stable, tail_constant
from heavytail.compression.width import ColumnLaw, certificate, pruning_error_law, required_width
from heavytail.noise import KINDS

LEVELS = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
KEEP = (0.1, 0.5)
D = 20


def errors_of(squares: Tensor, keep: float) -> Tensor:
    """Return eps_n(keep) of each row of squared norms, shape (repetitions, n), ascending."""
    n = squares.shape[1]
    dropped = squares[:, : n - round(keep * n)].sum(1)
    return (dropped / squares.sum(1)).sqrt()


def simulated(kind, alpha, n, repetitions, generator, d=D):
    """Return so many errors for each of KEEP."""
    at_once = max(1, 4_000_000 // (n * d))
    found = []
    for first in range(0, repetitions, at_once):
        size = min(at_once, repetitions - first)
        xi = noise_vectors(kind, alpha, size * n, d, generator=generator, dtype=torch.float64)
        squares = xi.square().sum(1).view(size, n).sort(1).values
        found.append(torch.stack([errors_of(squares, keep) for keep in KEEP]))
    return torch.cat(found, 1)


def misses(errors, law, generator):
    """Return by how much more than 4 standard errors each quantile is off, in parts of itself."""
    found = errors.quantile(LEVELS)
    again = torch.randint(len(errors), (200, len(errors)), generator=generator)
    stderr = errors[again].quantile(LEVELS, dim=1).std(1)
    return (found / law.quantile(LEVELS) - 1).abs() - 4 * stderr / found


# Constants of the columns.


@pytest.mark.parametrize("alpha", [0.8, 1.5, 1.9])
@pytest.mark.parametrize("kind", KINDS)
def test_tail_constants_of_noise(kind, alpha, generator):
    assert noise_tail_constant(kind, alpha, 1) == pytest.approx(tail_constant(alpha))
    n, d = 1_000_000, 5
    norms = noise_vectors(kind, alpha, n, d, generator=generator, dtype=torch.float64).norm(dim=1)
    c = noise_tail_constant(kind, alpha, d)
    level = (c * n / 1000) ** (1 / alpha)  # a thousand are expected beyond
    beyond = int((norms > level).sum())
    slack = 0.02 if alpha < 1.9 else 0.1  # the tail's second term
    assert abs(beyond / 1000 - 1) < 4 / 1000**0.5 + slack
    assert noise_tail_constant(kind, 2.0, d) == 0
    assert math.isfinite(noise_tail_constant(kind, alpha, 10_000))


def test_the_bulk_of_stable_columns():
    """Closed forms: Gauss, Cauchy; and by draws."""
    cauchy = ColumnLaw.stable(1.0, scale=3.0)
    for keep in (0.01, 0.2, 0.9):
        q = math.tan(math.pi / 2 * (1 - keep))
        exact = 9 * (2 / math.pi) * (q - math.atan(q))
        assert cauchy.dropped(keep) == pytest.approx(exact, rel=1e-8)
        gauss = ColumnLaw.stable(2.0, scale=3.0)  # N(0, 2 * 9)
        z = math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - keep, dtype=torch.float64)))
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        assert gauss.dropped(keep) == pytest.approx(18 * (1 - keep - 2 * z * density), rel=1e-8)
    assert gauss.dropped(1.0) == 0
    assert gauss.dropped(0.0) == 18
    assert cauchy.dropped(0.0) == math.inf
    # The tail: m(keep) ~ alpha / (2 - alpha) c^{2/alpha} keep^{1 - 2/alpha}.
    c, keep = tail_constant(1.5), 1e-9
    power = 1.5 / 0.5 * c ** (2 / 1.5) * keep ** (1 - 2 / 1.5)
    assert ColumnLaw.stable(1.5).dropped(keep) == pytest.approx(power, rel=1e-3)


def test_laws_by_simulation_agree_with_the_exact_one(generator):
    exact = ColumnLaw.stable(1.5, scale=0.2 * math.sqrt(3))
    drawn = ColumnLaw.noisy(3, kind="shared", alpha=1.5, scale=0.2, generator=generator)
    assert drawn.tail == pytest.approx(exact.tail)
    assert drawn.light == exact.light == 0
    assert drawn.strength == pytest.approx(exact.strength)
    for keep in (0.05, 0.1, 0.5):
        assert drawn.dropped(keep) == pytest.approx(exact.dropped(keep), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_light_part_is_the_starts(kind, generator):
    """Where the law is read off columns, b comes out as the mean square of the start."""
    start = torch.randn(1000, 4, generator=generator, dtype=torch.float64) + 1
    law = ColumnLaw.noisy(start, kind=kind, alpha=1.7, scale=0.1, generator=generator)
    assert law.light == pytest.approx(float(start.square().sum(1).mean()))
    xi = noise_vectors(kind, 1.7, 500_000, 4, generator=generator, dtype=torch.float64)
    columns = start.repeat(500, 1) + 0.1 * xi
    read = ColumnLaw.of(columns, alpha=1.7, tail=law.tail)
    assert read.light == pytest.approx(law.light, rel=0.02)
    assert read.dropped(0.3) == pytest.approx(law.dropped(0.3), rel=0.02)
    alone = ColumnLaw.of(10 * xi, alpha=1.7, tail=law.tail * 100**1.7)
    assert abs(alone.light) < 0.1 * float(10 * xi.norm(dim=1).median()) ** 2


# The law of the error.


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_at_a_thousand_columns(kind, generator):
    law = ColumnLaw.noisy(D, kind=kind, alpha=1.75, scale=1.0, generator=generator)
    for keep, errors in zip(KEEP, simulated(kind, 1.75, 1000, 4000, generator), strict=True):
        predicted = pruning_error_law(1.75, keep, 1000, columns=law)
        assert (misses(errors, predicted, generator) < 0.02).all()
        found = errors.quantile(LEVELS[1:]) / predicted.quantile(LEVELS[1:])
        assert ((found - 1).abs() < 0.05).all()
        # The control: another index has another law.
        other = pruning_error_law(1.7, keep, 1000, columns=ColumnLaw.stable(1.7, scale=D**0.5))
        assert (misses(errors, other, generator) > 0.02).any()


@pytest.mark.long
@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.75, 1.9])
@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_at_many_columns(kind, alpha, generator):
    samples = 4_000_000
    law = ColumnLaw.noisy(
        D, kind=kind, alpha=alpha, scale=1.0, samples=samples, generator=generator
    )
    wide = 400 if kind == "independent" else 2000
    for n, repetitions in ((1000, 10_000), (100_000, wide)):
        for keep, errors in zip(
            KEEP, simulated(kind, alpha, n, repetitions, generator), strict=True
        ):
            predicted = pruning_error_law(alpha, keep, n, columns=law)
            assert (misses(errors, predicted, generator) < 0.02).all()
            if n == 1000:
                found = errors.quantile(LEVELS[1:]) / predicted.quantile(LEVELS[1:])
                assert ((found - 1).abs() < 0.05).all()


def starts(n, generator):
    """Return n rows like those of ``nn.Linear`` with 140 inputs."""
    out = torch.empty(n, 140, dtype=torch.float64)
    return out.uniform_(-(140**-0.5), 140**-0.5, generator=generator)


def test_start_and_noise(generator):
    """Columns like those of a network on series of 140 numbers: the median."""
    n, scale = 2000, 0.003 * 20 ** (1 / 1.75)
    options = {"kind": "shared", "alpha": 1.75, "scale": scale, "generator": generator}
    law = ColumnLaw.noisy(starts(n, generator), **options, samples=200_000)
    predicted = float(pruning_error_law(1.75, 0.1, n, columns=law).quantile(0.5))
    errors = []
    for _ in range(600):
        zeta = symmetric_stable(1.75, (n, 1), generator=generator, dtype=torch.float64)
        squares = (starts(n, generator) + scale * zeta).square().sum(1).sort().values
        errors.append(errors_of(squares[None], 0.1))
    found = float(torch.cat(errors).median())
    assert found == pytest.approx(predicted, rel=0.03)
    bare = ColumnLaw(law.alpha, law.tail, 0.0, law.norms)
    control = pruning_error_law(1.75, 0.1, n, columns=bare)
    assert float(control.quantile(0.5)) > 1.1 * found


@pytest.mark.long
def test_start_and_noise_at_many_columns(generator):
    """The median at n = 10^5 within 3 %, of 2000 repetitions drawn by norms.

    A start has mean square 1/3, and its sum over coordinates, s, gives
    |start + z 1|^2 = |start|^2 + 2 z s + 140 z^2.
    """
    n, scale = 100_000, 0.003 * 20 ** (1 / 1.75)
    start = starts(n, generator)
    law = ColumnLaw.noisy(
        start, kind="shared", alpha=1.75, scale=scale, samples=2_000_000, generator=generator
    )
    square, total = start.square().sum(1), start.sum(1)
    errors = []
    for _ in range(2000):
        z = scale * symmetric_stable(1.75, n, generator=generator, dtype=torch.float64)
        squares = (square + 2 * z * total + 140 * z**2).sort().values
        errors.append(errors_of(squares[None], 0.1))
    found = float(torch.cat(errors).median())
    predicted = pruning_error_law(1.75, 0.1, n, columns=law)
    assert found / float(predicted.quantile(0.5)) == pytest.approx(1, abs=0.03)


def test_a_law_is_consistent_with_itself(generator):
    law = pruning_error_law(1.6, 0.2, 500)
    p = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    error = law.quantile(p)
    assert error.diff().min() > 0
    assert torch.allclose(law.cdf(error), p, atol=1e-9)
    drawn = law.sample(200_000, generator=generator)
    assert ((drawn.quantile(LEVELS) / law.quantile(LEVELS) - 1).abs() < 0.02).all()
    assert law.cdf(0.0) == 0
    assert law.cdf(1.0) == 1
    assert "500 columns" in str(law)
    small = pruning_error_law(1.9, 0.01, 2).quantile(LEVELS)
    assert small.max() <= 1


def test_scale_does_not_matter():
    one, two = (ColumnLaw.stable(1.4, scale=scale) for scale in (1.0, 1e-12))
    laws = [pruning_error_law(1.4, 0.3, 1e6, columns=c).quantile(LEVELS) for c in (one, two)]
    assert torch.allclose(*laws, rtol=1e-9)


def test_gaussian_columns_do_not_compress():
    law = pruning_error_law(2.0, 0.5, 10**9)
    fixed = math.sqrt(law.columns.dropped(0.5) / 2)
    assert law.quantile(LEVELS).tolist() == pytest.approx([fixed] * 3)
    assert law.sample(3).tolist() == pytest.approx([fixed] * 3)
    assert law.cdf(0.9 * fixed) == 0
    assert law.cdf(1.1 * fixed) == 1
    assert required_width(2.0, 0.5, 0.9 * fixed, 0.05) == math.inf
    assert required_width(2.0, 0.5, 1.1 * fixed, 0.05) == 1


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_keep_all_and_keep_none(keep):
    law = pruning_error_law(1.5, keep, 100)
    assert law.quantile(LEVELS).tolist() == [1 - keep] * 3
    assert law.cdf(0.5) == keep


# The width.


def test_the_width_law_inverts_the_law():
    for alpha, keep, error, delta in ((1.2, 0.5, 0.1, 0.05), (1.6, 0.2, 0.2, 0.3)):
        n = required_width(alpha, keep, error, delta)
        law = pruning_error_law(alpha, keep, n)
        assert law.cdf(error) == pytest.approx(1 - delta, abs=1e-8)
        log10 = required_width(alpha, keep, error, delta, log10=True)
        assert log10 == pytest.approx(math.log10(n))


def test_known_widths():
    """Orders of magnitude; keep 0.1 and 0.5, error 0.1, delta 0.05."""
    found = [
        [required_width(alpha, keep, 0.1, 0.05, log10=True) for alpha in (1.2, 1.5, 1.75, 1.9)]
        for keep in (0.1, 0.5)
    ]
    assert found[0] == pytest.approx([4.22, 7.03, 14.32, 35.71], abs=0.01)
    assert found[1] == pytest.approx([2.49, 4.05, 7.82, 18.48], abs=0.01)
    assert required_width(1.99, 0.1, 0.1, 0.05) == math.inf
    assert 300 < required_width(1.99, 0.1, 0.1, 0.05, log10=True) < 400
    assert required_width(1.2, 0.5, 1.0, 0.05) == 1


def test_the_width_at_the_ends(generator):
    """It grows with alpha up to 2, where no width will do; and with the error's fall."""
    alphas = [1.5, 1.9, 1.999, 1.9999, 1.99998, 1.99999, 1.999999, 2.0]
    wide = [required_width(alpha, 0.1, 0.1, 0.05, log10=True) for alpha in alphas]
    assert wide == sorted(wide)
    assert wide[-1] == math.inf
    assert wide[-2] > 1e6
    for alpha in (1.9999, 1.99999, 1.9999999):
        law = pruning_error_law(alpha, 0.1, 1000)
        drawn = law.sample(100_000, generator=generator).quantile(LEVELS)
        assert torch.allclose(drawn, law.quantile(LEVELS), rtol=1e-3)
    tiny = required_width(1.5, 0.1, 1e-200, 0.05, log10=True)
    assert tiny == pytest.approx(required_width(1.5, 0.1, 0.1, 0.05, log10=True) + 199 * 6)
    assert pruning_error_law(0.5, 0.1, 1e308).quantile(0.5) == 0
    with pytest.raises(ArithmeticError, match=r"leaves the floats at alpha = 0\.005"):
        required_width(0.005, 0.1, 0.1, 0.05)


def test_the_start_makes_the_width_larger():
    """P(eps <= error) is 1 - delta at the width, with a start too."""
    law = ColumnLaw.noisy(
        torch.ones(2, 3),
        kind="isotropic",
        alpha=1.4,
        scale=0.5,
        samples=200_000,
        generator=torch.Generator().manual_seed(0),
    )
    n = required_width(1.4, 0.3, 0.2, 0.1, columns=law)
    predicted = pruning_error_law(1.4, 0.3, n, columns=law)
    assert float(predicted.cdf(0.2)) == pytest.approx(0.9, abs=1e-8)


def test_samples_are_continued_by_their_tail(generator):
    """Below 100 of a sample the mean square is that of the tail, not of a few draws."""
    exact = ColumnLaw.stable(1.5)
    drawn = ColumnLaw.noisy(
        1, kind="shared", alpha=1.5, scale=1.0, samples=200_000, generator=generator
    )
    for keep in (1e-4, 1e-6, 1e-9):
        assert drawn.dropped(keep) == pytest.approx(exact.dropped(keep), rel=0.05)
    assert drawn.dropped(0.0) == math.inf
    assert pruning_error_law(1.5, 0.0, 10, columns=drawn).quantile(0.5) == 1


def test_certificates_of_all_and_of_none():
    law = ColumnLaw.stable(1.5)
    for keep in (0.0, 1.0):
        found = certificate(torch.ones(4, 1), law, keep=keep)
        assert found.error == 1 - keep
        assert math.isnan(found.level)


def test_the_width_against_brute_force(generator):
    """The least n with P(eps_n <= 0.1) >= 0.95, for alpha = 1.2, keep 0.5: within 15 %."""
    predicted = required_width(1.2, 0.5, 0.1, 0.05)

    def failures(n):
        x = symmetric_stable(1.2, (40_000, n), generator=generator, dtype=torch.float64)
        return float((errors_of(x.square().sort(1).values, 0.5) > 0.1).double().mean())

    stderr = math.sqrt(0.05 * 0.95 / 40_000)
    assert failures(round(0.85 * predicted)) > 0.05 + 2 * stderr
    assert failures(round(1.15 * predicted)) < 0.05 - 2 * stderr


# A trained matrix beside the law.


def test_certificates_are_uniform_where_the_law_is_true(generator):
    law = ColumnLaw.stable(1.5, scale=2**0.5)
    errors = simulated("shared", 1.5, 1000, 400, generator, d=2)[0]
    levels = pruning_error_law(1.5, 0.1, 1000, columns=law).cdf(errors).sort().values
    distance = float((levels - torch.linspace(0, 1, 400)).abs().max())
    assert distance < 2.2 / 20  # Kolmogorov and Smirnov, p = 1e-4
    xi = noise_vectors("shared", 1.5, 1000, 2, generator=generator, dtype=torch.float64)
    assert 0.001 < certificate(xi, law, keep=0.1).level < 0.999
    gaussian = torch.randn(1000, 2, generator=generator)
    assert certificate(gaussian, law, keep=0.1).level > 0.9999


def test_a_certificate_says_what_prune_does(generator):
    layer = torch.nn.Linear(5, 200)
    with torch.no_grad():
        layer.weight.copy_(noise_vectors("isotropic", 1.5, 200, 5, generator=generator))
    law = ColumnLaw.noisy(5, kind="isotropic", alpha=1.5, scale=1.0, generator=generator)
    found = certificate(layer.weight, law, error=0.3)
    report = heavytail.prune(torch.nn.Sequential(layer), error=0.3, layers="0")
    assert found.keep == report.kept / report.units
    assert found.error == report.error
    assert 0 < found.level < 1
    assert f"{found.error:.4g}" in str(found)


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ColumnLaw.stable(2.5), r"alpha must be in \(0, 2\], got 2.5"),
        (lambda: ColumnLaw.stable(1.5, scale=0.0), "scale must be > 0, got 0"),
        (lambda: noise_tail_constant("both", 1.5, 2), "kind must be"),
        (lambda: noise_tail_constant("shared", 1.5, 0), "d must be >= 1, got 0"),
        (
            lambda: ColumnLaw.noisy(3, kind="shared", alpha=1.5, scale=1.0, samples=10),
            "samples must be >= 1000, got 10",
        ),
        (lambda: ColumnLaw.of(torch.ones(10, 2), alpha=1.5, tail=1.0), "1000 or more, got 10"),
        (lambda: ColumnLaw.of(torch.ones(1000, 2), alpha=0.9, tail=1.0), r"in \(1, 2\], got 0.9"),
        (lambda: ColumnLaw.of(torch.ones(1000, 2) / 0, alpha=1.5, tail=1.0), "must be finite"),
        (lambda: ColumnLaw.of(torch.ones(1000, 2), alpha=1.5, tail=0.0), "tail must be > 0"),
        (lambda: ColumnLaw.stable(1.5).dropped(1.5), r"keep must be in \[0, 1\], got 1.5"),
        (lambda: pruning_error_law(1.5, 0.1, 0), "n must be > 0, got 0"),
        (lambda: pruning_error_law(1.5, 0.1, 0.5), "n must be >= 1, got 0.5"),
        (
            lambda: pruning_error_law(1.5, 0.1, 9, columns=ColumnLaw.stable(1.6)),
            "alpha must be that of columns, 1.6, got 1.5",
        ),
        (lambda: pruning_error_law(1.5, 0.1, 9).quantile(1.0), r"p must be in \(0, 1\), got 1.0"),
        (lambda: required_width(1.5, 0.0, 0.1, 0.1), r"in \(0, 1\], got 0 and 0.1"),
        (lambda: required_width(1.5, 0.1, 0.1, 1.0), r"delta must be in \(0, 1\), got 1"),
        (
            lambda: certificate(torch.ones(0, 2), ColumnLaw.stable(1.5), keep=0.5),
            r"must have columns, got shape \(0, 2\)",
        ),
        (lambda: certificate(torch.ones(3, 2), ColumnLaw.stable(1.5)), "give one of keep and"),
        (lambda: ColumnLaw(2.0, 1.0, 0.0), "tail must be 0 at alpha = 2 only, got 1"),
        (lambda: ColumnLaw(1.5, 1.0, math.inf), "light must be finite"),
        (
            lambda: ColumnLaw.noisy(torch.ones(0, 2), kind="shared", alpha=1.5, scale=1.0),
            r"start must be finite, not empty, got \(0, 2\)",
        ),
    ],
)
def test_bad_input_stops_at_the_door(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_types():
    with pytest.raises(TypeError, match="must be a ColumnLaw, got float"):
        pruning_error_law(1.5, 0.1, 9, columns=1.0)
    with pytest.raises(TypeError, match="must be a ColumnLaw, got float"):
        certificate(torch.ones(3, 2), 1.0, keep=0.5)
