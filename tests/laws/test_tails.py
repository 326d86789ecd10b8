import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from heavytail import stable as skewed
from heavytail import symmetric_stable
from heavytail.laws.tails import (
    HillCurve,
    TailEstimate,
    hill,
    hill_curve,
    log_moment,
    stable_mle,
)


def pareto(alpha, size, generator):
    """Draw with P(|X| > x) = x^-alpha for x >= 1, of both signs."""
    u = 1 - torch.rand(size, generator=generator, dtype=torch.float64)
    return u ** (-1 / alpha) * (torch.randint(0, 2, u.shape, generator=generator) * 2 - 1)


def stable(alpha, size, generator, scale=1.0):
    return symmetric_stable(alpha, size, scale=scale, generator=generator, dtype=torch.float64)


def covered(estimates, alpha, width=1.96):
    return sum(abs(e.alpha - alpha) < width * e.stderr for e in estimates)


def p_of_coverage(estimates, alpha, level=0.95, width=1.96):
    """Return the p-value of the number of intervals that hold alpha."""
    count = covered(estimates, alpha, width)
    return stats.binomtest(count, len(estimates), level).pvalue


# Hill.


@pytest.mark.parametrize(("alpha", "k", "n"), [(0.7, 1, 50), (1.5, 30, 200), (3.5, 199, 200)])
def test_hill_on_pareto_data_is_gamma(alpha, k, n, generator):
    """At every k, the last included: with it the coverage of the standard error is known."""
    estimates = [hill(x, k) for x in pareto(alpha, (2000, n), generator)]
    gamma = [k * alpha / estimate.alpha for estimate in estimates]
    assert stats.kstest(gamma, stats.gamma(k).cdf).pvalue > 1e-5
    assert stats.kstest(gamma, stats.gamma(k * 1.1).cdf).pvalue < 1e-5
    level = np.diff(stats.gamma(k).cdf(k + 1.96 * math.sqrt(k) * np.array([-1, 1])))
    assert p_of_coverage(estimates, alpha, float(level[0])) > 1e-5


def test_hill_of_four_values_by_hand():
    x = torch.tensor([[math.e, -(math.e**4)], [1.0, 0.5]], dtype=torch.float64)
    assert hill(x, 1).alpha == pytest.approx(1 / 3)
    assert hill(x, 2).alpha == pytest.approx(1 / 2.5)  # (4 + 1) / 2 - 0
    estimate = hill(x, 3)
    assert estimate.alpha == pytest.approx(3 / (5 + 3 * math.log(2)))
    assert estimate.stderr == pytest.approx(estimate.alpha / math.sqrt(3))
    assert (estimate.method, estimate.n, estimate.k, estimate.block) == ("hill", 4, 3, None)
    assert math.isnan(estimate.scale)
    assert math.isnan(estimate.scale_stderr)


def test_hill_is_biased_on_stable_data_near_2(generator):
    """The tail of S(1.9)S is a power only where one value in some ten thousand lies."""
    estimate = hill(stable(1.9, 100_000, generator), 1000)
    assert estimate.alpha - 1.9 > 5 * estimate.stderr
    assert estimate.alpha == pytest.approx(2.59, abs=4 * estimate.stderr)
    far = hill(stable(1.9, 5_000_000, generator), 100)  # one value in 50 000
    assert abs(far.alpha - 1.9) < 3 * far.stderr
    lighter = hill(stable(1.2, 100_000, generator), 1000)
    assert abs(lighter.alpha - 1.2) < 3 * lighter.stderr


def test_the_curve_is_hill_at_every_k(generator):
    x = stable(1.5, 300, generator)
    x[::10] = 0
    for ks in (None, [5, 200, 5], torch.tensor([269, 1]), np.array([3]), range(1, 4)):
        curve = hill_curve(x, ks)
        assert isinstance(curve, HillCurve)
        assert curve.n == 300
        assert curve.k.tolist() == list(range(1, 270) if ks is None else ks)
        estimates = [hill(x, k) for k in curve.k.tolist()]
        assert curve.alpha.tolist() == pytest.approx([e.alpha for e in estimates], rel=1e-12)
        assert curve.stderr.tolist() == pytest.approx([e.stderr for e in estimates], rel=1e-12)


