import math

import numpy as np
import pytest
import torch
from scipy import stats

import heavytail
from heavytail.limit.coupling import chaos_error, euler_error, linear_gap_scale
from heavytail.limit.particles import simulate
from heavytail.limit.problem import MeanField
from tests.limit.test_problem import RANDOM, RUN, line, smooth

LONG = pytest.mark.long
EULER = {key: value for key, value in RUN.items() if key != "steps"}


def within(rates, expected, tolerance=math.inf):
    assert abs(rates.slope - expected) < min(3 * rates.slope_stderr, tolerance)


# The exact case.


def gaps(n, systems, *, curvature, alpha, steps, seed):
    """Return theta^{i,n} - theta^{i,infinity}, by the drift: -eta A sum (f_k - m_k)."""
    eta = 1 / steps
    run = simulate(
        line(curvature),
        n,
        **(RUN | {"steps": steps, "alpha": alpha}),
        seed=seed,
        systems=systems,
        observe=lambda theta: theta.mean((1, 2)),
        times=[eta * k for k in range(steps)],
        dtype=torch.float32,
    )
    mean = 1 - (1 - curvature * eta) ** torch.arange(steps, dtype=torch.float64)
    return -eta * curvature * (run.observed.double() - mean[:, None]).sum(0)


@pytest.mark.parametrize(
    ("n", "systems"), [(10, 10_000), (1000, 10_000), pytest.param(10**5, 1000, marks=LONG)]
)
def test_the_exact_law_of_the_linear_gap(n, systems):
    found = gaps(n, systems, curvature=1.0, alpha=1.75, steps=10, seed=11).numpy()
    gamma = linear_gap_scale(n, T=1.0, steps=10, alpha=1.75, sigma=0.5)

    def p_value(scale):
        law = heavytail.Stable(1.75, scale=scale)
        return stats.kstest(found, lambda x: law.cdf(torch.as_tensor(x)).numpy()).pvalue

    assert p_value(gamma) > 1e-5
    if systems == 10_000:
        for wrong in (1.2, 0.8):  # the control: a scale wrong by 20 %
            assert p_value(wrong * gamma) < 1e-5


@pytest.mark.parametrize(("seed", "at_the_end"), [(4, True), (5, False)])
def test_the_gap_is_common_and_that_of_the_coupling(seed, at_the_end):
    """Three ways to the same numbers: noise alone taken away, the drift, and the coupling."""
    options = RUN | {"alpha": 1.5}
    still = MeanField(
        *(line().x, line().y), h="linear", loss=lambda f, y: 0 * f, start=line().start
    )
    moved, noise = (
        simulate(p, 50, **options, seed=seed, dtype=torch.float64).particles
        for p in (line(), still)
    )
    common = moved - noise - (1 - 0.9**10)
    assert float(common.max() - common.min()) < 1e-10
    times = [k / 10 for k in range(10)]
    more = {"observe": torch.mean, "times": times, "dtype": torch.float64}
    run = simulate(line(), 50, **options, seed=seed, **more)
    mean = 1 - 0.9 ** torch.arange(10, dtype=torch.float64)
    gap = -(0.1 * (run.observed - mean).cumsum(0))
    assert float(gap[-1]) == pytest.approx(float(common[0]))
    rates = chaos_error(line(), [10, 50], **options, seeds=[seed, 6], reference="limit")
    assert float(rates.errors[0, 1]) == pytest.approx(abs(float(gap[-1])))
    assert float(rates.sup.errors[0, 1]) == pytest.approx(float(gap.abs().max()))
    assert (float(gap.abs().max()) == abs(float(gap[-1]))) is at_the_end


def test_the_scale_of_the_gap():
    options = {"T": 1.5, "alpha": 1.6, "sigma": 0.5, "curvature": 0.8}
    exact = linear_gap_scale(100, steps=None, **options)
    fine = [linear_gap_scale(100, steps=K, **options) / exact - 1 for K in (1000, 2000)]
    assert abs(fine[1]) < 1e-3
    assert fine[0] / fine[1] == pytest.approx(2, abs=0.01)  # first order in the step
    gaussian = linear_gap_scale(100, T=2.0, steps=None, alpha=2.0, sigma=1.0)
    square = 2 - 2 * (1 - math.exp(-2)) + (1 - math.exp(-4)) / 2
    assert gaussian == pytest.approx(math.sqrt(square / 100))
    by_hand = 0.25 * (0.5**1.5 / 2) ** (1 / 1.5) * 8 ** (1 / 1.5 - 1)
    assert linear_gap_scale(8, T=1.0, steps=2, alpha=1.5, sigma=0.25) == pytest.approx(by_hand)


# Rates.


def test_seeds_and_the_global_generator():
    before = torch.get_rng_state()
    options = RUN | {"steps": 2}
    errors = [
        chaos_error(smooth(), [10, 20], **options, seeds=seeds, reference=40).errors
        for seeds in (3, [2, 0], range(3), np.arange(3), torch.arange(3), np.int64(3))
    ]
    for same in errors[2:]:
        assert torch.equal(errors[0], same)
    torch.testing.assert_close(errors[1], errors[0][[2, 0]])
    assert torch.equal(torch.get_rng_state(), before)


