import cmath
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

import pytest
import torch
from scipy import stats

import heavytail
from heavytail import positive_stable, stable, symmetric_stable, tail_constant
from heavytail.laws.chambers_mallows_stuck import (
    log_positive_from_uniforms,
    s1_shift,
    symmetric_from_uniforms,
    uniforms,
    uniforms_from_words,
    words_for,
)
from heavytail.laws.draws import _compiled
from tests.oracles import p_of_count, stable_phi, stable_tail, z_of_cosines, z_of_laplace

ALPHAS = [0.3, 0.5, 0.8, 1 - 1e-6, 1.0, 1 + 1e-6, 1.1, 1.5, 1.75, 2 - 1e-6, 2.0]
DTYPES = [torch.float32, torch.float64]
HALF_PI = math.pi / 2


# The laws.


def test_positive_at_1_is_the_constant_1(generator):
    for dtype in DTYPES:
        assert (positive_stable(1.0, 1000, generator=generator, dtype=dtype) == 1).all()
    near = positive_stable(1 - 1e-9, 1000, generator=generator, dtype=torch.float64)
    assert float((near - 1).abs().median()) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_characteristic_function(alpha, dtype, generator):
    x = symmetric_stable(alpha, 200_000, generator=generator, dtype=dtype)
    assert torch.isfinite(x).all()
    for u in (0.25, 0.5, 1.0, 2.0):
        assert abs(z_of_cosines(x, u, stable_phi(alpha))) < 4


def test_characteristic_function_tells_a_wrong_law(generator):
    x = symmetric_stable(1.75, 200_000, generator=generator)
    assert abs(z_of_cosines(x, 0.25, stable_phi(1.7))) > 4
    normal = torch.randn(200_000, generator=generator)  # the other convention at alpha = 2
    assert abs(z_of_cosines(normal, 1.0, stable_phi(2.0))) > 4


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.6, 0.875, 0.999])
def test_laplace_transform(alpha, generator):
    x = positive_stable(alpha, 200_000, generator=generator, dtype=torch.float64)
    assert (x > 0).all()
    for s in (0.25, 1.0, 4.0):
        assert abs(z_of_laplace(x, s, lambda s: math.exp(-(s**alpha)))) < 4
    assert abs(z_of_laplace(x, 4.0, lambda s: math.exp(-(s ** (0.9 * alpha))))) > 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_in_the_far_tail(dtype, generator):
    n, alpha = 5_000_000, 1.1
    x = symmetric_stable(alpha, n, generator=generator, dtype=dtype).abs()
    for level in (1e2, 1e3, 1e4, 1e5):
        count = int((x > level).sum())
        assert p_of_count(count, n * stable_tail(alpha, level)) > 1e-5
    assert p_of_count(int((x > 1e3).sum()), n * stable_tail(1.15, 1e3)) < 1e-5


def test_tail_constant_is_the_limit_of_the_tail():
    for alpha in (1.1, 1.5, 1.9):
        x = 1e6
        assert stable_tail(alpha, x) * x**alpha == pytest.approx(tail_constant(alpha), rel=1e-4)
    assert tail_constant(1.0) == pytest.approx(2 / math.pi)  # Cauchy
    assert (tail_constant(5e-324), tail_constant(2.0)) == (1, 0)


# What floating point could spoil.


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniforms_fill_their_intervals(dtype, generator):
    angle, uniform = uniforms(torch.empty(1_000_000, dtype=dtype), generator)
    assert (angle != 0).all()
    assert float(angle.abs().max()) <= float(torch.tensor(HALF_PI, dtype=dtype))
    assert 0 < float(uniform.min()) < float(uniform.max()) < 1
    half = stats.uniform(-HALF_PI, math.pi)
    assert stats.kstest(angle[:100_000].double(), half.cdf).pvalue > 1e-5
    assert stats.kstest(uniform[:100_000].double(), "uniform").pvalue > 1e-5
    # Both come from one stream of words: they must be independent all the same.
    assert abs(float(torch.corrcoef(torch.stack([angle.abs(), uniform]))[0, 1])) < 5e-3


