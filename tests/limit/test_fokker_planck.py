import itertools
import math
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from heavytail import MeanField, Stable, simulate, tail_constant
from heavytail.limit.fokker_planck import Density, box_for, evolve, image_error, mean_field_drift

ALPHAS = [1.3, 1.5, 1.9]
LEVELS = (5.0, 10.0, 20.0, 30.0)
SIGMA = 0.5
FLAT = torch.full((8,), 0.125, dtype=torch.float64)
CALLS = itertools.count()
SWING = torch.tensor([1.0, -1.0]).repeat(4).double()

# The problem: h_x(theta) = tanh(x theta), squared loss, eight points, one unit of time.
X = torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None]
Y = (0.5 + 0.6 * torch.sin(2 * X))[:, 0]


def h(x, theta):
    return torch.tanh(x * theta)


def dh(x, theta):
    return x * (1 - h(x, theta) ** 2)


def dloss(f, y):
    return 2 * (f - y)


def tanh_drift():
    return mean_field_drift(h, dh, dloss, X, Y)


def solved(alpha, *, steps=40, start=None):
    start = start or Density.start(box_for(alpha, SIGMA, 1.0, 30.0))
    return evolve(start, tanh_drift(), alpha=alpha, sigma=SIGMA, T=1.0, steps=steps)


def particles(alpha, n, steps=200):
    """Simulate the same problem: 2 (f - y)^2 / 2 is the loss."""
    problem = MeanField(X, Y, loss=lambda f, y: (f - y) ** 2)
    options = {"T": 1.0, "steps": steps, "alpha": alpha, "sigma": SIGMA, "kind": "independent"}
    return simulate(problem, n, **options, seed=5).particles[:, 0].double()


def mass(density):
    return float(density.rho.sum()) * density.dx


def characteristic(density, u):
    """Return the integral of exp(iu theta) rho, by the sum that is exact for smooth tails."""
    return complex((density.rho * torch.exp(1j * u * density.theta)).sum() * density.dx)


# Exact cases.


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.5, 2.0])
def test_noise_alone_is_a_convolution(alpha):
    """Waves that fit the circle have the line's coefficients, whatever the number of steps."""
    start = Density.start(50.0, mean=1.0, std=0.5)
    later = evolve(start, None, alpha=alpha, sigma=0.8, T=2.0, steps=3)
    for j in (1, 5, 20):
        u = math.pi * j / 50
        exact = characteristic(start, u) * math.exp(-2 * (0.8 * u) ** alpha)
        assert abs(characteristic(later, u) - exact) < 1e-13
    assert abs(mass(later) - 1) < 1e-12
    assert float(later.rho.min()) > -1e-15


def test_cauchy_noise_on_a_circle():
    """The Cauchy density wrapped around the circle is known: sinh / (cosh - cos)."""

    def wrapped(theta: Tensor, scale: float) -> Tensor:
        s = math.pi * scale / 40
        return math.sinh(s) / (80 * (math.cosh(s) - torch.cos(math.pi * theta / 40)))

    grid = Density.start(40.0, std=0.25)
    start = Density(40.0, wrapped(grid.theta, 0.5))
    assert float(grid.theta[0]) == -40
    assert float(grid.theta[-1]) == 40 - grid.dx
    later = evolve(start, None, alpha=1.0, sigma=0.5, T=3.0, steps=2)
    assert torch.allclose(later.rho, wrapped(later.theta, 2.0), rtol=1e-10, atol=0)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.9])
def test_a_narrow_start_becomes_the_stable_density(alpha):
    box = box_for(alpha, 1.0, 1.0, 20.0, tolerance=1e-3)
    later = evolve(Density.start(box, std=0.05), None, alpha=alpha, sigma=1.0, T=1.0, steps=1)
    near = later.theta.abs() < 20
    law = Stable(torch.tensor(alpha, dtype=torch.float64))
    # The start adds std^2 / 2 times a second derivative, and the images a part in 1000.
    exact = law.log_prob(later.theta[near]).exp()
    assert float((later.rho[near] / exact - 1).abs().max()) < 0.005
    x = torch.tensor([-10.0, -1.0, 0.0, 0.5, 15.0], dtype=torch.float64)
    beyond_the_box = tail_constant(alpha) * box**-alpha
    assert torch.allclose(later.cdf(x), law.cdf(x), rtol=0, atol=5e-4 + beyond_the_box)
    assert later.beyond(10.0) == pytest.approx(2 * float(law.cdf(x[0])), rel=0.02)