WIDTHS = [16, 64, 256, 1024, 4096]


@pytest.mark.parametrize(("reference", "seeds"), [(16384, 40), pytest.param(65536, 64, marks=LONG)])
@pytest.mark.parametrize("alpha", [1.2, 1.75, 2.0])
def test_propagation_of_chaos(alpha, reference, seeds):
    options = RUN | {"alpha": alpha, "reference": reference, "seeds": seeds}
    rates = chaos_error(smooth(), WIDTHS, **options)
    assert rates.slope_stderr <= 0.03
    for each in (rates, rates.sup):
        within(each, -0.5, 0.06)


def test_uncoupled_systems_stay_apart():
    for reference in (2048, "twins"):
        rates = chaos_error(
            smooth(), [64, 256, 1024], **RUN, seeds=8, reference=reference, coupled=False
        )
        assert abs(rates.slope) < 0.1
        assert float(rates.error.min()) > 0.5


def test_fixed_signs_are_coupled():
    rates = chaos_error(smooth(signs=RANDOM), [8, 32], **RUN, seeds=20, reference=60)
    within(rates, -0.5, 0.2)


@pytest.mark.parametrize("start", [None, torch.tensor([1.0, -1.0, 0.5])])
def test_twins_are_independent(start):
    """Their distance is that of two independent errors: sqrt(2) of one, less by the reference.

    From one point, twins that shared their noise would be equal; drawn starts must be two as well.
    """
    problem = smooth(start=start)
    one = chaos_error(problem, [32, 128], **RUN, seeds=range(100, 160), reference=512)
    limit = one.error * (one.size / one.x).sqrt()
    twins = chaos_error(problem, [32, 128], **RUN, seeds=100, reference="twins", tracers=32)
    # Three standard errors of the quotient, 8 % each.
    torch.testing.assert_close(twins.error / math.sqrt(2), limit, rtol=0.25, atol=0.0)


def test_a_reference_that_is_near_is_corrected_for():
    """N = 64: the distance of 56 particles is a fraction sqrt(1 - 56/64) of that from the limit."""
    rates = chaos_error(smooth(), [16, 56], **RUN, seeds=40, reference=64)
    assert rates.x.tolist() == [16, 56]
    assert rates.size.tolist() == pytest.approx([64 / 3, 448])
    assert rates.sup.size.tolist() == rates.size.tolist()
    assert float(rates.local_slopes) == pytest.approx(-0.5, abs=0.1)  # in x it would be -1.2
    rates = euler_error(smooth(), [8, 16], **EULER, n=200, seeds=8, reference=32)
    assert rates.size.tolist() == pytest.approx([3 / 32, 1 / 32])
    # Errors random and centred: the root of (1 - 1/m)(1 - 1/(2m)), m = 4 and 2, times eta.
    centred = math.log(2 * math.sqrt(0.75 * 0.875 / (0.5 * 0.75))) / math.log(3)
    assert rates.slope == pytest.approx(centred, abs=0.03)  # in x it would be 1.4


def test_the_linear_case_is_slow():
    run = RUN | {"alpha": 1.3}
    rates = chaos_error(line(), [10, 100, 1000, 30_000], **run, seeds=200, reference="limit")
    assert rates.slope_stderr <= 0.02
    within(rates, -(1 - 1 / 1.3))
    assert rates.slope > -0.4


@pytest.mark.long
def test_rectified_neurons_are_slow():
    """By twins, the widest four: slower than -1/2 by at least three standard errors."""
    widths = [2**k for k in range(7, 15)]
    run = RUN | {"alpha": 1.3, "steps": 20}
    rates = chaos_error(smooth(h="relu"), widths, **run, seeds=96, reference="twins")
    wide = rates.between(widths[-4], widths[-1])
    assert wide.slope - 3 * wide.slope_stderr > -0.5


@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.75, 1.9])
def test_the_euler_scheme_is_of_first_order(alpha):
    run = EULER | {"alpha": alpha}
    rates = euler_error(smooth(), [8, 16, 32, 64], **run, n=200, seeds=8)
    assert abs(rates.slope - 1) < 0.05
    assert abs(rates.sup.slope - 1) < 0.3  # a maximum of heavy-tailed terms
    assert bool((rates.sup.error > rates.error).all())
    assert rates.x.tolist() == [1 / 8, 1 / 16, 1 / 32, 1 / 64]