def test_hill_keeps_its_digits(generator):
    """The spacings are summed: the logarithm of a large common factor takes no digits."""
    x = pareto(1.5, 100_000, generator)
    ranks = x.abs().sort(descending=True).values
    for k in (1, 500, 99_999):
        exact = math.fsum(torch.log(ranks[:k] / ranks[k]).tolist()) / k
        assert 1 / hill(x * 2.0**900, k).alpha == pytest.approx(exact, rel=1e-10)


def test_the_largest_values_equal(generator):
    x = torch.cat([torch.full((5,), 7.0), torch.ones(20)])
    with pytest.raises(ValueError, match=r"the 4 largest \|x\| must not all be equal, got 7\.0"):
        hill(x, 3)
    assert math.isinf(hill_curve(x).alpha[3])
    assert math.isfinite(hill_curve(x).alpha[4])
    assert hill(x, 5).alpha == pytest.approx(1 / math.log(7))


# Sums.


@pytest.mark.parametrize(("alpha", "block"), [(0.6, 32), (1.0, 2), (1.5, 8), (2.0, 8)])
def test_log_moment_covers(alpha, block, generator):
    draws = stable(alpha, (400, 200 * block), generator, scale=3.0)
    estimates = [log_moment(x, block) for x in draws]
    assert p_of_coverage(estimates, alpha) > 1e-5
    assert p_of_coverage(estimates, alpha, width=1.2) < 1e-5
    # 1 / alpha_hat has no bias at all.
    z = torch.tensor([(1 / e.alpha - 1 / alpha) / (e.stderr / e.alpha**2) for e in estimates])
    assert abs(float(z.mean())) * math.sqrt(len(z)) < 4
    assert float(z.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * len(z)))


def test_log_moment_by_hand():
    x = torch.tensor([1.0, 3.0, -2.0, -2.0, 5.0], dtype=torch.float64)
    estimate = log_moment(x, 2)
    first, second = math.log(4) - math.log(3) / 2, math.log(4) - math.log(2)
    inverse = (first + second) / 2 / math.log(2)
    assert estimate.alpha == pytest.approx(1 / inverse)
    deviation = abs(first - second) / math.sqrt(2) / math.sqrt(2) / math.log(2)
    assert estimate.stderr == pytest.approx(deviation / inverse**2)
    assert (estimate.method, estimate.n, estimate.block) == ("log_moment", 4, 2)


def test_log_moment_is_for_stable_terms_only(generator):
    # Pareto terms are not stable, and their sums are only slowly.
    small, large = (log_moment(pareto(1.5, 200_000, generator), block) for block in (4, 400))
    assert abs(small.alpha - 1.5) > 10 * small.stderr
    assert abs(large.alpha - 1.5) < abs(small.alpha - 1.5)
    # Values of both signs in turn: a sum is no larger than its terms.
    with pytest.raises(ValueError, match=r"1/alpha is estimated as -.*, which must be > 0"):
        log_moment(torch.tensor([1.0, -1.1] * 50) * (1 + 0.01 * torch.rand(100)), 2)


def test_log_moment_of_sums_beyond_the_floats(generator):
    x = pareto(1.5, 1000, generator)
    x = x / x.abs().max() * 1e308
    assert log_moment(x, 10).alpha == pytest.approx(log_moment(x / 1e308, 10).alpha, rel=1e-9)


# Maximum likelihood.


@pytest.mark.parametrize(("alpha", "number"), [(0.8, 4), (1.5, 8), (1.8, 4)])
def test_mle_covers(alpha, number, generator):
    estimates = [stable_mle(x) for x in stable(alpha, (number, 250), generator, scale=3.0)]
    inner = [e for e in estimates if e.alpha < 2]  # at 1.8 a sample may look Gaussian
    assert len(inner) >= 3
    z = torch.tensor([(e.alpha - alpha) / e.stderr for e in inner])
    assert abs(float(z.mean())) * math.sqrt(len(z)) < 4
    assert 1e-5 < stats.chi2(len(z)).sf(float(z.square().sum())) < 1 - 1e-5
    z = torch.tensor([(e.scale - 3) / e.scale_stderr for e in inner])
    assert abs(float(z.mean())) * math.sqrt(len(z)) < 4
    assert 1e-5 < stats.chi2(len(z)).sf(float(z.square().sum())) < 1 - 1e-5
    wrong = torch.tensor([(e.alpha - 0.75 * alpha) / e.stderr for e in inner])
    assert stats.chi2(len(z)).sf(float(wrong.square().sum())) < 1e-5


