import math

import mpmath
import pytest
import torch

from heavytail.laws.chambers_mallows_stuck import (
    log_positive_from_uniforms,
    s1_shift,
    stable_from_uniforms,
    symmetric_from_uniforms,
    uniforms,
    uniforms_from_words,
)
from tests.oracles import textbook

DTYPES = [torch.float32, torch.float64]
HALF_PI = math.pi / 2


def bits(n, generator, dtype=torch.float32):
    """Draw the two inputs of the maps."""
    return uniforms(torch.empty(n, dtype=dtype), generator)


@pytest.fixture
def angle(generator):
    """Angles over all magnitudes, of both signs: the poles and the middle."""
    magnitude = HALF_PI * 10 ** (-9 * torch.rand(10_000, generator=generator, dtype=torch.float64))
    sign = torch.randint(0, 2, (10_000,), generator=generator) * 2 - 1
    return magnitude * sign


@pytest.fixture
def uniform(generator):
    return torch.rand(10_000, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)


# Against what they must be exactly.


def test_alpha_2_is_box_muller(angle, uniform):
    exact = torch.sign(angle) * 2 * torch.cos(angle) * torch.sqrt(-torch.log(uniform))
    assert torch.allclose(symmetric_from_uniforms(2.0, angle, uniform), exact, rtol=1e-9)


def test_alpha_1_is_the_tangent(angle, uniform):
    exact = 1 / torch.tan(angle)  # tan(U) in the distance V to the pole; W cancels
    assert torch.allclose(symmetric_from_uniforms(1.0, angle, uniform), exact, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.3, 0.8, 0.999, 1.001, 1.1, 1.75, 1.999])
def test_map_is_the_textbook_formula(alpha, angle, uniform):
    middle = angle.abs() > 0.01  # nearer to the pole the textbook's cos(U) has lost digits
    v, u = angle[middle], uniform[middle]
    U = torch.sign(v) * (HALF_PI - v.abs())
    W = -torch.log(u) if alpha >= 1 else -torch.log1p(-u)
    assert torch.allclose(symmetric_from_uniforms(alpha, v, u), textbook(alpha, U, W), rtol=1e-10)


def test_positive_half_is_levy(angle, uniform):
    U = torch.where(angle > 0, math.pi - angle.abs(), angle.abs())
    exact = 1 / (4 * torch.cos(U / 2) ** 2 * -torch.log1p(-uniform))
    near_pole = angle > 0  # cos(U/2) = sin((pi - U)/2), without the cancellation
    exact[near_pole] = 1 / (
        4 * torch.sin(angle[near_pole] / 2) ** 2 * -torch.log1p(-uniform[near_pole])
    )
    assert torch.allclose(log_positive_from_uniforms(0.5, angle, uniform), exact.log(), atol=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 0.6, 0.95])
def test_positive_map_is_kanters_formula(alpha, angle, uniform):
    middle = angle.abs() > 0.01
    v, u = angle[middle], uniform[middle]
    U = torch.where(v > 0, math.pi - v.abs(), v.abs())
    W = -torch.log1p(-u)
    kanter = (
        torch.sin(alpha * U)
        * torch.sin((1 - alpha) * U) ** ((1 - alpha) / alpha)
        / torch.sin(U) ** (1 / alpha)
        * W ** (-(1 - alpha) / alpha)
    )
    found = log_positive_from_uniforms(alpha, v, u)
    assert torch.allclose(found, kanter.log(), rtol=1e-10, atol=1e-10)


def test_a_tensor_of_indices_is_the_same_map_and_inputs_stay(angle, uniform):
    before = angle.clone(), uniform.clone()
    index = torch.tensor([0.3, 0.9, 1.0, 1.6, 2.0], dtype=torch.float64)
    for transform, some in (
        (symmetric_from_uniforms, index),
        (log_positive_from_uniforms, index / 2),
    ):
        rows = transform(some[:, None], angle, uniform)
        for alpha, row in zip(some.tolist(), rows, strict=True):
            assert torch.allclose(row, transform(alpha, angle, uniform), rtol=1e-12, atol=1e-12)
    assert torch.equal(angle, before[0])
    assert torch.equal(uniform, before[1])


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.3, 1.9])
def test_the_maps_have_their_derivatives(alpha):
    """In the index, the angle and the uniform, against differences."""
    inputs = [[alpha], [-1.4, -0.2, 0.8], [0.3, 0.1, 0.9]]
    free = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in inputs]
    assert torch.autograd.gradcheck(symmetric_from_uniforms, free)
    if alpha < 1:
        assert torch.autograd.gradcheck(log_positive_from_uniforms, free)


