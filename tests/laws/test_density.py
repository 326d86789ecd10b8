import math

import pytest
import torch
from scipy import stats
from torch.distributions import Cauchy, Normal, biject_to, constraints

from heavytail import Stable
from heavytail.laws import _integrals

LAWS = [(0.6, 0.4), (0.8, -1.0), (1.0, 0.0), (1.0, -0.7), (1.3, 1.0), (1.75, 0.2), (2.0, 0.0)]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)  # conftest puts the default back


@pytest.mark.parametrize("parameterization", ["S0", "S1"])
def test_named_laws(parameterization):
    x = torch.linspace(-6, 6, 25)
    normal = Stable(2.0, 0.7, 0.5, 1.5, parameterization)
    gauss = Normal(0.5, 1.5 * math.sqrt(2))
    cauchy, same = Stable(1.0, 0.0, 0.5, 1.5, parameterization), Cauchy(0.5, 1.5)
    for ours, theirs in ((normal, gauss), (cauchy, same)):
        assert torch.allclose(ours.log_prob(x), theirs.log_prob(x), rtol=1e-11)
        assert torch.allclose(ours.cdf(x), theirs.cdf(x), rtol=1e-11)
    levy = Stable(0.5, 1.0, 0.5, 1.5)
    y = torch.linspace(0.6, 9, 20)
    exact = stats.levy(0.5, 1.5)
    assert torch.allclose(levy.log_prob(y), torch.as_tensor(exact.logpdf(y)), rtol=1e-10)
    assert torch.allclose(levy.sf(y), torch.as_tensor(exact.sf(y)), rtol=1e-10)


def test_s1_is_the_convention_of_scipy():
    x = torch.tensor([-2.0, 0.3, 4.0])
    theirs = stats.levy_stable.pdf(x.numpy(), 1.4, 0.6, loc=0.5, scale=2.0)
    ours = Stable(1.4, 0.6, 0.5, 2.0).log_prob(x).exp()
    assert torch.allclose(ours, torch.as_tensor(theirs), rtol=1e-6)
    other = Stable(1.4, 0.6, 0.5, 2.0, "S0").log_prob(x).exp()
    assert not torch.allclose(other, ours, rtol=1e-2)  # the control


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.4])
def test_sums_follow_the_parameterization(alpha):
    """In S1 locations add up and scales add in alpha-th powers, at alpha = 1 too."""
    a, b = Stable(alpha, 0.6, 1.0, 0.5), Stable(alpha, 0.6, -0.3, 1.2)
    total = Stable(alpha, 0.6, 0.7, (0.5**alpha + 1.2**alpha) ** (1 / alpha))
    torch.manual_seed(1)
    draws = a.sample((100_000,)) + b.sample((100_000,))
    p = stats.kstest(draws.numpy(), lambda x: total.cdf(torch.as_tensor(x)).numpy()).pvalue
    assert p > 1e-5
    wrong = Stable(alpha, 0.5, 0.7, total.scale)
    p = stats.kstest(draws.numpy(), lambda x: wrong.cdf(torch.as_tensor(x)).numpy()).pvalue
    assert p < 1e-5


@pytest.mark.parametrize("law", LAWS)
def test_draws_have_the_cdf(law):
    torch.manual_seed(2)
    d = Stable(*law, 0.3, 2.0)
    # few draws: the end of a half-line takes the quadrature itself
    x = d.sample((1_500,) if abs(law[1]) == 1 else (50_000,))
    assert stats.kstest(x.numpy(), lambda v: d.cdf(torch.as_tensor(v)).numpy()).pvalue > 1e-5