def test_mle_of_cauchy_data_is_near_the_cauchy_fit(generator):
    """At alpha = 1 the likelihood has a closed form; freeing alpha gains a chi-square of 1."""
    x = stable(1.0, 400, generator, scale=2.0)
    estimate = stable_mle(x)
    _, scale = stats.cauchy.fit(x.numpy(), floc=0)
    assert abs(estimate.alpha - 1) < 4 * estimate.stderr
    assert abs(estimate.scale - scale) < 3 * estimate.scale_stderr
    assert (estimate.method, estimate.n, estimate.k) == ("stable_mle", 400, None)


@pytest.mark.parametrize("alpha", [0.7, 1.6])
def test_data_that_are_not_symmetric_about_0_are_named(alpha, generator):
    """Where the estimate is far off, above all; symmetric data pass, a warning is an error here."""
    x = stable(alpha, 1000, generator)
    assert abs(stable_mle(x).alpha - alpha) < 3 * stable_mle(x).stderr
    with pytest.warns(UserWarning, match=r"x is not symmetric about 0: its median is [34]\."):
        shifted = stable_mle(x + 4)
    assert abs(shifted.alpha - alpha) > 5 * shifted.stderr
    one_sided = skewed(alpha, 1.0, 1000, generator=generator, dtype=torch.float64)
    for other in (one_sided, one_sided - one_sided.median() + 1e-9):  # the sizes of the sides
        with pytest.warns(UserWarning, match="centre x"):
            stable_mle(other)


def test_mle_at_the_ends(generator):
    x = torch.randn(200, generator=generator, dtype=torch.float64)
    x = x.clamp(-2.5, 2.5)  # tails lighter than Gaussian: the maximum is at 2
    estimate = stable_mle(x)
    assert estimate.alpha == 2
    assert math.isnan(estimate.stderr)
    assert estimate.scale == pytest.approx(float(x.square().mean() / 2) ** 0.5)
    assert estimate.scale_stderr == pytest.approx(estimate.scale / math.sqrt(400))
    # One far value, and it is no Gaussian.
    x[0] = 30
    assert stable_mle(x).alpha < 2
    # Logarithms beyond the range of any index in it.
    x = stable(1.0, 50, generator)
    heavy = stable_mle(x.sign() * x.abs() ** 20)
    assert heavy.alpha == pytest.approx(0.3)
    assert math.isnan(heavy.stderr)


# From end to end.