@pytest.mark.long
@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8, 1.0, 1.1, 1.75, 2.0])
def test_a_hundred_million_draws_in_float32(alpha, generator):
    """All are finite and, at 1.1, as many far out as there should be, to beyond 2e6."""
    levels, counts = torch.tensor([1e4, 1e5, 1e6, 2e6]), 0
    for _ in range(100):
        x = symmetric_stable(alpha, 1_000_000, generator=generator, dtype=torch.float32)
        assert torch.isfinite(x).all()
        counts += (x.abs() > levels[:, None]).sum(1)
    if alpha == 1.1:
        for count, level in zip(counts.tolist(), levels.tolist(), strict=True):
            assert p_of_count(count, 1e8 * stable_tail(alpha, level)) > 1e-5
        assert counts[-1] > 0  # the textbook's formula in float32 has none


# The path of an accelerator, tried on the CPU: the same words, one kernel.


@pytest.mark.skipif(shutil.which("g++") is None and "CI" not in os.environ, reason="no g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, as the compiler loads
@pytest.mark.parametrize("transform", [symmetric_from_uniforms, log_positive_from_uniforms])
def test_the_compiled_map_is_the_eager_one_in_one_kernel(transform, generator):
    from torch._inductor import metrics

    like = torch.empty(100_000)
    words = words_for(like, generator)
    metrics.reset()
    for alpha in (0.3, 0.7, 0.99):
        index = torch.full((), alpha)
        fused = _compiled(transform)(words, len(like), index)
        eager = transform(index, *(bits[: len(like)] for bits in uniforms_from_words(words)))
        assert torch.allclose(fused, eager, rtol=3e-5, atol=1e-5)
    assert metrics.generated_kernel_count == 1  # for all draws and all indices


def test_without_a_compiler_a_draw_is_slower_and_warns_once(monkeypatch, generator):
    def refuse(*_, **__):
        def run(*_):
            raise RuntimeError("no compiler")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    like = torch.empty(1000)
    words = words_for(like, generator)
    run = _compiled.__wrapped__(symmetric_from_uniforms)
    with pytest.warns(UserWarning, match="not compiled and slower: no compiler"):
        first = run(words, len(like), 1.5)
    assert torch.equal(run(words, len(like), 1.5), first)  # a second warning is an error


# Skewed laws.


def skewed_phi(alpha, beta, u, form):
    """Return the characteristic function of the standard skewed law at u > 0."""
    if alpha == 1:
        return cmath.exp(-u * (1 + 2j / math.pi * beta * math.log(u)))
    tangent = math.tan(math.pi * alpha / 2)
    if form == "S0":
        return cmath.exp(-(u**alpha) * (1 + 1j * beta * tangent * (u ** (1 - alpha) - 1)))
    return cmath.exp(-(u**alpha) * (1 - 1j * beta * tangent))


def worst_z(x, phi):
    """Return the largest z-score of the means of cos(ux) and sin(ux), u in {1/4, 1/2, 1, 2}."""
    scores = []
    for u in (0.25, 0.5, 1.0, 2.0):
        mean, twice, root_n = phi(u), phi(2 * u), math.sqrt(x.numel())
        cosine, sine = float(torch.cos(u * x).mean()), float(torch.sin(u * x).mean())
        scores.append(
            (cosine - mean.real) / math.sqrt((1 + twice.real) / 2 - mean.real**2) * root_n
        )
        scores.append((sine - mean.imag) / math.sqrt((1 - twice.real) / 2 - mean.imag**2) * root_n)
    return max(map(abs, scores))


@pytest.mark.parametrize("beta", [-1.0, -0.5, 0.0, 1.0])
@pytest.mark.parametrize(
    ("form", "alpha"),
    [*product(["S0", "S1"], [0.3, 0.5, 0.8, 1.0, 1.75, 2.0]), ("S0", 1 - 1e-6), ("S0", 1 + 1e-6)],
)
def test_skewed_characteristic_function(alpha, beta, form, generator):
    options = {"parameterization": form, "generator": generator, "dtype": torch.float64}
    x = stable(alpha, beta, 200_000, **options)
    assert torch.isfinite(x).all()
    assert worst_z(x, lambda u: skewed_phi(alpha, beta, u, form)) < 4
    if beta and alpha < 2:
        assert worst_z(x, lambda u: skewed_phi(alpha, -beta, u, form)) > 4


def test_totally_skewed_laws_are_positive_ones(generator):
    """X_1 = A cos(pi alpha / 2)^{1/alpha}, A standard: E exp(-sA) = exp(-s^alpha)."""
    x = stable(0.6, 1.0, 100_000, generator=generator, dtype=torch.float64)
    scale = math.cos(0.3 * math.pi) ** (1 / 0.6)
    assert abs(z_of_laplace(scale * x, 1.0, lambda s: math.exp(-(s**0.6)))) < 4
    assert abs(z_of_laplace(x, 1.0, lambda s: math.exp(-(s**0.6)))) > 4


def test_loc_and_scale_in_both_forms():
    def draw(alpha, form, **options):
        seeded = torch.Generator().manual_seed(3)
        return stable(alpha, 0.7, 1000, parameterization=form, generator=seeded, **options)

    options = {"loc": 5.0, "scale": 3.0, "dtype": torch.float64}
    for alpha in (0.8, 1.0, 1.6):
        standard = draw(alpha, "S0", dtype=torch.float64)
        assert torch.allclose(draw(alpha, "S0", **options), 3 * standard + 5)
        shift = math.tan(math.pi * alpha / 2) if alpha != 1 else 2 / math.pi * math.log(3)
        assert torch.allclose(draw(alpha, "S1", **options), 3 * (standard + 0.7 * shift) + 5)


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 0.01])
def test_at_a_tiny_index_a_draw_is_small_or_large_but_a_number(alpha, generator):
    """|X|^alpha tends to 1/W in law as alpha falls to 0: |X| < 1 where W > 1."""
    n = 20_000
    x = symmetric_stable(alpha, n, generator=generator)
    assert not x.isnan().any()
    assert abs(int((x.abs() < 1).sum()) / n - 1 / math.e) < 4 * math.sqrt(0.24 / n) + 2 * alpha
    for beta in (0.3, -1.0):
        assert not stable(alpha, beta, n, generator=generator).isnan().any()
        assert (stable(alpha, beta, n, scale=0.0, loc=2.0, generator=generator) == 2).all()