def test_nothing_is_made_on_the_default_device():
    """What is made without a word about the device is lost on "meta"."""
    problem = smooth(h=lambda x, theta: torch.tanh(theta @ x), signs="alternating")

    def numbers():
        options = {"T": 1.0, "alpha": 1.5, "sigma": 0.5, "kind": "isotropic", "device": "cpu"}
        run = simulate(problem, 10, **options, steps=4, seed=1, observe=problem.drift)
        yield from (run.particles, run.observed, run.times)
        for reference in (16, "twins"):
            rates = chaos_error(problem, [4, 8], **options, steps=4, seeds=3, reference=reference)
            yield from (rates.errors, rates.sup.error, rates.stderr, rates.local_stderr, rates.size)
        yield euler_error(problem, [2, 4], **options, n=5, seeds=3).errors
        yield rates.x.new_tensor(linear_gap_scale(10, T=1.0, steps=4, alpha=1.5, sigma=1.0))

    here = list(numbers())
    with torch.device("meta"):
        assert all(map(torch.equal, numbers(), here))


def test_increments_add_up():
    """Without a drift the long steps end where the short ones do."""
    still = smooth(loss=lambda f, y: 0 * f)
    message = r"no logarithm: got 0 at step size 0\.5, seed 7: is nothing random, or no drift"
    with pytest.raises(ValueError, match=message):
        euler_error(still, [2, 4], **EULER, n=5, seeds=[7, 8])


def test_a_scheme_that_blows_up_says_where():
    run = RUN | {"T": 1e6, "steps": 400}
    message = "no logarithm: got (nan|inf) at width 8, seed 3: it blew up, take more steps"
    with pytest.raises(ValueError, match=message):
        chaos_error(smooth(h="linear"), [8, 16], **run, seeds=[3, 4], reference=32)

    def start(n, generator):
        return torch.full(
            (n, 1), 1e308 if generator.initial_seed() == 8 else 1.0, dtype=torch.float64
        )

    one = torch.ones(1, dtype=torch.float64)
    problem = MeanField(one[:, None], one, h="relu", start=start)
    with pytest.raises(ValueError, match="at width 8, seed 8: it blew up"):
        chaos_error(problem, [8, 16], **RUN, seeds=[7, 9, 8], reference=32)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"widths": [10]}, ValueError, "widths must be 2 to 100000 different integers"),
        ({"widths": 10}, TypeError, "widths must be a sequence of numbers, got 10"),
        (
            {"widths": [10, 40]},
            ValueError,
            r"'limit' or 'twins', must be in \[41, 1000000000\], got 40",
        ),
        ({"seeds": 10**30}, ValueError, r"seeds must be in \[2, 100000\], got 10{30}$"),
        ({"seeds": np.array([1, 2, 1])}, ValueError, "seeds must be 2 to 100000 different int"),
        ({"reference": "exact"}, ValueError, r"reference must be one of \['limit', 'twins'\]"),
        ({"reference": None}, TypeError, "reference, if not 'limit' or 'twins', must be an int"),
        ({"reference": "limit"}, ValueError, "needs h = 'linear', .* got MeanField.*'tanh'"),
        ({"coupled": np.ones(2)}, TypeError, "coupled must be True or False"),
        ({"statistic": "mode"}, ValueError, "statistic must be one of"),
    ],
)
def test_bad_couplings(changed, error, message):
    options = {"widths": [10, 20], "seeds": 2, "reference": 40} | RUN | changed
    with pytest.raises(error, match=message):
        chaos_error(smooth(), **options)


@pytest.mark.parametrize(
    ("steps", "reference", "message"),
    [
        ([2, 3], 10, "each of steps must divide the reference, 10"),
        ([2, 4], 4, r"reference \(None: 8 lcm\(steps\)\) must be in \[5, 1000000000\], got 4"),
        ([10**5, 10**5 - 1], None, r"must be in \[100001, 1000000000\], got 79999200000"),
        ([4, 10**30], None, r"each of steps must be in \[1, 1000000000\], got 10{30}$"),
        (range(1, 10**30), None, r"must be 2 to 100000 different integers, got \[1, 2, 3"),
    ],
)
def test_bad_steps(steps, reference, message):
    with pytest.raises(ValueError, match=message):
        euler_error(smooth(), steps, **EULER, n=5, seeds=2, reference=reference)


def test_a_scale_beyond_the_floats_is_refused():
    with pytest.raises(ValueError, match=r"the scale for T, .* got inf"):
        linear_gap_scale(10, T=1.0, steps=1000, alpha=1.5, sigma=1.0, curvature=1e6)
    with pytest.raises(ValueError, match=r"steps must be in \[1, 10000000\], got 10{9}$"):
        linear_gap_scale(10, T=1.0, steps=10**9, alpha=1.5, sigma=1.0)


def test_there_is_no_limit_of_heavier_tails():
    with pytest.raises(ValueError, match=r"no signs and alpha > 1, got .*, alpha 1"):
        chaos_error(line(), [10, 20], **(RUN | {"alpha": 1.0}), seeds=2, reference="limit")
    with pytest.raises(ValueError, match=r"alpha must be in \(1, 2\], got 1"):
        linear_gap_scale(10, T=1.0, steps=None, alpha=1.0, sigma=0.5)
