"""The stable law beside other people's tables, closed forms, identities and its own draws."""

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy
import torch
from scipy import stats
from torch.autograd import gradcheck
from torch.distributions import Cauchy, Normal, biject_to, constraints

from heavytail import Stable
from heavytail.laws import density
from heavytail.laws.distribution import log_density
from tests.oracles import stable_log_density

LAWS = [(0.6, 0.4), (0.8, -1.0), (1.0, 0.0), (1.0, -0.7), (1.3, 1.0), (1.75, 0.2), (2.0, 0.0)]
NOLAN = Path(scipy.__file__).parent / "stats/tests/data/levy_stable"


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)  # conftest puts the default back


@pytest.mark.parametrize(("what", "rows"), [("pdf", 4361), ("cdf", 4348)])
def test_nolans_table(what, rows):
    """The table shipped with scipy, at alpha >= 0.2, in the form S1.

    Six of its distribution values, at alpha = 1, |beta| = 0.1, 0.2, 0.3 and far out, are those of
    the level they were made for (0.01 or 0.99) and not of its own points: they are 1e-4 to 2.5e-2
    off the integral, which quadrature in 30 digits confirms, and off their neighbours.
    """
    path = NOLAN / f"stable-Z1-{what}-sample-data.npy"
    if not path.exists():
        pytest.skip("this scipy comes without the table")
    x, value, alpha, beta, level = torch.from_numpy(np.load(path)).T.contiguous()
    odd = (alpha == 1) & (beta.abs() < 0.35) & (x.abs() > 30) & (x * beta > 0) & (what == "cdf")
    assert int(odd.sum()) == (6 if what == "cdf" else 0)
    keep = (alpha > 0.15) & ~odd
    assert int(keep.sum()) >= rows
    law = Stable(alpha[keep], beta[keep])
    found = (law.log_prob(x[keep]) if what == "pdf" else law.cdf(x[keep]).log()).exp()
    assert float((found / value[keep] - 1).abs().max()) < 1e-9
    wrong = Stable(alpha[keep], beta[keep], parameterization="S0").cdf(x[keep])
    assert float((wrong / level[keep] - 1).abs().max()) > 0.1  # the control: the other form


@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_closed_forms(parameterization):
    x = torch.linspace(-6, 6, 25)
    normal = Stable(2.0, 0.7, 0.5, 1.5, parameterization)
    cauchy = Stable(1.0, 0.0, 0.5, 1.5, parameterization)
    for ours, theirs in ((normal, Normal(0.5, 1.5 * math.sqrt(2))), (cauchy, Cauchy(0.5, 1.5))):
        assert torch.allclose(ours.log_prob(x), theirs.log_prob(x), rtol=1e-11)
        assert torch.allclose(ours.cdf(x), theirs.cdf(x), rtol=1e-11)
        assert torch.allclose(ours.sf(x), theirs.cdf(1 - x), rtol=1e-11)
    levy, exact = Stable(0.5, 1.0, 0.5, 1.5), stats.levy(0.5, 1.5)
    y = torch.tensor([0.51, 0.6, 1.0, 5.0, 1e3, 1e6])
    assert torch.allclose(levy.log_prob(y), torch.as_tensor(exact.logpdf(y)), rtol=1e-11)
    assert torch.allclose(levy.cdf(y), torch.as_tensor(exact.cdf(y)), rtol=1e-10)
    assert torch.allclose(levy.sf(y), torch.as_tensor(exact.sf(y)), rtol=1e-11)