# What floating point could spoil.


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.1, 1.75, 2.0])
def test_float32_is_float64_rounded(alpha, generator):
    angle, uniform = bits(1_000_000, generator)
    x32 = symmetric_from_uniforms(alpha, angle, uniform).double()
    x64 = symmetric_from_uniforms(alpha, angle.double(), uniform.double())
    relative = ((x32 - x64) / x64).abs()
    assert float(relative.median()) < 3e-7
    assert float(relative[x64.abs().topk(1000).indices].max()) < 1e-5


def extremes(dtype):
    """The ends of what a map may be given: angles and uniforms next to 0, and the largest."""
    bits = 31 if dtype == torch.float32 else 63
    ends = torch.tensor([0.5 / 2.0**bits, 0.3, 1 - 1e-7, 1.0], dtype=torch.float64) * HALF_PI
    largest = 1 - torch.finfo(dtype).eps / 2
    middle = [0.5, 1 - math.exp(-1), math.exp(-1)]
    uniform = torch.tensor([0.5 / 2.0**bits, *middle, largest], dtype=torch.float64)
    grids = torch.meshgrid(torch.cat([-ends, ends]), uniform, indexing="ij")
    return (grid.flatten().to(dtype) for grid in grids)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "alpha", [5e-324, 1e-40, 1e-9, 1e-3, 0.01, 0.1, 0.4, 0.5, 0.9, 1 - 1e-9, 1.0, 1.1, 1.75, 2.0]
)
def test_no_index_makes_the_extreme_bits_nan(alpha, dtype):
    v, u = extremes(dtype)
    for index in (alpha, torch.full_like(v, alpha)):
        x = symmetric_from_uniforms(index, v, u)
        assert not x.isnan().any()
        assert alpha < 0.5 or torch.isfinite(x).all()
    assert torch.isfinite(log_positive_from_uniforms(alpha / 2, v, u)).all()
    for beta in (-1.0, 0.0, 0.3, 1.0):
        assert not stable_from_uniforms(alpha, beta, v.double(), u.double()).isnan().any()


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.3])
def test_small_indices_overflow_only_where_the_draw_does(alpha, generator):
    angle, uniform = bits(500_000, generator)
    angle[:9] = HALF_PI  # rounded, where the sine of the angle's complement is 0
    x32 = symmetric_from_uniforms(alpha, angle, uniform)
    x64 = symmetric_from_uniforms(alpha, angle.double(), uniform.double())
    assert not torch.isnan(x32).any()
    fits = x64.abs() < 1e38
    fits[:9] = False  # nobody knows how small their angle is
    assert torch.isfinite(x32[fits]).all()
    assert torch.isinf(x32[x64.abs() > 4e38]).all()


@pytest.mark.parametrize("alpha", [1e-3, 0.01, 0.1, 0.3, 0.7])
def test_log_positive_in_float32_is_float64_rounded(alpha, generator):
    angle, uniform = bits(500_000, generator)
    exact = log_positive_from_uniforms(alpha, angle.double(), uniform.double())
    found = log_positive_from_uniforms(alpha, angle, uniform).double()
    # Its terms are of the order of 1/alpha; the law of A spreads as far.
    assert float((alpha * (found - exact)).abs().max()) < 1e-5


def test_the_textbook_formula_fails_in_float32():
    """The negative control of the test above: cos(float32(pi/2)) is negative."""
    U = torch.tensor(HALF_PI, dtype=torch.float32)
    assert torch.isnan(textbook(1.5, U, torch.ones(())))
    U = torch.tensor(HALF_PI, dtype=torch.float64)
    assert torch.isfinite(textbook(1.5, U, torch.ones(())))


# The skewed map.


def test_without_skewness_the_map_is_the_symmetric_one(generator):
    v, u = bits(50_000, generator, torch.float64)
    for alpha in (0.4, 0.9, 1.2, 1.9, 2.0):
        skewed = stable_from_uniforms(alpha, 0.0, v, u)
        assert torch.allclose(skewed, symmetric_from_uniforms(alpha, v, u), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 0.6, 0.95])
def test_at_beta_1_it_is_kanters_map(alpha, angle, uniform):
    """X_1 = A cos(pi alpha / 2)^{-1/alpha}: the same law, and U + pi/2 for Kanter's U."""
    v, u = angle[angle.abs() > 0.01], uniform[angle.abs() > 0.01]
    one = torch.ones((), dtype=torch.float64)
    x = stable_from_uniforms(alpha, 1.0, v, u) + s1_shift(alpha * one, one, one)
    A = log_positive_from_uniforms(alpha, v, u).exp()
    assert torch.allclose(x, A / math.cos(HALF_PI * alpha) ** (1 / alpha), rtol=1e-9, atol=1e-11)