def test_a_scale_of_0_gives_0_though_draws_be_infinite(generator):
    scale = torch.tensor([0.0, 1.0]).repeat(50_000)
    x = symmetric_stable(0.05, 100_000, scale=scale, generator=generator)
    assert not x[::2].any()
    assert x[1::2].isinf().any()
    assert not symmetric_stable(0.05, 1000, scale=1e-320, generator=generator).isnan().any()


@pytest.mark.parametrize("beta", [1.0, -1.0])
@pytest.mark.parametrize("alpha", [0.02, 0.05, 0.3, 0.9])
def test_no_draw_leaves_the_half_line(alpha, beta, generator):
    shift = s1_shift(*torch.tensor([alpha, beta, 1.7], dtype=torch.float64))
    options = {"loc": 1 / 3, "scale": 1.7, "generator": generator, "dtype": torch.float64}
    for form, end in (("S0", 1 / 3 - float(shift)), ("S1", 1 / 3)):
        x = stable(alpha, beta, 50_000, parameterization=form, **options)
        assert (beta * (x - end) >= 0).all()


# The interface.


@pytest.fixture
def four_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("alpha", [1.5, torch.tensor([[0.7], [1.5]])])
def test_same_seed_same_bits_on_any_thread_and_torchs_number_of_threads_stays(alpha, four_threads):
    def draw(seed):
        seeded = torch.Generator().manual_seed(seed)
        return symmetric_stable(alpha, (2, 150_001), generator=seeded), torch.get_num_threads()

    alone = [draw(seed)[0] for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(draw, range(8)))
        later = list(pool.map(lambda _: torch.get_num_threads(), range(8)))
    assert {torch.get_num_threads(), *later} == {4}
    assert all(torch.equal(x, y) for x, (y, _) in zip(alone, found, strict=True))
    torch.set_num_threads(1)
    assert torch.equal(draw(0)[0], alone[0])