def ornstein_uhlenbeck(alpha, box, steps, rate=1.5, T=0.8):
    start = Density.start(box, mean=1.0, std=0.6)
    later = evolve(start, lambda t, _, __: -rate * t, alpha=alpha, sigma=SIGMA, T=T, steps=steps)
    s = SIGMA**alpha * (1 - math.exp(-alpha * rate * T)) / (alpha * rate)
    mean, std = math.exp(-rate * T), 0.6 * math.exp(-rate * T)

    def phi(u):
        return torch.exp(torch.tensor(1j * u * mean - (std * u) ** 2 / 2 - s * abs(u) ** alpha))

    errors = [abs(characteristic(later, u) - complex(phi(u))) for u in (0.3, 1.0, 2.0, 4.0)]
    return later, max(errors), mean, math.sqrt(std**2 + 2 * s)


def test_gaussian_ornstein_uhlenbeck():
    errors = []
    for steps in (40, 80, 160):
        later, error, mean, std = ornstein_uhlenbeck(2.0, 15.0, steps)
        exact = Density.start(15.0, mean=mean, std=std, points=len(later.theta)).rho
        errors.append(float((later.rho - exact).abs().max()))
        assert abs(mass(later) - 1) < 1e-10
        assert float(later.rho.min()) > -1e-12
    assert errors[-1] < 1e-5
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.05)
    assert error < 1e-5


@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.9])
def test_stable_ornstein_uhlenbeck(alpha):
    """What lies in the outer tenth is not pulled as it should be: the error falls with the box."""
    small, large = (ornstein_uhlenbeck(alpha, box, 100)[1] for box in (15.0, 60.0))
    outside = 2 * SIGMA**alpha * tail_constant(alpha) / (alpha * 1.5) * (0.9 * 60.0) ** -alpha
    assert large < 2e-5 + outside
    assert large < small


def test_transport_alone_is_a_translation():
    """Up to nine tenths of the box, whatever becomes of the drift beyond."""
    start = Density.start(10.0, mean=5.0, std=0.3)
    drift = torch.ones_like
    later = evolve(start, lambda t, _, __: drift(t), alpha=1.5, sigma=0.0, T=2.0, steps=200)
    exact = Density.start(10.0, mean=7.0, std=0.3)
    assert float((later.rho - exact.rho).abs().max()) < 1e-5


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_linear_mean_field(alpha):
    """h = theta: all move by the same, m' = -A (m - y), and the noise is a convolution."""
    one = torch.ones(1, 1, dtype=torch.float64)
    drift = mean_field_drift(
        lambda x, theta: x * theta,
        lambda x, theta: x * torch.ones_like(theta),
        lambda f, y: 1.2 * (f - y),
        one,
        0.7 * one[0],
    )
    start = Density.start(200.0, mean=-1.0, std=0.8)
    later = evolve(start, drift, alpha=alpha, sigma=SIGMA, T=1.0, steps=10)
    mean = 0.7 - 1.7 * math.exp(-1.2)
    for u in (0.5, 1.0, 2.0):
        exact = torch.tensor(1j * u * mean - (0.8 * u) ** 2 / 2 - (SIGMA * u) ** alpha).exp()
        # Below 2 the mean over the box lacks the tails, by symmetry only what the shift moves.
        assert abs(characteristic(later, u) - complex(exact)) < (1e-6 if alpha == 2 else 3e-3)


# Order, box, mass.