def test_the_forms_differ_by_the_shift():
    value, scale = torch.tensor([-2.0, 0.3, 4.0]), 1.7
    for alpha, beta in ((0.6, 0.4), (0.97, -0.9), (1.003, -0.5), (1.4, 1.0), (2.0, 1.0), (1, 0.7)):
        shift = beta * scale * math.tan(math.pi * alpha / 2)
        shift = shift if alpha != 1 else beta * scale * 2 / math.pi * math.log(scale)
        s1, s0 = (Stable(alpha, beta, 0.5, scale, form).log_prob for form in ("S1", "S0"))
        assert torch.allclose(s1(value), s0(value - shift), atol=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_draws_have_the_cdf(law):
    torch.manual_seed(2)
    d, wrong = (Stable(*law, 0.3, scale) for scale in (2.0, 2.5))
    x = d.sample((50_000,)).numpy()
    assert stats.kstest(x, lambda v: d.cdf(torch.from_numpy(v)).numpy()).pvalue > 1e-5
    assert stats.kstest(x, lambda v: wrong.cdf(torch.from_numpy(v)).numpy()).pvalue < 1e-5


@pytest.mark.parametrize("law", [*LAWS, (0.1, 0.5), (1.004, 1.0), (1.95, -1.0)])
def test_reflection_and_mass(law):
    """f(-x; -beta) = f(x; beta), F + S = 1, and f integrates to the difference of F."""
    alpha, beta = law
    d, mirrored = (Stable(alpha, b, parameterization="S0") for b in (beta, -beta))
    x = torch.linspace(-7, 7, 29)
    assert torch.allclose(mirrored.cdf(-x), d.sf(x), rtol=1e-12)
    assert torch.allclose(d.cdf(x) + d.sf(x), torch.ones(29), rtol=1e-14)
    assert (d.cdf(x).diff() >= 0).all()
    node, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(60))
    inner = x[
        (d.cdf(x) > 0.01)
        & (d.sf(x) > 0.01)
        & ((x + beta * math.tan(math.pi * alpha / 2)).abs() > 0.4)
    ]
    low, high = inner[-2:]
    density_there = d.log_prob((low + high) / 2 + (high - low) / 2 * node).exp()
    mass = (density_there * weight).sum() * (high - low) / 2
    assert float(mass) == pytest.approx(float(d.cdf(high) - d.cdf(low)), rel=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(1.2, 0.5), (1.6, -0.3), (1.9, 0.8), (1.5, 1.0)])
def test_duality(alpha, beta):
    """f(x; alpha, rho) = x^(-1 - alpha) f(x^-alpha; 1/alpha, alpha rho), rho = P(X > 0).

    In Zolotarev's form (C), whose scale is (1 + beta^2 tan^2)^(1 / 2 alpha) in S1.
    """

    def log_f(x, alpha, rho):
        T = math.tan(math.pi * alpha / 2)
        B = math.tan(math.pi * alpha * (rho - 0.5))
        scale = (1 + B * B) ** (-0.5 / alpha)
        return Stable(alpha, max(-1.0, min(1.0, B / T)), scale=scale).log_prob(x)

    x = torch.tensor([0.2, 0.7, 1.0, 3.0, 20.0])
    rho = 0.5 + math.atan(beta * math.tan(math.pi * alpha / 2)) / (math.pi * alpha)
    assert float(Stable(alpha, beta).sf(torch.tensor(0.0))) == pytest.approx(rho, rel=1e-12)
    dual = log_f(x**-alpha, 1 / alpha, alpha * rho) - (1 + alpha) * x.log()
    assert torch.allclose(log_f(x, alpha, rho), dual, rtol=1e-10, atol=1e-10)


def test_quadrature_in_many_digits():
    points = [(0.5, 0.5, 0.1), (0.99, 0.5, -2.0), (1.0, 0.5, 3.0), (1 - 1e-6, -0.4, 0.5)]
    points += [(1.01, -0.4, 2.0), (1.004, 0.7, 5.0), (1.5, -0.6, 30.0), (1.9, 0.3, 1.0)]
    for alpha, beta, x in points:
        exact = stable_log_density(alpha, beta, x)
        assert float(log_density(torch.tensor(x), alpha, beta)) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, -0.9])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.8])
def test_tail_series(alpha, beta):
    """P(X > z) = (1/pi) sum (-1)^(k+1) Gamma(k alpha) / k! q^k sin(k a), which converges."""
    for z in (30.0, 1e3, 1e6, 1e40, 1e290):
        with mpmath.workdps(60):
            T = mpmath.tan(mpmath.pi * mpmath.mpf(alpha) / 2)
            B = mpmath.mpf(beta) * T
            a = mpmath.atan2((1 + mpmath.mpf(beta)) * T, 1 - B * T)
            q = mpmath.sqrt(1 + B**2) * mpmath.mpf(z) ** -mpmath.mpf(alpha)
            tail = slope = mpmath.mpf(0)
            for k in range(1, 150):
                term = mpmath.gamma(k * alpha) / mpmath.factorial(k) * q**k * mpmath.sin(k * a)
                tail, slope = tail - (-1) ** k * term, slope - (-1) ** k * term * k * alpha
            log_f, tail = float(mpmath.log(slope / mpmath.pi / z)), float(tail / mpmath.pi)
        d, x = Stable(alpha, beta), torch.tensor(z)
        assert float(d.log_prob(x)) == pytest.approx(log_f, rel=1e-12, abs=2e-11)
        assert float(d.sf(x)) == pytest.approx(tail, rel=2e-11)