def test_a_longer_draw_begins_like_a_shorter_one():
    short, long = (
        symmetric_stable(1.5, n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        for n in (1_000, 40_000)
    )
    assert torch.equal(short, long[:1_000])


def test_the_global_generator_is_used_only_without_another(generator):
    state = torch.get_rng_state()
    for draw in (symmetric_stable, positive_stable, partial(stable, beta=0.3)):
        draw(0.5, size=10, generator=generator)
        assert torch.equal(torch.get_rng_state(), state)
        first = draw(0.5, size=10)
        torch.set_rng_state(state)
        assert torch.equal(draw(0.5, size=10), first)
        torch.set_rng_state(state)


def test_nothing_is_made_on_the_default_device(generator):
    """Not a parameter nor a step of an estimator, where generator or data are on the CPU."""
    x = symmetric_stable(1.5, 200, generator=generator, dtype=torch.float64)
    torch.set_default_device("meta")
    try:
        for draw in (symmetric_stable, positive_stable, partial(stable, beta=0.3)):
            assert bool(draw(0.5, size=10, generator=generator).isfinite().all())
        estimates = [heavytail.hill(x, 20), heavytail.log_moment(x, 5), heavytail.stable_mle(x)]
        curve = heavytail.hill_curve(x, [20])
    finally:
        torch.set_default_device(None)
    assert all(abs(e.alpha - 1.5) < 4 * e.stderr for e in estimates)
    assert curve.alpha.tolist() == [estimates[0].alpha]


@pytest.mark.parametrize("form", ["S0", "S1"])
def test_draws_of_the_largest_scale_and_loc_are_numbers(form, generator):
    """Inf where they leave the floats, but never inf - inf."""
    for alpha, beta in product((0.001, 0.9, 1 - 1e-16, 1.0, 1 + 1e-15, 1.01, 2.0), (-1.0, 0.3)):
        for loc in (1.7e308, -1.7e308):
            options = {"scale": 1e290, "loc": loc, "parameterization": form}
            x = stable(alpha, beta, 5000, generator=generator, dtype=torch.float64, **options)
            assert not x.isnan().any()
    assert not symmetric_stable(0.01, 5000, scale=3e38, generator=generator).isnan().any()


def test_shape_dtype_and_scale(generator):
    assert symmetric_stable(1.5, (), generator=generator).shape == ()
    assert symmetric_stable(1.5, 0, generator=generator).shape == (0,)
    assert positive_stable(0.5, [2, 3], generator=generator).shape == (2, 3)
    assert symmetric_stable(1.5, 4, dtype=torch.float64).dtype == torch.float64
    torch.set_default_dtype(torch.float64)
    assert symmetric_stable(1.5, 4).dtype == torch.float64
    one, scaled = (
        symmetric_stable(1.5, 9, scale=scale, generator=torch.Generator().manual_seed(1))
        for scale in (1.0, torch.linspace(0, 4, 9))
    )
    assert torch.equal(scaled, one * torch.linspace(0, 4, 9))


def test_parameters_broadcast():
    """In several blocks: each row has the parameters that are its own."""

    def draw(alpha, beta, scale):
        seeded = torch.Generator().manual_seed(6)
        options = {"scale": scale, "generator": seeded, "dtype": torch.float64}
        return stable(alpha, beta, (2, 100_000), **options)

    alpha, beta, scale = torch.tensor([[[0.6], [1.7]], [[-0.5], [0.5]], [[2.0], [0.0]]]).double()
    together = draw(alpha, beta, scale)
    for row in range(2):
        alone = draw(*(float(value[row]) for value in (alpha, beta, scale)))
        assert torch.allclose(together[row], alone[row], rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (symmetric_stable, {"alpha": 2.5}, ValueError, r"alpha must be in \(0, 2\], got 2\.5"),
        (symmetric_stable, {"alpha": torch.tensor([1.5, 2.5])}, ValueError, "alpha .*, got 2.5"),
        (symmetric_stable, {"alpha": torch.ones(2)}, ValueError, "alpha must broadcast to size"),
        (
            symmetric_stable,
            {"scale": 1e39},
            ValueError,
            r"scale must be in \[0, 3\.4\d*e\+38\], got 1e\+39",
        ),
        (symmetric_stable, {"scale": torch.ones(2)}, ValueError, "scale must broadcast to size"),
        (symmetric_stable, {"dtype": torch.float16}, ValueError, "dtype must be"),
        (symmetric_stable, {"generator": 7}, TypeError, "generator must be"),
        (symmetric_stable, {"generator": None, "device": "mps"}, ValueError, "64 bits, .* got mps"),
        (positive_stable, {"alpha": 1.5}, ValueError, r"alpha must be in \(0, 1\], got 1\.5"),
        (stable, {"beta": 1.5}, ValueError, r"beta must be in \[-1, 1\], got 1\.5"),
        (stable, {"scale": 1e291}, ValueError, r"scale must be in \[0, 1e290\], got 1e\+291"),
        (stable, {"parameterization": "S2"}, ValueError, r"must be one of \['S0', 'S1'\]"),
        (stable, {"loc": torch.ones(2)}, ValueError, "loc must broadcast to size"),
    ],
)
def test_a_refused_call_draws_nothing(function, arguments, error, message, generator):
    state = generator.get_state()
    good = {"alpha": 0.5, "size": 3, "generator": generator}
    good |= {"beta": 0.5} if function is stable else {}
    with pytest.raises(error, match=message):
        function(**{**good, **arguments})
    assert torch.equal(generator.get_state(), state)