@pytest.mark.parametrize("alpha", ALPHAS)
def test_time_order_is_two(alpha):
    runs = [solved(alpha, steps=steps) for steps in (10, 20, 40, 80, 160)]
    step = runs[0].dx
    errors = [float((a.rho - b.rho).abs().sum()) * step for a, b in pairwise(runs)]
    slope = np.polyfit(range(len(errors)), -np.log2(errors), 1)[0]
    assert slope == pytest.approx(2, abs=0.1)
    for run in runs:
        assert abs(mass(run) - 1) < 1e-10
        assert float(run.rho.min()) > 0


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_box_twice_as_large_changes_the_tail_by_a_percent(alpha):
    box = box_for(alpha, SIGMA, 1.0, 30.0)
    small = Density.start(box)
    large = Density.start(2 * box, points=2 * len(small.theta))
    around = torch.tensor([29.9, 30.1], dtype=torch.float64)
    at_30 = [float(solved(alpha, start=s).probability(around)) for s in (small, large)]
    assert 0 < at_30[0] / at_30[1] - 1 <= 0.01
    images = image_error(alpha, 30, box) - image_error(alpha, 30, 2 * box)
    assert at_30[0] / at_30[1] - 1 == pytest.approx(images, rel=0.1)
    tail = SIGMA**alpha * tail_constant(alpha) * alpha / 2 * 30 ** (-alpha - 1)
    assert 1 < at_30[1] / 0.2 / tail < 1.1


def test_image_error():
    assert image_error(1.3, 30, 60) == pytest.approx(0.14, abs=0.005)
    assert image_error(1.3, 30, 200) == pytest.approx(0.0075, abs=5e-4)
    near, far = (
        sum((2 * 50 * k + s * 20) ** -2.5 for k in range(1, 200_000)) * 20**2.5 for s in (-1, 1)
    )
    assert image_error(1.5, 20, 50) == pytest.approx(near + far, rel=1e-6)
    assert image_error(2.0, 20, 50) == 0


def test_box_for():
    for alpha in (0.8, *ALPHAS):
        box = box_for(alpha, SIGMA, 1.0, 30.0, tolerance=0.02)
        assert 0.0195 < image_error(alpha, 30.0, box) <= 0.02
    assert box_for(2.0, 1.0, 2.0, 3.0, std=2.0) == pytest.approx(3 + 8 * math.sqrt(8))
    assert box_for(2.0, 1.0, 1.0, 1000.0) == pytest.approx(1250)
    box = box_for(1.2, 5.0, 1.0, 0.1, tolerance=1e-3)
    assert image_error(1.2, 6.0, box) <= 1e-3  # before the tail begins, the body counts


def test_one_drift_serves_several_grids():
    drift = tanh_drift()
    for box in (20.0, 30.0):
        start = Density.start(box)
        exact = (dloss(0.0, Y) @ dh(X, start.theta)) / -len(X)  # the net's output is 0 at first
        assert torch.allclose(drift(start.theta, start.rho, start.dx), exact, atol=1e-12)


def test_distribution_function():
    density = Density.start(12.0, mean=0.5, std=1.3)
    x = torch.linspace(-8, 8, 301, dtype=torch.float64).reshape(7, 43)
    exact = torch.special.ndtr((x - 0.5) / 1.3)
    assert torch.allclose(density.cdf(x), exact, rtol=0, atol=1e-13)
    ends = density.cdf(torch.tensor([-12.0, 12.0]))
    assert torch.allclose(ends, torch.tensor([0.0, 1.0]).double(), atol=1e-14)
    two_sided = torch.special.ndtr(torch.tensor([-3.5 / 1.3, -2.5 / 1.3]).double()).sum()
    assert density.beyond(3.0) == pytest.approx(float(two_sided), rel=1e-6)
    assert density.beyond(0.0) == 1


@pytest.mark.parametrize("alpha", [1.2, 1.7])
def test_the_tail_beyond_lacks_its_images(alpha):
    """By the sum over them: at half the box a fifth, which image_error makes a fourth."""
    start = Density.start(400.0, std=0.5)
    later = evolve(start, None, alpha=alpha, sigma=1.0, T=1.0, steps=1)
    for x in (40.0, 200.0):
        law = Stable(torch.tensor(alpha, dtype=torch.float64))
        exact = 2 * float(law.cdf(torch.tensor(-x, dtype=torch.float64)))
        images = sum((800 * k - x) ** -alpha - (800 * k + x) ** -alpha for k in range(1, 10_000))
        assert later.beyond(x) / exact == pytest.approx(1 - x**alpha * images, abs=0.005)
    assert 40**alpha * sum(
        (800 * k - 40) ** -alpha - (800 * k + 40) ** -alpha for k in range(1, 10_000)
    ) == pytest.approx(alpha * image_error(alpha, 40, 400), rel=0.02)