@pytest.mark.parametrize("law", LAWS)
def test_quantiles_invert_the_cdf(law):
    d = Stable(*law)
    p = torch.tensor([1e-30, 1e-8, 1e-3, 0.2, 0.5, 0.8, 1 - 1e-6])
    x = d.icdf(p)
    assert (x.diff() > 0).all()
    assert torch.allclose(d.cdf(x), p, rtol=1e-9, atol=0)
    body = x[2:6]
    assert torch.allclose(d.icdf(d.cdf(body)), body, rtol=1e-9, atol=1e-12)
    ends = d.icdf(torch.tensor([0.0, 1.0]))
    half = law[0] < 1 and abs(law[1]) == 1
    assert torch.isinf(ends).tolist() == [not (half and law[1] > 0), not (half and law[1] < 0)]


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

        assert torch.autograd.gradcheck(f, (value, *parameters), eps=1e-5, atol=1e-5, rtol=1e-5)


def test_rsample_carries_the_gradient_of_an_expectation():
    """E exp(-X^2 / 2) is the integral of the characteristic function against a normal density."""
    torch.manual_seed(3)
    parameters = [torch.tensor(v, requires_grad=True) for v in (1.6, 0.3, 0.2, 1.3)]
    d = Stable(*parameters)
    # h' falls off fast enough for x h'(x) log x, the derivative in alpha, to have a variance.
    batches = [torch.exp(-d.rsample((20_000,)).square() / 2).mean() for _ in range(20)]
    found = torch.stack(
        [torch.stack(torch.autograd.grad(b, parameters, retain_graph=True)) for b in batches]
    )
    alpha, beta, loc, scale = parameters
    u = torch.linspace(0, 9, 90_001)[1:]
    size = (scale * u) ** alpha
    phase = loc * u + beta * torch.tan(math.pi * alpha / 2) * size
    density = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)
    expectation = 2 * (torch.exp(-size) * torch.cos(phase) * density).sum() * 1e-4
    exact = torch.stack(torch.autograd.grad(expectation, parameters))
    z = (found.mean(0) - exact) / (found.std(0) / 20**0.5)
    assert (z.abs() < 4.5).all()
    wrong = (found.mean(0) - exact.roll(1)) / (found.std(0) / 20**0.5)
    assert (wrong.abs() > 10).all()  # the bar tells the four apart


def test_moments_and_support():
    d = Stable(torch.tensor([0.9, 1.0, 1.5, 2.0]), 0.0, 3.0, 2.0)
    assert torch.isnan(d.mean).tolist() == [True, True, False, False]
    assert d.mean[2:].tolist() == [3, 3]
    assert d.variance.tolist() == [math.inf] * 3 + [8]
    assert float(d.stddev[3]) == pytest.approx(math.sqrt(8))
    shifted = Stable(1.5, 0.5, 3.0, 2.0, "S0")
    assert float(shifted.mean) == pytest.approx(3 + 0.5 * 2)  # tan(3 pi / 4) = -1
    assert bool(Stable(0.5, 1.0, 1.0).support.check(torch.tensor(1.5)))
    assert not bool(Stable(0.5, 1.0, 1.0).support.check(torch.tensor(0.5)))
    assert not bool(Stable(0.5, -1.0, 1.0).support.check(torch.tensor(1.5)))
    assert bool(Stable(0.5, 0.9).support.check(torch.tensor(-1e9)))


def test_shapes_and_dtypes():
    d = Stable(torch.tensor([0.7, 1.5], dtype=torch.float32), 0.1)
    assert d.batch_shape == (2,)
    assert d.sample((3,)).shape == (3, 2)
    assert d.sample().dtype == d.log_prob(torch.zeros(2)).dtype == torch.float32
    assert not d.sample().requires_grad
    wide = d.expand((4, 2))
    assert wide.batch_shape == (4, 2)
    assert wide.parameterization == "S1"
    assert wide.rsample((3,)).shape == (3, 4, 2)
    assert torch.equal(wide.log_prob(torch.ones(4, 2))[0], d.log_prob(torch.ones(2)))
    double = Stable(d.alpha.double(), 0.1).log_prob(torch.ones(2))
    assert torch.equal(d.log_prob(torch.ones(2)), double.float())