def test_the_tail_index_of_gradient_noise(generator):
    """Dead units make exact zeros, which are counted, and without which all three go through."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 4 * 4, 10)),
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    nn.init.constant_(model[2].bias[:2], -100.0)
    nn.init.constant_(model[2].bias[2:], 3.0)  # those are alive
    images = torch.randn(2, 16, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (2, 16), generator=generator)
    losses = (nn.functional.cross_entropy(model(x), y) for x, y in zip(images, labels, strict=True))
    one, other = (torch.autograd.grad(loss, [*model.parameters()]) for loss in losses)
    noise = torch.cat([(a - b).flatten() for a, b in zip(one, other, strict=True)])
    dead = 2 * (4 * 9 + 1) + 2 * 4 * 4 * 10  # two filters with their biases, and what reads them
    message = rf"no value 0, got {dead} of \d+: .* take x\[x != 0\]"
    for estimator in (lambda x: log_moment(x, 5), stable_mle):
        with pytest.raises(ValueError, match=message):
            estimator(noise)
        estimate = estimator(noise[noise != 0])
        assert 0 < estimate.stderr < 0.2 * estimate.alpha
    assert hill(noise, 50).alpha == hill(noise[noise != 0], 50).alpha


def test_the_tail_index_of_log_returns(generator):
    """Days without a trade, and a drift: what messages ask for gives the index."""
    x = stable(1.6, 3000, generator) + 1
    x[::20] = 0
    for estimator in (lambda x: log_moment(x, 6), stable_mle):
        with pytest.raises(ValueError, match=r"no value 0, got 150 of 3000: .* x\[x != 0\]"):
            estimator(x)
        traded = x[x != 0]
        with pytest.warns(UserWarning, match=r"(at|about) 0: .*centre x, as x - x.median\(\)"):
            shifted = estimator(traded)
        assert abs(shifted.alpha - 1.6) > 3 * shifted.stderr
        centred = traded - traded.median()
        estimate = estimator(centred[centred != 0])
        assert abs(estimate.alpha - 1.6) < 3 * estimate.stderr


# All three.


ESTIMATORS = [lambda x: hill(x, 20), lambda x: log_moment(x, 5), stable_mle]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["hill", "log_moment", "stable_mle"])
def test_a_factor_changes_nothing(estimator, generator):
    x = stable(1.5, 200, generator)
    base = estimator(x)
    assert isinstance(base, TailEstimate)
    for factor in (2.0**-60, -3.7, 1e40):
        scaled = estimator(factor * x)
        assert scaled.alpha == pytest.approx(base.alpha, rel=1e-5)
        assert scaled.stderr == pytest.approx(base.stderr, rel=1e-3)
        if not math.isnan(base.scale):
            assert scaled.scale == pytest.approx(abs(factor) * base.scale, rel=1e-5)
            assert scaled.scale_stderr == pytest.approx(abs(factor) * base.scale_stderr, rel=1e-3)
    squared = estimator(x.abs().sqrt() * x.sign())  # not a factor
    assert abs(squared.alpha - base.alpha) > 0.1


def test_the_order_of_the_values(generator):
    x = stable(1.5, 240, generator)
    mixed = x[torch.randperm(240, generator=generator)]
    # As text: nan is not nan.
    assert str(hill(mixed, 20)) == str(hill(x, 20))
    assert str(hill(x.view(2, 3, 40), 20)) == str(hill(x, 20))
    assert torch.equal(hill_curve(mixed).alpha, hill_curve(x).alpha)
    assert str(log_moment(x.view(6, 40), 8)) == str(log_moment(x, 8))
    assert log_moment(mixed, 8) != log_moment(x, 8)  # its blocks are others


def test_float32_and_gradients(generator):
    x = symmetric_stable(1.5, 200, generator=generator).requires_grad_()
    for estimator in ESTIMATORS[:2]:
        assert str(estimator(x)) == str(estimator(x.detach().double()))


# Bad input.


WRONG: Any = "5"
NAN = torch.tensor([1.0, math.inf, math.nan] * 40)
ONES = torch.arange(1.0, 101.0)
TEN_ZEROS = torch.cat([torch.zeros(10), torch.arange(1.0, 21.0)])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        *((lambda f=f: f([1.0, 2.0]), TypeError, "x must be a floating-point") for f in ESTIMATORS),
        *(
            (lambda f=f: f(NAN), ValueError, r"x must be in \(-inf, inf\), got inf")
            for f in ESTIMATORS
        ),
        *((lambda f=f: f(ONES[:1]), ValueError, "x must have at least") for f in ESTIMATORS),
        (lambda: hill(ONES, WRONG), TypeError, "k, .* must be an integer, got '5'"),
        (lambda: hill(ONES, 100), ValueError, r"must be in \[1, 99\], got 100"),
        (lambda: hill(TEN_ZEROS, 20), ValueError, r"not 0, must be in \[1, 19\], got 20"),
        (lambda: hill_curve(TEN_ZEROS, [3, 20]), ValueError, r"each of .* \[1, 19\], got 20"),
        (lambda: hill_curve(ONES, torch.tensor([0, 3])), ValueError, r"must be in \[1, 99\]"),
        (lambda: hill_curve(ONES, []), ValueError, "ks must hold an integer, .*, 100, got none"),
        (lambda: hill_curve(ONES, cast(Any, 3)), TypeError, "ks must be a sequence"),
        (lambda: hill_curve(ONES, ONES), TypeError, r"each of ks, .* integer, got 1\.0"),
        (lambda: hill_curve(0 * ONES), ValueError, "ks must hold .* not 0, 0, got none"),
        (lambda: log_moment(ONES, 51), ValueError, r"block must be in \[2, 50\], got 51"),
        (lambda: log_moment(TEN_ZEROS, 2), ValueError, r"no value 0, got 10 of 30: .* x\[x != 0\]"),
        (lambda: stable_mle(TEN_ZEROS), ValueError, r"no value 0, got 10 of 30: .* x\[x != 0\]"),
        (lambda: log_moment(torch.tensor([1.0, -1.0] * 5), 2), ValueError, "sum to 0, got 5"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_value_beyond_every_index(generator):
    x = stable(1.5, 100, generator)
    x[3] = 1e200
    with pytest.raises(ValueError, match=r"within a factor e\^300 of its scale, got 1e\+200"):
        stable_mle(x)
    x[3] = 1e60
    assert stable_mle(x).alpha < 1.5