def test_the_skewed_map_at_1_is_its_own_formula(angle, uniform):
    middle = angle.abs() > 0.01
    v, u = angle[middle], uniform[middle]
    U, W = torch.sign(v) * (HALF_PI - v.abs()), -torch.log(u)
    for beta in (-1.0, 0.4):
        c = HALF_PI + beta * U
        exact = (c * torch.tan(U) - beta * torch.log(HALF_PI * W * torch.cos(U) / c)) / HALF_PI
        found = stable_from_uniforms(1.0, beta, v, u)
        assert torch.allclose(found, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("beta", [-0.6, 0.0, 0.3])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 1.7, 2.0])
def test_the_skewed_map_is_differentiable(alpha, beta):
    """In alpha from above or, at 2, from below: the map bends at 1; in beta across 0."""
    v = torch.tensor([-1.4, -0.9, -0.2, 0.3, 0.8, 1.5], dtype=torch.float64)
    u = torch.tensor([0.3, 0.7, 0.1, 0.5, 0.9, 0.2], dtype=torch.float64)
    free = torch.tensor([alpha, beta], dtype=torch.float64)
    found = torch.autograd.functional.jacobian(
        lambda p: stable_from_uniforms(p[0], p[1], v, u), free
    )
    h = 1e-3 if alpha == 1 else 1e-5  # next to 1 parts of the map take an index 1e-8 away
    h = -h if alpha == 2 else h
    at = [stable_from_uniforms(alpha + k * h, beta, v, u) for k in range(5)]
    weights = (-25 / 12, 4, -3, 4 / 3, -1 / 4)  # the derivative at 0 of the quartic through five
    slope = sum(w * x for w, x in zip(weights, at, strict=True)) / h
    few = 1e-4 if alpha == 1 else 1e-6
    assert torch.allclose(found[:, 0], slope, rtol=few, atol=few)
    ahead, behind = (stable_from_uniforms(alpha, beta + s * 1e-6, v, u) for s in (1, -1))
    assert torch.allclose(found[:, 1], (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gap", [0.0, 1e-9, -1e-9, -9.9e-9])
def test_next_to_alpha_1_the_map_is_smooth(gap):
    """On its side of 1, against a parabola through three points of that side."""
    v, u = (torch.tensor([value], dtype=torch.float64) for value in (0.7, 0.4))
    alpha = torch.tensor(1 + gap, dtype=torch.float64, requires_grad=True)
    x = stable_from_uniforms(alpha, 0.4, v, u)
    (slope,) = torch.autograd.grad(x.sum(), alpha)
    h = 1e-4 if gap >= 0 else -1e-4
    one, two, three = (float(stable_from_uniforms(1 + k * h, 0.4, v, u)) for k in (1, 2, 3))
    # Next to 1 parts of the map take an index up to 2e-8 away.
    assert float(x.detach()) == pytest.approx(3 * one - 3 * two + three, abs=3e-8)
    # the derivative at 0 of the parabola, whose error is of the order of h^2
    assert float(slope) == pytest.approx((-2.5 * one + 4 * two - 1.5 * three) / h, rel=1e-5)


def test_the_shift_of_s1():
    for alpha in (0.3, 1 - 1e-12, 1 + 1e-12, 1 + 1e-5, 1.5, 1.999, 2.0):
        index = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
        one = torch.ones((), dtype=torch.float64)
        shift = s1_shift(index, 0.5 * one, 2 * one)
        (slope,) = torch.autograd.grad(shift, index)
        with mpmath.workdps(40):
            argument = mpmath.pi * mpmath.mpf(alpha) / 2
            exact = mpmath.tan(argument) if alpha < 2 else 0
            bend = mpmath.pi / 2 * (1 + exact**2)
        assert float(shift.detach()) == pytest.approx(float(exact), rel=1e-11, abs=1e-15)
        assert float(slope) == pytest.approx(float(bend), rel=1e-11)


@pytest.mark.parametrize(("integer", "dtype"), [(torch.int32, "float32"), (torch.int64, "float64")])
def test_words_fill_the_angle_and_the_uniform(integer, dtype):
    """The least and the greatest word, and those next to 0."""
    ends = torch.iinfo(integer)
    words = torch.tensor([ends.min, -1, 0, ends.max], dtype=integer)
    angle, uniform = uniforms_from_words(words.expand(1, 2, 4))
    assert str(angle.dtype) == str(uniform.dtype) == f"torch.{dtype}"
    half = torch.tensor(math.pi / 2, dtype=angle.dtype)
    small = half * 2.0**-ends.bits
    torch.testing.assert_close(angle, torch.stack([-half, -small, small, half]), rtol=1e-6, atol=0)
    least = 2.0**-ends.bits
    expected = torch.tensor([1, least, least, 1], dtype=angle.dtype)
    torch.testing.assert_close(uniform, expected, rtol=1e-6, atol=0)
    assert (uniform < 1).all()