@pytest.mark.parametrize("law", [(0.3, 0.5), (1.0, -0.4), (1.5, 0.0), (1.9, 1.0)])
def test_as_far_as_floats_go(law):
    alpha, beta = law
    d = Stable(alpha, beta, parameterization="S0")
    x = torch.tensor([-1e307, -1e101, -1e99, 1e99, 1e101, 1e307])
    constant = math.gamma(alpha) * math.sin(math.pi * min(alpha, 2 - alpha) / 2) / math.pi
    log_tail = torch.log(constant * (1 + beta * x.sign())) - alpha * x.abs().log()
    smaller = torch.where(x > 0, d.sf(x), d.cdf(x))
    assert torch.allclose(smaller, log_tail.exp(), rtol=1e-9, atol=0)
    log_f, power = math.log(alpha) + log_tail - x.abs().log(), torch.isfinite(log_tail)
    assert torch.allclose(d.log_prob(x)[power], log_f[power], rtol=1e-11)
    assert (d.log_prob(x)[~power] < -1e200).all()
    ends = torch.tensor([-math.inf, math.inf], requires_grad=True)
    assert d.log_prob(ends).tolist() == [-math.inf, -math.inf]
    assert (d.cdf(ends).tolist(), d.sf(ends).tolist()) == ([0, 1], [1, 0])
    assert torch.autograd.grad(d.log_prob(ends).sum(), ends)[0].tolist() == [0, 0]


@pytest.mark.parametrize("beta", [-0.4, 0.0, 1.0])
def test_next_to_alpha_1_the_interpolation_is_the_integral(beta):
    x = torch.tensor([-3.0, -2.0, 0.0, 0.5, 3.0, 40.0, 1e6])
    for alpha in (0.9955, 0.997, 1.003, 1.0045):
        a, b = torch.full_like(x, alpha), torch.full_like(x, beta)
        between = density._interpolate(x, a, b, False)[0]
        exact = density._integrate(x + b * density.tangent(a), a, b, False)[0]
        assert torch.allclose(between, exact, rtol=1e-9, atol=1e-10)
        other = density._integrate(x + b * density.tangent(a + 1e-6), a + 1e-6, b, False)[0]
        assert not torch.allclose(between[0], other[0], rtol=0, atol=1e-10)  # the control


def test_half_lines():
    d = Stable(0.9, 1.0, 1 / 3)
    end = torch.tensor(1 / 3)
    assert float(d.support.lower_bound) == float(d.icdf(torch.tensor(0.0))) == 1 / 3
    assert (float(d.log_prob(end)), float(d.cdf(end)), float(d.sf(end))) == (-math.inf, 0, 1)
    for beta, inside, outside in ((1.0, 1.5, 0.5), (-1.0, 0.5, 1.5)):
        batch = Stable(torch.tensor([0.5, 0.7]), beta, 1.0)
        assert bool(batch.support.check(torch.full((2,), inside)).all())
        assert not bool(batch.support.check(torch.full((2,), outside)).any())
        with pytest.raises(ValueError, match="support"):
            batch.log_prob(torch.tensor([inside, outside]))
        assert bool(batch.support.check(biject_to(batch.support)(torch.linspace(-5, 5, 2))).all())
    assert Stable(0.5, torch.tensor([1.0, -0.9])).support is constraints.real