# Particles.


def histogram(theta, density, low, high, bins):
    """Return the L1 distance of counts and density over bins, its sampling mean and deviation."""
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    counts = torch.histc(theta[(theta >= low) & (theta < high)], bins, low, high)
    p = density.probability(edges)
    deviation = (p * (1 - p) / len(theta)).sqrt()
    floor = math.sqrt(2 / math.pi) * float(deviation.sum())
    spread = math.sqrt(1 - 2 / math.pi) * float(deviation.norm())
    return float((counts / len(theta) - p).abs().sum()), floor, spread


def z_beyond(theta, density, level):
    expected = len(theta) * density.beyond(level)
    return (int((theta.abs() > level).sum()) - expected) / math.sqrt(expected)


@pytest.mark.parametrize("n", [100_000, pytest.param(400_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_particles_have_the_density(alpha, n):
    theta = particles(alpha, n)
    density = solved(alpha)
    for bins in ((-5.0, 5.0, 100), (-30.0, 30.0, 120)):
        distance, floor, spread = histogram(theta, density, *bins)
        assert floor < 0.025 * math.sqrt(100_000 / n)
        assert distance < floor + 4 * spread
    for level in LEVELS:
        assert abs(z_beyond(theta, density, level)) < 4
    # Negative controls: another index, and no drift.
    wrong = solved(alpha - 0.2)
    unmoved = evolve(Density.start(wrong.box), None, alpha=alpha, sigma=SIGMA, T=1.0, steps=1)
    assert max(abs(z_beyond(theta, wrong, level)) for level in LEVELS) > 4
    for other in (wrong, unmoved):
        distance, floor, spread = histogram(theta, other, -5.0, 5.0, 100)
        assert distance > floor + 4 * spread


# Bad input.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Density.start(0.0), ValueError, r"box must be in \[1e-100, 1e100\], got 0"),
        (lambda: Density.start(9.0, points=33), ValueError, r"\(m,\), m even, got \(33,\)"),
        (lambda: Density.start(2.0), ValueError, "got 0.954"),
        (lambda: Density.start(9.0).cdf(FLAT * 80), ValueError, r"in \[-9\.0, 9\.0\], got 10"),
        (lambda: image_error(1.5, 3.0, 2.0), ValueError, r"x must be in \(0, 2\.0\), got 3"),
        (lambda: mean_field_drift(h, dh, dloss, X[:, 0], Y), ValueError, r"got \(8,\) and \(8,\)"),
        (lambda: run(lambda t, _, __: t[:3]), ValueError, r"drift returns .*got \(3,\)"),
        (lambda: run(lambda t, *_: t * math.nan), ValueError, "what drift returns must .* got nan"),
        (lambda: run(lambda t, *_: t * (math.nan if next(CALLS) == 3 else 1)), ValueError, "nan"),
        (lambda: run(mean_field_drift(h, lambda x, t: x / t, dloss, X, Y)), ValueError, "dh .*inf"),
        (
            lambda: run(mean_field_drift(h, dh, lambda f, y: 1j * f, X, Y)),
            TypeError,
            "dloss .*comp",
        ),
        (lambda: run(steps=10**30), ValueError, r"steps must be in \[1, 10{9}\], got 10{30}$"),
        (lambda: Density.start(1e30), ValueError, r"box / std must be in \(0, 1e6\], got 1e\+30"),
        (lambda: box_for(1e-4, 1.0, 2.0, 3.0), ValueError, r"the box for .* 1e100\], got inf"),
        (lambda: box_for(1.5, 1.0, 2.0, 3.0, tolerance=1e-300), ValueError, "the box for .*1e100"),
        (lambda: image_error(1e-17, 1.0, 2.0), ValueError, "the sum for this alpha .* got inf"),
        (lambda: Density.start(9.0).probability(FLAT[0]), ValueError, r"edges .*\(n,\), got \(\)"),
        (lambda: Density.start(9.0).beyond(10), ValueError, r"x must be in \[0, 9\.0\], got 10"),
        (lambda: run(0), TypeError, "drift.* must be a function, got 0"),
        (lambda: evolve(cast(Any, 0), None, **RUN), TypeError, "start must be a Density, got 0"),
        (lambda: run(lambda t, _, __: -1e4 * t, steps=1), ArithmeticError, "take more steps"),
        (lambda: Density(4.0, FLAT[None]), ValueError, r"rho must be \(m,\), m even, got \(1, 8\)"),
        (lambda: Density(0.0, FLAT), ValueError, r"box must be in \[1e-100, 1e100\], got 0"),
        (lambda: Density(4.0, FLAT * 1.00001), ValueError, "of mass 1, got mass 1.00001"),
        (lambda: Density(4.0, FLAT + SWING), ValueError, "of mass 1, got .* least value -0.875"),
        (lambda: Density(4.0, FLAT / 0), ValueError, "of mass 1, got mass inf"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


RUN: dict[str, Any] = {"alpha": 1.5, "sigma": 1.0, "T": 1.0, "steps": 10}


def run(drift=None, **changes):
    return evolve(Density.start(9.0), drift, **(RUN | changes))


def test_a_grid_too_coarse_is_refused():
    message = "ends with mass 1, least value -.*: take more points"
    with pytest.raises(ArithmeticError, match=message):
        evolve(Density.start(20.0, points=32), None, alpha=1.5, sigma=0.1, T=0.1, steps=1)
    with pytest.raises(ArithmeticError, match=message):  # a front forms
        run(drift=lambda t, _, __: -8 * torch.tanh(8 * t), sigma=0.0)


def test_a_scheme_that_blows_up_is_refused():
    """The pieces of a step are as many as the drift at its start asks for."""
    calls = itertools.count()
    with pytest.raises(ArithmeticError, match=r"step 1 ends with mass .*, or more steps"):
        run(drift=lambda t, _, __: -(1e9 if next(calls) else 1.0) * t, steps=1)


def pushed(box, mean, T, *, alpha=1.5, sigma=0.1, calls=1, push=1.0):
    """Carry a narrow start to mean + push * T, in so many calls."""
    later = Density.start(box, mean=mean, std=0.5)
    for _ in range(calls):
        options = {"alpha": alpha, "sigma": sigma, "T": T / calls, "steps": 100 // calls}
        later = evolve(later, lambda t, _, __: push * torch.ones_like(t), **options)
    return later


@pytest.mark.parametrize("sigma", [0.1, 0.5])
@pytest.mark.parametrize("T", [4.0, 8.0])
def test_mass_that_piles_up_at_the_edge_is_refused(T, sigma):
    message = r"the drift has carried the mass .* beyond 0\.9 box = 9: take a larger box"
    for push, mean in ((1.0, 5.0), (-1.0, -5.0)):
        with pytest.raises(ArithmeticError, match=message):
            pushed(10.0, mean, T, sigma=sigma, push=push)
    with pytest.raises(ArithmeticError, match=message):
        pushed(10.0, 5.0, T, sigma=sigma, calls=4)


def test_mass_that_tails_bring_to_the_edge_is_not():
    """More than 1e-3 of it; nor is a body that stays within."""
    later = pushed(30.0, 0.0, 5.0, alpha=1.2, sigma=0.5)
    assert float(later.rho[later.theta.abs() > 27].sum()) * later.dx > 2e-3
    later = pushed(30.0, 0.0, 5.0, alpha=0.8, sigma=0.5, calls=5)
    assert float(later.rho[later.theta.abs() > 27].sum()) * later.dx > 1e-2
    assert mass(pushed(10.0, 5.0, 2.0, sigma=0.0)) == pytest.approx(1)
    wide = Density.start(10.0)
    wide = evolve(wide, None, alpha=2.0, sigma=20.0, T=1.0, steps=1)  # all over the circle
    evolve(wide, lambda t, _, __: torch.cos(t), alpha=2.0, sigma=1.0, T=1.0, steps=50)


def test_all_is_computed_where_the_start_lies():
    """What is made without a word about the device is lost on "meta"; the start is not changed."""
    start = Density.start(20.0, device="cpu")
    before = start.rho.clone()
    with torch.device("meta"):
        later = evolve(start, tanh_drift(), alpha=1.5, sigma=0.5, T=0.5, steps=2)
        assert 0 < later.beyond(5.0) < 0.1
        assert image_error(1.5, 5.0, 20.0) < 0.1
    assert torch.equal(start.rho, before)