def test_the_global_generator_decides():
    d = Stable(1.5, 0.2)
    torch.manual_seed(7)
    first = d.sample((5,))
    torch.manual_seed(7)
    assert torch.equal(d.rsample((5,)), first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 2.5}, r"alpha must be in \(0, 2\], got 2\.5"),
        ({"alpha": torch.tensor([1.0, 0.0])}, r"alpha must be in \(0, 2\], got 0"),
        ({"alpha": 1.5, "beta": -1.5}, r"beta must be in \[-1, 1\], got -1\.5"),
        ({"alpha": 1.5, "loc": math.inf}, "loc must be finite, got inf"),
        ({"alpha": 1.5, "scale": 0.0}, "scale must be finite and > 0, got 0"),
        ({"alpha": 1.5, "scale": -1.0}, "scale must be .* 0, got -1"),
        ({"alpha": 1.5, "parameterization": "S2"}, "parameterization must be one of .*S2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stable(**arguments)
    with pytest.raises(ValueError, match=r"level must be in \[0, 1\], got 1\.5"):
        Stable(1.5).icdf(torch.tensor([0.5, 1.5]))
    for ask in (Stable(1.5).cdf, Stable(1.5).sf, Stable(1.5).icdf):
        with pytest.raises(TypeError, match=r"value must be a tensor, got 0\.3"):
            ask(0.3)
    with pytest.raises(ValueError, match="support"):
        Stable(0.5, 1.0).log_prob(torch.tensor(-1.0))


def test_a_single_law_is_tabulated_and_says_the_same():
    x = Stable(1.6, 0.3).icdf(torch.linspace(0.001, 0.999, 20)).repeat(150)
    for d in (Stable(1.6, 0.3), Stable(1.6, 0.3).expand((3000,))):
        before = len(_integrals._tables)
        value = d.log_prob(x)
        assert len(_integrals._tables) >= before > -1
        assert torch.allclose(value[:20], Stable(1.6, 0.3).log_prob(x[:20]), rtol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.3, -0.8])
def test_the_derivative_in_alpha_at_2_knows_the_shift(beta):
    """S1 moves with tan(pi alpha / 2), whose derivative at 2 is pi/2."""
    points, step = torch.tensor([1.9, -0.7]), 1e-6

    def ask(alpha, name, value):
        return getattr(Stable(alpha, beta, 0.2, 1.7), name)(value)

    for name, value in (("log_prob", points), ("cdf", points), ("icdf", torch.tensor([0.37]))):
        alpha = torch.tensor(2.0, requires_grad=True)
        (slope,) = torch.autograd.grad(ask(alpha, name, value).sum(), alpha)
        back, further = (ask(torch.tensor(2 - k * step), name, value).sum() for k in (1, 2))
        difference = (3 * ask(torch.tensor(2.0), name, value).sum() - 4 * back + further) / 2 / step
        assert float(slope) == pytest.approx(float(difference), rel=1e-3, abs=1e-3)


def test_loc_is_returned_as_given():
    assert float(Stable(1 + 1e-12, 0.5, 0.1).mean) == 0.1
    d = Stable(0.9, 1.0, 1 / 3)
    assert float(d.support.lower_bound) == 1 / 3
    at_end = torch.tensor(1 / 3)
    assert float(d.log_prob(at_end)) == -math.inf
    assert (float(d.cdf(at_end)), float(d.sf(at_end))) == (0, 1)
    assert float(d.icdf(torch.tensor(0.0))) == 1 / 3


@pytest.mark.parametrize("parameterization", ["S0", "S1"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.02, 1.0), (0.05, -1.0), (0.6, 1.0)])
def test_a_law_accepts_its_own_draws(alpha, beta, parameterization):
    torch.manual_seed(4)
    for dtype in (torch.float32, torch.float64):
        d = Stable(torch.tensor(alpha, dtype=dtype), beta, 1 / 3, 1.7, parameterization)
        x = d.rsample((1000,))
        assert d.support.check(x).all()
        finite = x[torch.isfinite(x)][:50]
        d.log_prob(finite)  # raises off the support
        assert d.support.check(d.icdf(torch.tensor([0.0, 1e-12, 0.3], dtype=dtype))).all()