@pytest.mark.parametrize("parameterization", ["S0", "S1"])
@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.02, 1.0), (0.05, -1.0), (0.6, 1.0), (0.85, 1.0), (1.2, -1.0)]
)
def test_a_law_accepts_its_own_draws_and_quantiles(alpha, beta, parameterization):
    torch.manual_seed(4)
    for dtype in (torch.float32, torch.float64):
        index = torch.tensor(alpha, dtype=dtype, requires_grad=True)  # with slopes
        d = Stable(index, beta, 1 / 3, 1.7, parameterization)
        x = d.rsample((1000,))
        assert d.support.check(x).all()
        assert not d.log_prob(x[torch.isfinite(x)]).isnan().any()  # raises off the support
        assert d.support.check(d.icdf(torch.tensor([0.0, 1e-12, 0.3], dtype=dtype))).all()


def test_quantiles_invert_the_cdf():
    seeded = torch.Generator().manual_seed(5)
    u, v, w, level = torch.rand(4, 1500, generator=seeded)
    alpha = torch.where(w < 0.1, 1 + 0.01 * (u - 0.5), 0.05 + 1.95 * u)
    beta = torch.where(w > 0.85, torch.sign(v - 0.5), 2 * v - 1)
    level = torch.where(w < 0.3, 10 ** (-8 * level), level)
    # For a small alpha the rounding of x in S0 weighs more, as it does in S1 next to 1.
    for form, where in (("S0", alpha > 0.3), ("S1", (alpha - 1).abs() > 0.3)):
        law, p = Stable(alpha[where], beta[where], parameterization=form), level[where]
        assert torch.allclose(law.cdf(law.icdf(p)), p, rtol=1e-9, atol=1e-11)


def test_quantiles_of_known_laws():
    levels = torch.linspace(0.001, 0.999, 99)
    for law in ((1.8, 0.8), (1.9, 0.6), (1.3, 0.9), (0.05, 0.0), (1.0, 0.0), (0.01, 1.0)):
        assert torch.allclose(Stable(*law).cdf(Stable(*law).icdf(levels)), levels, rtol=1e-10)
    assert float(Stable(1.8, 0.8).icdf(torch.tensor(0.05))) == pytest.approx(-2.38966, abs=5e-6)
    skewed, x = Stable(0.6, 1.0), torch.tensor(7.3236812124578)
    assert float(skewed.log_prob(x).exp()) == pytest.approx(0.0214402, abs=5e-8)
    assert float(skewed.cdf(x)) == pytest.approx(0.75, abs=1e-12)
    laplace = Stable(0.6, 1.0, scale=math.cos(0.3 * math.pi) ** (1 / 0.6))  # E e^-sA = e^-s^0.6
    assert float(laplace.icdf(torch.tensor(0.34))) == pytest.approx(0.59234, abs=5e-6)
    many = Stable(1.5, 0.5).icdf(levels.repeat(30))  # by the table
    assert torch.allclose(many[:99], Stable(1.5, 0.5).icdf(levels), rtol=1e-9)


