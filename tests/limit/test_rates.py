import itertools
import math

import numpy as np
import pytest
import torch

from heavytail.limit.rates import Rates


def test_rates_of_known_errors():
    seeded = torch.Generator().manual_seed(2)
    x = torch.tensor([10.0, 20.0, 40.0, 80.0], dtype=torch.float64)
    noise = 0.1 * torch.randn(200, 4, generator=seeded, dtype=torch.float64)
    noise += 0.5 * torch.randn(200, 1, generator=seeded, dtype=torch.float64)  # common to all x
    errors = 3 * x ** (-0.5) * noise.exp()
    u = x.log() - x.log().mean()
    of_each = errors.log() @ u / (u @ u)
    rates = Rates(x, errors, x)
    assert rates.slope == pytest.approx(float(of_each.mean()))
    assert rates.slope_stderr == pytest.approx(float(of_each.std()) / 200**0.5, rel=0.1)
    log_stderr = errors.log().std(0) / 200**0.5
    torch.testing.assert_close(rates.stderr / rates.error, log_stderr, rtol=0.1, atol=0.0)
    assert rates.local_slopes.shape == rates.local_stderr.shape == (3,)
    for statistic in ("mean", "median"):
        assert Rates(x, errors, x, statistic).slope == pytest.approx(-0.5, abs=0.1)
    assert rates.between(20, 80).x.tolist() == [20, 40, 80]
    assert repr(rates).startswith("Rates(slope -0.499")
    with pytest.raises(ValueError, match="low and high must hold two of x or more, got 50 and 90"):
        rates.between(50, 90)
    with pytest.raises(ValueError, match=r"low must be in .*, got nan"):
        rates.between(math.nan, 90)


def test_errors_near_the_largest_float():
    """A factor c of all errors is one of the error and its standard error, and no power."""
    for statistic in ("geometric", "mean", "median"):
        rates, large = Rates(X, ERRORS, SIZE, statistic), Rates(X, ERRORS * 1e307, SIZE, statistic)
        torch.testing.assert_close(large.stderr / 1e307, rates.stderr)
        assert large.slope == pytest.approx(rates.slope)


X = torch.tensor([10.0, 30.0, 50.0], dtype=torch.float64)
SIZE = torch.tensor([1.0, 2.0, 8.0], dtype=torch.float64)
ERRORS = torch.tensor([[16.0, 4.0, 2.0], [2.0, 4.0, 0.5], [2.0, 0.5, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("statistic", "error"),
    [("geometric", [4, 2, 1]), ("mean", [20 / 3, 17 / 6, 7 / 6]), ("median", [2, 4, 1])],
)
def test_rates_by_hand(statistic, error):
    rates = Rates(X, ERRORS, SIZE, statistic)
    assert rates.error.tolist() == pytest.approx(error)
    first, second = math.log(error[1] / error[0]), math.log(error[2] / error[1])
    assert rates.local_slopes.tolist() == pytest.approx([first / math.log(2), second / math.log(4)])
    # The sizes' logs are 0, 1 and 3 times log 2: -4, -1 and 5 thirds off their mean.
    slope = np.dot([-4, -1, 5], np.log(error)) / 3 / (42 / 9) / math.log(2)
    assert rates.slope == pytest.approx(slope)
    # Three seeds have 27 resamples; the variance of a mean of three is 2/3 of what it should be.
    picks = list(itertools.product(range(3), repeat=3))
    all_rates = [Rates(X, ERRORS[list(pick)], SIZE, statistic) for pick in picks]
    for name in ("error", "slope", "local_slopes"):
        values = np.array([np.asarray(getattr(each, name)) for each in all_rates])
        wanted = values.std(0) * math.sqrt(3 / 2)
        stderr = {"error": "stderr", "slope": "slope_stderr", "local_slopes": "local_stderr"}[name]
        # 1000 draws of the 27: 2 % of a standard deviation, 4 % where a few of the 27 make it.
        np.testing.assert_allclose(np.asarray(getattr(rates, stderr)), wanted, rtol=0.08)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"statistic": "mode"}, ValueError, "statistic must be one of"),
        ({"x": X[:2]}, ValueError, "size must hold 2 different numbers"),
        ({"size": torch.ones(3)}, ValueError, "size must hold 3 different numbers"),
        ({"errors": ERRORS[:1]}, ValueError, r"errors must be \(2 or more, 3\), got \(1, 3\)"),
        ({"errors": ERRORS / 0}, ValueError, r"errors must be in \(0, inf\), got inf"),
        ({"sup": ERRORS}, TypeError, "sup must be Rates or None"),
    ],
)
def test_bad_rates(changed, error, message):
    with pytest.raises(error, match=message):
        Rates(**({"x": X, "errors": ERRORS, "size": SIZE} | changed))