def test_constraints_have_bijections():
    real = torch.linspace(-5, 5, 11)
    index = Stable.arg_constraints["alpha"]
    assert index.check(torch.tensor([0.0, 1e-9, 2.0, 2.1])).tolist() == [False, True, True, False]
    for constraint in (index, Stable(0.5, -1.0, 0.3).support, Stable(0.5, 1.0, 0.3).support):
        image = biject_to(constraint)(real)
        assert constraint.check(image).all()
        assert torch.allclose(biject_to(constraint).inv(image), real)


def test_a_batch_of_half_lines():
    for beta, inside, outside in ((1.0, 1.5, 0.5), (-1.0, 0.5, 1.5)):
        d = Stable(torch.tensor([0.5, 0.7]), beta, 1.0)
        for law in (d, d.expand((3, 2))):
            assert bool(law.support.check(torch.full((2,), inside)).all())
            assert not bool(law.support.check(torch.full((2,), outside)).any())
            with pytest.raises(ValueError, match="support"):
                law.log_prob(torch.tensor([inside, outside]))
    mixed = Stable(0.5, torch.tensor([1.0, -1.0])).support
    assert mixed is constraints.real


def test_the_parameters_are_promoted():
    double, single = torch.tensor(1.5), torch.tensor(0.0, dtype=torch.float32)
    d = Stable(double, 0.0, single)
    assert {getattr(d, name).dtype for name in ("alpha", "beta", "loc", "scale")} == {torch.float64}
    assert d.log_prob(torch.tensor(0.1)).dtype == torch.float64
    # as torch has it, a tensor without dimensions does not decide
    assert Stable(double, 0.0, single.expand(2)).sample().dtype == torch.float32
    torch.set_default_dtype(torch.float32)
    assert Stable(1.5).sample().dtype == torch.float32
    assert float(Stable(double, scale=1e-60).scale) == 1e-60


@pytest.mark.parametrize("law", [(1.5, 0.0), (0.7, 1.0), (0.7, -1.0), (2.0, 0.0), (1.0, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_hangs_on_the_default_dtype(law, dtype):
    """Every answer is that of a session in double precision, rounded once."""
    alpha, beta = (torch.tensor([v], dtype=dtype) for v in law)
    level = torch.linspace(0.1, 0.9, 9, dtype=dtype)
    x = level if law[1] >= 0 else -level

    def answers():
        d = Stable(alpha, beta)
        values = [d.log_prob(x), d.cdf(x), d.sf(x), d.icdf(level)]
        return [*values, d.rsample((3,)), d.mean, d.variance]

    torch.manual_seed(0)
    wanted = answers()
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    for found, value in zip(answers(), wanted, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found.nan_to_num(), value.nan_to_num())


def test_messages_name_the_set():
    with pytest.raises(ValueError, match="scale must be finite and > 0, got -1"):
        Stable(1.5, scale=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="scale must be finite and > 0, got 0"):
        Stable(torch.tensor(1.5, dtype=torch.float32), scale=1e-60)
    with pytest.raises(TypeError, match="alpha must be a floating-point tensor, got dtype"):
        Stable(torch.tensor(1))
    for check in (True, False):
        with pytest.raises(TypeError, match=r"value must be a tensor, got 0\.0"):
            Stable(1.5, validate_args=check).log_prob(0.0)
    d = Stable(torch.tensor([1.2, 1.5, 1.7]))
    for ask in (d.log_prob, d.cdf, d.sf, d.icdf):
        with pytest.raises(ValueError, match=r"value must broadcast with shape \(3,\), got shape"):
            ask(torch.full((2,), 0.5))
    with pytest.raises(ValueError, match=r"level must be in \[0, 1\], got nan"):
        Stable(1.5).icdf(torch.tensor([0.5, math.nan]))
    assert torch.isnan(Stable(1.5, validate_args=False).icdf(torch.tensor([1.5, math.nan]))).all()