def test_the_table_of_a_law_says_the_same():
    torch.manual_seed(0)
    for law in ((1.5, 0.3), (0.7, 1.0), (1.2, 1.0)):
        x = Stable(*law, parameterization="S0").sample((3000,))
        if law[0] > 1:
            x[:20] = torch.linspace(-6, -2, 20)  # down a light tail it must know its limits
        for name in ("log_prob", "cdf", "sf"):
            found = []
            for points in (x, x[:40]):
                free = [torch.tensor(v, requires_grad=True) for v in law]
                value = getattr(Stable(*free, parameterization="S0"), name)(points)[:40]
                found.append((value, *torch.autograd.grad(value.sum(), free)))
            assert torch.allclose(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
            for one, other in zip(found[0][1:], found[1][1:], strict=True):
                assert torch.allclose(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("law", [(0.7, 0.3), (1.0, 0.4), (1.6, -0.5)])
@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_gradients(law, parameterization):
    if law[0] == 1 and parameterization == "S1":
        law = (1.01, law[1])  # S1 jumps at 1
    parameters = [torch.tensor(v, requires_grad=True) for v in (*law, 0.2, 1.3)]
    x = torch.tensor([-3.0, 0.1], requires_grad=True)
    p = torch.tensor([0.4, 0.97], requires_grad=True)
    for name, value in (("log_prob", x), ("cdf", x), ("icdf", p)):

        def f(value, *parameters, name=name):
            return getattr(Stable(*parameters, parameterization), name)(value)

        assert gradcheck(f, (value, *parameters), eps=1e-5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("law", "which"), [((2.0, 0.3), 0), ((2.0, -0.8), 0), ((1.5, 1.0), 1), ((0.7, -1.0), 1)]
)
def test_gradients_across_the_edges(law, which):
    """One-sided differences at alpha = 2, where S1 moves with tan(pi alpha / 2), and |beta| = 1."""
    for name, value in (("log_prob", -0.7), ("cdf", -1.2), ("icdf", 0.37)):

        def ask(steps, name=name, value=value):
            moved = list(law)
            moved[which] -= 1e-5 * steps * math.copysign(1, law[which])
            free = [torch.tensor(v, requires_grad=True) for v in moved]
            return getattr(Stable(*free, 0.2, 1.7), name)(torch.tensor(value)), free

        at, free = ask(0)
        slope = float(torch.autograd.grad(at, free[which])[0]) * math.copysign(1, law[which])
        difference = float((3 * at - 4 * ask(1)[0] + ask(2)[0]).detach()) / 2e-5
        assert slope == pytest.approx(difference, rel=1e-3, abs=1e-3)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's, on loading
def test_only_first_derivatives_and_by_backward():
    x, alpha = torch.tensor([0.3, -2.0]), torch.tensor(1.5, requires_grad=True)
    for points in (x, x.repeat(1500)):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.autograd.grad(Stable(alpha).log_prob(points).sum(), alpha, create_graph=True)
    for transform in (torch.func.grad, torch.func.jacfwd, torch.func.vmap):
        for ask in (lambda v: Stable(1.5).cdf(v).sum(), lambda v: Stable(v.exp()).sf(x).sum()):
            with pytest.raises(RuntimeError, match=r"outside torch\.func"):
                transform(ask)(x[0] if transform is torch.func.grad else x)


def test_all_is_made_where_the_parameters_are():
    """Whatever torch's default device: here one on which nothing can be looked at."""
    for alpha, n in ((1.5, 5), (1.5, 2500), (0.7, 5), (1.0, 5)):
        free = [torch.tensor(v, requires_grad=True) for v in (alpha, 1.0)]
        level = torch.linspace(0.1, 0.9, n)
        with torch.device("meta"):
            d = Stable(*free, 0.3)
            answers = [d.icdf(level), d.rsample((3,)), d.mean, d.variance]
            answers += [ask(answers[0]) for ask in (d.log_prob, d.cdf, d.sf)]
            answers[-1].sum().backward()
        assert {v.device.type for v in (*answers, free[0].grad)} == {"cpu"}
        assert torch.allclose(answers[-2], level)


@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_draws_are_differentiable(parameterization):
    def draws(*parameters):
        torch.manual_seed(3)
        return Stable(*parameters, parameterization).rsample((5,))

    free = [torch.tensor(v, requires_grad=True) for v in (1.6, 0.3, 0.2, 1.3)]
    assert gradcheck(draws, free, eps=1e-6, atol=1e-6, rtol=1e-6)
    torch.manual_seed(3)
    assert torch.equal(Stable(*free, parameterization).sample((5,)), draws(*free).detach())


def test_moments_shapes_and_dtypes():
    d = Stable(torch.tensor([0.9, 1.0, 1.5, 2.0]), 0.0, 3.0, 2.0)
    assert torch.isnan(d.mean).tolist() == [True, True, False, False]
    assert (d.mean[2:].tolist(), d.variance.tolist()) == ([3, 3], [math.inf] * 3 + [8])
    assert float(Stable(1.5, 0.5, 3.0, 2.0, "S0").mean) == pytest.approx(3 + 0.5 * 2)
    single = torch.float32
    d = Stable(torch.tensor([0.7, 1.5], dtype=single), 0.1)
    assert d.sample((3,)).shape == (3, 2)
    assert d.sample().dtype == d.log_prob(torch.zeros(2)).dtype == single
    wide = d.expand((4, 2))
    assert wide.rsample((3,)).shape == (3, 4, 2)
    assert torch.equal(wide.log_prob(torch.ones(4, 2))[0], d.log_prob(torch.ones(2)))
    assert d.log_prob(torch.empty(0, 2)).shape == (0, 2)
    # as torch has it, a tensor without dimensions does not decide
    assert Stable(torch.tensor(1.5), loc=torch.tensor(0.0, dtype=single)).loc.dtype == torch.float64
    assert Stable(torch.tensor(1.5), loc=torch.zeros(2, dtype=single)).alpha.dtype == single
    assert float(Stable(np.float32(1.5)).alpha) == 1.5
    assert repr(Stable(1.5, parameterization="S0")).endswith("parameterization: S0)")


@pytest.mark.parametrize("law", [(1.5, 0.0), (0.7, 1.0), (0.7, -1.0), (2.0, 0.0), (1.0, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_hangs_on_the_default_dtype(law, dtype):
    """Every answer is that of a session in double precision, rounded once."""
    alpha, beta = (torch.tensor([v], dtype=dtype) for v in law)
    level = torch.linspace(0.1, 0.9, 9, dtype=dtype)
    x = level if law[1] >= 0 else -level

    def answers():
        torch.manual_seed(0)
        d = Stable(alpha, beta)
        values = [d.log_prob(x), d.cdf(x), d.sf(x), d.icdf(level)]
        return [*values, d.rsample((3,)), d.mean, d.variance]

    wanted = answers()
    torch.set_default_dtype(torch.float32)
    for found, value in zip(answers(), wanted, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found.nan_to_num(), value.nan_to_num())


def test_too_few_nodes_are_nan(monkeypatch):
    x = torch.tensor([0.3])
    monkeypatch.setattr(density, "_MOST_NODES", 8)
    monkeypatch.setattr(density._integrate, "__defaults__", (8,))
    assert torch.isnan(Stable(1.5).log_prob(x)).all()
    assert torch.isnan(Stable(1.5).icdf(x)).all()


def test_bad_input():
    d = Stable(torch.tensor([1.2, 1.5, 1.7]))
    refused = [
        (lambda: Stable(2.5), ValueError, r"alpha must be in \(0, 2\], got 2\.5"),
        (lambda: Stable(torch.tensor(1)), TypeError, "alpha must be a floating-point tensor"),
        (lambda: Stable(1.5, -1.5), ValueError, r"beta must be in \[-1, 1\], got -1\.5"),
        (lambda: Stable(1.5, loc=math.inf), ValueError, "loc must be in .*, got inf"),
        (lambda: Stable(1.5, scale=0.0), ValueError, r"scale must be in \(0, inf\), got 0"),
        (lambda: Stable(d.alpha.float(), scale=1e-60), ValueError, "scale must be .*, got 0"),
        (lambda: Stable(1.5, parameterization="S2"), ValueError, "must be one of .*S2"),
        (lambda: d.icdf(torch.tensor(1.5)), ValueError, r"value must be in \[0, 1\], got 1\.5"),
        (lambda: d.cdf(0.3), TypeError, r"value must be a real tensor .*, got 0\.3"),
        (lambda: d.sf(torch.ones(2)), ValueError, r"broadcast with shape \(3,\), got shape \(2,\)"),
        (lambda: Stable(0.5, 1.0).log_prob(-torch.ones(1)), ValueError, "support"),
        (lambda: Stable(0.01).cdf(torch.ones(1)), ValueError, r"alpha must be in \[0\.05, 2\] wh"),
    ]
    for ask, error, message in refused:
        with pytest.raises(error, match=message):
            ask()
    unchecked = Stable(1.5, validate_args=False)
    assert torch.isnan(unchecked.icdf(torch.tensor([1.5, math.nan]))).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.9])
def test_derivatives_far_out_are_those_of_the_power_tail(alpha):
    """There f = (1 + beta) alpha Gamma(alpha) sin(pi alpha / 2) / pi x^(-alpha-1)."""
    x = torch.tensor([1e160, 1e250, 1e290], requires_grad=True)
    law = [torch.full((3,), v, requires_grad=True) for v in (alpha, 0.3)]
    found = torch.autograd.grad(log_density(x, *law).sum(), (x, *law))
    cot = 1 / math.tan(math.pi * alpha / 2)
    in_alpha = 1 / alpha + torch.digamma(law[0]) + math.pi / 2 * cot - x.log()
    exact = (-(1 + alpha) / x, in_alpha, torch.full((3,), 1 / 1.3))
    for one, other in zip(found, exact, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=0)
