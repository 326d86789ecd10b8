import math

import mpmath
import pytest
import torch
from torch.autograd import gradcheck

from heavytail.laws import _contour, _integrals
from heavytail.laws._integrals import cdf, cdf_and_sf, log_density, sf
from tests.oracles import stable_log_density

# alpha, beta, x, f, F, 1 - F by inversion along another ray with 40 digits, rounded to float64.
TABLE = [
    (0.5, 0.5, -4.0, 0.008258951362388236, 0.07937858769536868, 0.9206214123046313),
    (0.5, 0.5, 0.0, 0.3115331687586992, 0.4291990890123257, 0.5708009109876744),
    (0.5, 0.5, 1.0, 0.10033072809933288, 0.6029772642473775, 0.39702273575262254),
    (0.5, 0.5, 3.0, 0.03439530036186627, 0.7183710361884165, 0.2816289638115836),
    (0.5, 0.5, 8.0, 0.0102189155810492, 0.8100264104909586, 0.18997358950904142),
    (0.7, 0.0, -4.0, 0.01868438555436293, 0.12301162671044717, 0.8769883732895528),
    (0.7, 0.0, 0.0, 0.40292413614186073, 0.5, 0.5),
    (0.7, 0.0, 1.0, 0.11702720820789358, 0.7399508865796822, 0.2600491134203177),
    (0.7, 0.0, 3.0, 0.028504199690227112, 0.8539429733020361, 0.14605702669796392),
    (0.7, 0.0, 8.0, 0.006417215317218402, 0.9203940503863541, 0.07960594961364587),
    (0.8, -1.0, -4.0, 0.03841694068928652, 0.23171221505058173, 0.7682877849494183),
    (0.8, -1.0, 0.0, 0.25451110976374053, 0.6554570042562383, 0.3445429957437617),
    (0.8, -1.0, 1.0, 0.22976816993168814, 0.9379860138476291, 0.06201398615237081),
    (1.0, 0.5, -4.0, 0.009109706169991967, 0.03668741504580523, 0.9633125849541948),
    (1.0, 0.5, 0.0, 0.2925204705660767, 0.4375114838590879, 0.5624885161409121),
    (1.0, 0.5, 1.0, 0.1599362694613032, 0.6635450982516821, 0.33645490174831794),
    (1.0, 0.5, 3.0, 0.04580003481053894, 0.8402001959705534, 0.15979980402944663),
    (1.0, 0.5, 8.0, 0.007904159573979183, 0.9369703032032517, 0.06302969679674826),
    (1.0, -1.0, -4.0, 0.038364382040947075, 0.17315931866756595, 0.826840681332434),
    (1.0, -1.0, 0.0, 0.26224012637535166, 0.6347612984876252, 0.3652387015123748),
    (1.0, -1.0, 1.0, 0.2217622086922804, 0.9038390389593682, 0.09616096104063174),
    (1.0, -1.0, 3.0, 1.5257768000487043e-11, 0.9999999999996342, 3.6579200257542865e-13),
    (1.0001, 0.4, -4.0, 0.011003046429016929, 0.04458017922943578, 0.9554198207705642),
    (1.0001, 0.4, 0.0, 0.29956301989747425, 0.45091548113324964, 0.5490845188667504),
    (1.0001, 0.4, 1.0, 0.15935781824368211, 0.6807945872529476, 0.31920541274705244),
    (1.0001, 0.4, 3.0, 0.04309849333662838, 0.8519902575194909, 0.14800974248050916),
    (1.0001, 0.4, 8.0, 0.007272885004131338, 0.9418766508822505, 0.05812334911774952),
    (1.05, -0.9, -4.0, 0.035988041623681716, 0.1507495710481188, 0.8492504289518812),
    (1.05, -0.9, 0.0, 0.2688724657033861, 0.6151507169074693, 0.3848492830925308),
    (1.05, -0.9, 1.0, 0.21523738788713515, 0.8845675926322095, 0.11543240736779051),
    (1.05, -0.9, 3.0, 0.003528849163237414, 0.99115168896822, 0.008848311031779937),
    (1.05, -0.9, 8.0, 0.00039341906771686976, 0.9968802745721917, 0.0031197254278082995),
    (1.5, 0.7, -4.0, 0.004027772154947918, 0.00837241468414194, 0.991627585315858),
    (1.5, 0.7, 0.0, 0.2816596405003208, 0.4467765898255183, 0.5532234101744817),
    (1.5, 0.7, 1.0, 0.1979249188119101, 0.6939929813607211, 0.306007018639279),
    (1.5, 0.7, 3.0, 0.04714575442224225, 0.909924839598266, 0.09007516040173404),
    (1.5, 0.7, 8.0, 0.0036176565491630565, 0.9825280208732035, 0.01747197912679656),
    (1.75, 0.0, -4.0, 0.009701105972331451, 0.01482286225769032, 0.9851771377423096),
    (1.75, 0.0, 0.0, 0.28349242925222956, 0.5, 0.5),
    (1.75, 0.0, 1.0, 0.21255215284501128, 0.7583280300937921, 0.24167196990620787),
    (1.75, 0.0, 3.0, 0.03042754410671678, 0.9672727906856066, 0.03272720931439346),
    (1.75, 0.0, 8.0, 0.0007820334425990077, 0.9967631109079592, 0.0032368890920407576),
    (1.75, -1.0, -4.0, 0.01833566054719912, 0.03160905724989669, 0.9683909427501033),
    (1.75, -1.0, 0.0, 0.28093645220415925, 0.5422803642858085, 0.4577196357141915),
    (1.75, -1.0, 1.0, 0.21604673776584615, 0.8025476321956154, 0.19745236780438463),
    (1.75, -1.0, 3.0, 0.014966331419982798, 0.9939462140750861, 0.006053785924913921),
    (1.75, -1.0, 8.0, 1.5732777053806683e-12, 0.9999999999997884, 2.1157062602865014e-13),
    (1.95, 0.5, -4.0, 0.005063632779216137, 0.0031437275815672937, 0.9968562724184327),
    (1.95, 0.5, 0.0, 0.28222220978864554, 0.4953165540427049, 0.5046834459572951),
    (1.95, 0.5, 1.0, 0.21827995746182632, 0.7549393128964945, 0.24506068710350554),
    (1.95, 0.5, 3.0, 0.03149985577076533, 0.9772173056508066, 0.0227826943491934),
    (1.95, 0.5, 8.0, 0.0001967174747600107, 0.9992851091102896, 0.0007148908897104359),
    (1.9999, 0.0, -4.0, 0.0051686222185268, 0.0023433467141940937, 0.9976566532858059),
    (1.9999, 0.0, 0.0, 0.28209504921006834, 0.5, 0.5),
    (1.9999, 0.0, 1.0, 0.21969323535842586, 0.7602491758789541, 0.23975082412104584),
    (1.9999, 0.0, 3.0, 0.02973273434494824, 0.9830468076823697, 0.016953192317630216),
    (1.9999, 0.0, 8.0, 2.764074749743897e-07, 0.9999991225659312, 8.77434068832386e-07),
]

LAWS = [(0.4, 0.5), (0.7, 0.0), (0.9, -1.0), (1.0, 0.6), (1.2, 1.0), (1.6, -0.3), (1.98, 0.4)]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)  # conftest puts the default back


@pytest.mark.parametrize("row", TABLE[::9])
def test_the_table_is_made_again(row):
    alpha, beta, x, f, *_ = row
    assert stable_log_density(alpha, beta, x) == pytest.approx(math.log(f), abs=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.5, -0.9])
@pytest.mark.parametrize("alpha", [0.5, 0.9, 1 - 1e-6, 1.0, 1 + 1e-6, 1.1, 1.75, 2 - 1e-6])
def test_log_density_against_tanh_sinh(alpha, beta):
    """To 1e-10 in the body and 1e-6 at a million are promised; the table's points say more."""
    x = torch.tensor([-1e6, -4.3, 0.3, 7.1, 1e6])
    exact = torch.tensor([stable_log_density(alpha, beta, float(v)) for v in x])
    assert not torch.isnan(exact).any()
    found = log_density(x, alpha, beta)
    assert torch.allclose(found, exact, rtol=0, atol=5e-11)


def test_table():
    alpha, beta, x, f, F, S = torch.tensor(TABLE).T
    assert torch.allclose(log_density(x, alpha, beta), torch.log(f), rtol=0, atol=2e-11)
    lower, upper = cdf_and_sf(x, alpha, beta)
    assert torch.allclose(lower, F, rtol=2e-11, atol=0)
    assert torch.allclose(upper, S, rtol=2e-11, atol=0)
    wrong = log_density(x, alpha, beta + 1e-9 * torch.where(beta > 0, -1, 1))
    assert not torch.allclose(wrong, torch.log(f), rtol=0, atol=2e-11)  # the control


def test_closed_forms():
    x = torch.cat([torch.linspace(-9, 9, 73), torch.tensor([-1e6, -1e3, 1e3, 1e6])])
    gauss = -x.square() / 4 - math.log(4 * math.pi) / 2
    assert torch.allclose(log_density(x, 2.0, 0.3), gauss, rtol=1e-14)
    # the quadrature by itself, which the closed form hides
    found = _contour.quadrature(x[:73], torch.full((73,), 2.0), torch.zeros(73), "density", False)
    assert torch.allclose(found[0], gauss[:73], rtol=1e-12)
    cauchy = -torch.log(math.pi * (1 + x.square()))
    assert torch.allclose(log_density(x, 1.0, 0.0), cauchy, rtol=0, atol=1e-11)
    assert torch.allclose(sf(x, 1.0, 0.0), torch.atan2(torch.ones(77), x) / math.pi, rtol=1e-11)
    y = torch.tensor([1e-3, 0.01, 0.1, 0.5, 1, 3, 10, 1e3, 1e6])  # Levy, S0: X + 1
    levy = -0.5 / y - torch.log(2 * math.pi * y**3) / 2
    assert torch.allclose(log_density(y - 1, 0.5, 1.0), levy, rtol=1e-10, atol=1e-10)
    assert torch.allclose(sf(y - 1, 0.5, 1.0), torch.erf((0.5 / y).sqrt()), rtol=1e-10)
    assert torch.allclose(cdf(y[2:] - 1, 0.5, 1.0), torch.erfc((0.5 / y[2:]).sqrt()), rtol=1e-10)


def test_half_lines():
    x = torch.tensor([-3.0, -1.0, -1 - 1e-9])
    assert (log_density(x, 0.5, 1.0) == -math.inf).all()
    assert (log_density(-x, 0.5, -1.0) == -math.inf).all()
    assert (cdf(x, 0.5, 1.0) == 0).all()
    assert (sf(-x, 0.5, -1.0) == 0).all()
    assert float(log_density(-1 + 1e-9, 0.5, 1.0)) == pytest.approx(-5e8, rel=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_reflection_and_total(law):
    alpha, beta = law
    x = torch.linspace(-7, 7, 29)
    density = log_density(x, alpha, beta)
    assert torch.allclose(log_density(-x, alpha, -beta), density, rtol=1e-13)
    F, S = cdf_and_sf(x, alpha, beta)
    assert torch.allclose(F + S, torch.ones(29), rtol=1e-14)
    assert torch.allclose(cdf(-x, alpha, -beta), S, rtol=1e-13)
    assert (F.diff() >= 0).all()


@pytest.mark.parametrize("law", LAWS)
def test_the_integral_of_the_density(law):
    ends = torch.tensor([-1.5, 2.0])
    k = torch.arange(1, 60)
    beta = 0.5 / torch.sqrt(1 - (2.0 * k) ** -2)  # Golub and Welsch
    node, vector = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    x = torch.linspace(-1.5, 2.0, 65)[:-1, None] + 3.5 / 64 * (node + 1) / 2
    mass = (log_density(x, *law).exp() * vector[0].square()).sum() * 3.5 / 64
    assert float(mass) == pytest.approx(float(cdf(ends, *law).diff()), rel=1e-9)


@pytest.mark.parametrize("law", [(0.6, 0.3), (0.9, -1.0), (1.0, 0.0), (1.0, 0.7), (1.5, -0.5)])
def test_the_derivative_of_the_cdf(law):
    x = torch.tensor([-30.0, -1.0, 0.2, 0.9, 50.0], requires_grad=True)
    density = log_density(x, *law).detach().exp()
    for tail, sign in ((cdf(x, *law), 1), (sf(x, *law), -1)):
        (slope,) = torch.autograd.grad(tail.sum(), x)
        assert torch.allclose(sign * slope, density, rtol=1e-10)


@pytest.mark.parametrize("beta", [-0.4, 0.0, 0.9])
def test_continuity(beta):
    x = torch.tensor([-20.0, -2.0, 0.0, 0.5, 3.0, 40.0])
    for e in (1e-3, 1e-6, 1e-9, 1e-12):
        low, middle, high = (log_density(x, a, beta) for a in (1 - e, 1.0, 1 + e))
        assert torch.allclose(low, middle, rtol=0, atol=10 * e + 1e-12)
        assert torch.allclose(low / 2 + high / 2, middle, rtol=0, atol=50 * e * e + 1e-12)
    near, gauss = log_density(x[1:5], 2 - 1e-9, beta), log_density(x[1:5], 2.0, beta)
    assert torch.allclose(near, gauss, rtol=0, atol=1e-7)
    assert not torch.allclose(log_density(x[1:5], 2 - 1e-2, beta), gauss, rtol=0, atol=1e-7)


def test_near_the_cauchy_law():
    """Both parameters small at once: the usual integral degenerates there."""
    x = torch.linspace(-8, 8, 33)
    cauchy = -torch.log(math.pi * (1 + x.square()))
    for e in (1e-4, 1e-7, 1e-11):
        for beta in (0.0, e, -10 * e):
            assert torch.allclose(log_density(x, 1 + e, beta), cauchy, rtol=0, atol=100 * e)


@pytest.mark.parametrize("beta", [0.0, 0.6, -0.8])
@pytest.mark.parametrize("alpha", [0.4, 0.8, 1.3, 1.9])
def test_tail_series(alpha, beta):
    """Three terms of the expansion of f in powers of x + beta T, another formula altogether."""
    x = torch.tensor([1e3, 1e5, 1e6]) ** (1 if alpha > 1 else 2)
    T = math.tan(math.pi * alpha / 2)
    z = x + beta * T
    theta, size = math.atan(beta * T) / alpha, math.hypot(1, beta * T)
    series = sum(
        (-1) ** (k + 1)
        * math.gamma(k * alpha + 1)
        / math.factorial(k)
        * size**k
        * math.sin(k * alpha * (math.pi / 2 + theta))
        * z ** (-k * alpha - 1)
        for k in range(1, 12)
    )
    error = (log_density(x, alpha, beta) - torch.log(series / math.pi)).abs()
    assert float(error.max()) < 1e-9
    tail = sf(x, alpha, beta) * x**alpha
    constant = math.gamma(alpha) * math.sin(math.pi * alpha / 2) * (1 + beta) / math.pi
    assert float(tail[-1]) == pytest.approx(constant, rel=1e-3)


def test_light_tails():
    """A totally skewed law falls off as the exponential of its saddle's depth."""
    x = torch.tensor([20.0, 40.0])
    for alpha in (1.3, 1.7):
        T = math.tan(math.pi * alpha / 2)
        z = x - T
        c = abs(math.cos(math.pi * alpha / 2))
        depth = (alpha - 1) * (z / alpha) ** (alpha / (alpha - 1)) * c ** (1 / (alpha - 1))
        r = (z * c / alpha) ** (1 / (alpha - 1))
        bend = alpha * (alpha - 1) / c * r ** (alpha - 2)
        saddle = -depth - torch.log(2 * math.pi * bend) / 2
        assert torch.allclose(log_density(x, alpha, -1.0), saddle, rtol=0, atol=1 / float(depth[0]))


@pytest.mark.parametrize(
    "law", [(0.5, 0.2), (0.8, -0.9), (1.0, 0.0), (1.0, 0.5), (1.5, 0.3), (1.9, 0.0)]
)
def test_gradients(law):
    x = torch.tensor([-25.0, -0.4, 1.1], requires_grad=True)
    parameters = [torch.tensor(v, requires_grad=True) for v in law]
    for f in (log_density, cdf, sf):
        assert gradcheck(f, (x, *parameters), eps=1e-5, atol=1e-7, rtol=1e-6)


def test_the_table_of_a_law_is_the_quadrature():
    torch.manual_seed(0)
    x = torch.tan((torch.rand(3000) - 0.5) * 3.1415)
    for law in ((1.5, 0.3), (0.8, -0.6), (1.0, 0.5)):
        assert torch.allclose(
            log_density(x, *law)[:40], log_density(x[:40], *law), rtol=0, atol=1e-11
        )
        for f, g in zip(cdf_and_sf(x, *law), cdf_and_sf(x[:40], *law), strict=True):
            assert torch.allclose(f[:40], g, rtol=1e-10, atol=0)
        grads = []
        for points in (x, x[:40]):
            free = [v.clone().requires_grad_() for v in (points, *map(torch.tensor, law))]
            grads.append(torch.autograd.grad(log_density(*free)[:40].sum(), free))
        assert torch.allclose(grads[0][0][:40], grads[1][0], rtol=1e-7)
        for one, other in zip(grads[0][1:], grads[1][1:], strict=True):
            assert torch.allclose(one, other, rtol=1e-7)


def test_shapes():
    alpha, beta = torch.tensor([[0.8], [1.6]]), torch.tensor([0.0, 0.5, -1.0])
    out = log_density(torch.tensor(0.3, dtype=torch.float32), alpha, beta)
    assert out.shape == (2, 3)
    assert out.dtype == torch.float64
    for i in range(2):
        for j in range(3):
            one = log_density(torch.tensor(0.3, dtype=torch.float32), alpha[i], beta[j])
            assert float(out[i, j]) == pytest.approx(float(one), rel=1e-12)
    assert log_density(torch.empty(0), 1.5, 0.0).shape == (0,)


@pytest.mark.parametrize("law", [(0.3, 0.5), (1.0, -0.4), (1.5, 0.0), (1.9, 1.0)])
def test_as_far_as_floats_go(law):
    alpha, beta = law
    x = torch.tensor([-1e307, -1e101, -1e99, 1e99, 1e101, 1e307])
    constant = math.gamma(alpha) * math.sin(math.pi * min(alpha, 2 - alpha) / 2) / math.pi
    weight = 1 + beta * torch.sign(x)
    tail = torch.exp(torch.log(constant * weight) - alpha * torch.log(x.abs()))
    lower, upper = cdf_and_sf(x, alpha, beta)
    smaller = torch.where(x > 0, upper, lower)
    assert torch.allclose(smaller, tail, rtol=1e-9, atol=0)
    exact = torch.log(alpha * tail) - torch.log(x.abs())
    tiny = tail < 1e-300
    assert torch.allclose(log_density(x, alpha, beta)[~tiny], exact[~tiny], rtol=1e-12)
    ends = torch.tensor([-math.inf, math.inf])
    assert log_density(ends, alpha, beta).tolist() == [-math.inf, -math.inf]
    assert cdf(ends, alpha, beta).tolist() == [0, 1]
    assert sf(ends, alpha, beta).tolist() == [1, 0]
    assert torch.isnan(log_density(torch.tensor([math.nan]), alpha, beta)).all()
    if abs(beta) < 1:
        y = torch.tensor([1e101, -1e120], requires_grad=True)
        free = [torch.tensor(v, requires_grad=True) for v in law]
        found = torch.autograd.grad(log_density(y, *free).sum(), (y, *free))
        assert torch.allclose(found[0], -(alpha + 1) / y)
        assert float(found[2]) == pytest.approx(1 / (1 + beta) - 1 / (1 - beta), rel=1e-9)


def test_the_height_of_narrow_laws():
    for alpha, bar in ((0.03, 1e-3), (0.06, 1e-6), (0.1, 1e-9), (0.2, 1e-10)):
        found = float(log_density(0.0, alpha, 0.0))
        exact = math.lgamma(1 + 1 / alpha) - math.log(math.pi)
        assert found == pytest.approx(exact, rel=0, abs=bar)


def test_there_is_no_second_derivative():
    alpha = torch.tensor(1.5, requires_grad=True)
    for x in (torch.zeros(3), torch.zeros(3000)):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.autograd.grad(log_density(x, alpha, 0.0).sum(), alpha, create_graph=True)


def tail_series(alpha, beta, x):
    """Return log f and the tail beyond x from the series in powers of x + beta T, summed anew."""
    up = 1.0 if x > 0 else -1.0
    with mpmath.workdps(40):
        alpha, b = mpmath.mpf(alpha), up * mpmath.mpf(beta)
        T = mpmath.tan(mpmath.pi * alpha / 2)
        z, angle = abs(mpmath.mpf(x)) + b * T, mpmath.pi * alpha / 2 + mpmath.atan(b * T)
        q = mpmath.sqrt(1 + (b * T) ** 2) * z**-alpha
        tail = slope = 0
        for k in range(1, 40):
            size = mpmath.gamma(k * alpha) / mpmath.factorial(k) * q**k
            term = (-1) ** (k + 1) * size * mpmath.sin(k * angle)  # some sines are 0
            tail, slope = tail + term, slope + k * alpha * term
            if size < 1e-25 * abs(tail):
                break
        assert size < 1e-16 * abs(tail)
        return float(mpmath.log(slope / z / mpmath.pi)), float(tail / mpmath.pi)


@pytest.mark.parametrize("beta", [0.0, 0.5, -1.0, 1.0])
@pytest.mark.parametrize("alpha", [0.2, 0.3, 0.6, 0.8, 1.2, 1.5, 1.9])
def test_no_far_point_is_astray(alpha, beta):
    seeded = torch.Generator().manual_seed(11)
    size = (10 ** (3 + 96 * torch.rand(400, generator=seeded))).sort().values
    for sign in (1, -1):
        if sign * beta == -1:
            continue
        x = sign * size
        value, tail = log_density(x, alpha, beta), cdf_and_sf(x, alpha, beta)[(1 + sign) // 2]
        # log f falls with the slope -(1 + alpha) in log |x|, where no term but the first is left
        slope = value.diff() / torch.log(size).diff()
        assert (slope < 0).all()
        far = size[:-1] ** min(alpha, 1) > 1e7
        apart = far & (torch.log(size).diff() > 0.01)
        assert torch.allclose(slope[apart], torch.tensor(-1 - alpha), rtol=1e-6)
        for i in range(0, 400, 13):
            log_f, exact = tail_series(alpha, beta, float(x[i]))
            assert float(value[i]) == pytest.approx(log_f, abs=2e-10)
            if exact > 1e-290:
                assert float(tail[i]) == pytest.approx(exact, rel=1e-9)


def test_points_that_went_astray():
    """Where a Newton step left its bracket and halving it did not end."""
    far = torch.tensor(1e36)
    assert float(log_density(far, 1.5, 0.0)) == pytest.approx(-208.44, abs=5e-3)
    assert float(sf(far, 1.5, 0.0)) == pytest.approx(1.99e-55, rel=5e-3)
    for law, x in (((0.2, -1.0), -1e44), ((0.25, -1.0), -1e36), ((0.3, -1.0), -1e28)):
        _, exact = tail_series(*law, x)
        assert float(cdf(torch.tensor(x), *law)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 0.6, 0.8, 1.2, 1.5, 1.9])
def test_the_quadrature_goes_as_far_as_the_series(alpha):
    """The two rules that share the line, where only the series is used."""
    seeded = torch.Generator().manual_seed(12)
    x = 10 ** (3 + 96 * torch.rand(300, generator=seeded))
    a = torch.full_like(x, alpha)
    for beta in (0.0, 0.5, -0.9):
        b = torch.full_like(x, beta)
        path = _contour.quadrature(x, a, b, "density", False)[0]
        assert torch.allclose(path, log_density(x, a, b), rtol=0, atol=2e-10)


@pytest.mark.parametrize("law", [(0.4, 0.3), (0.8, -0.6), (1.3, 0.4), (1.9, 0.0)])
def test_gradients_far_out(law):
    x = torch.tensor([-3e25, 2e40], requires_grad=True)
    parameters = [torch.tensor(v, requires_grad=True) for v in law]
    found = torch.autograd.grad(log_density(x, *parameters).sum(), (x, *parameters))
    assert torch.allclose(found[0] * x, torch.tensor(-1 - law[0]), rtol=1e-4)
    step = 1e-5
    for i in range(2):
        ends = []
        for sign in (1, -1):
            moved = list(law)
            moved[i] += sign * step
            ends.append(log_density(x.detach(), *moved).sum())
        difference = float(ends[0] - ends[1]) / (2 * step)
        assert float(found[1 + i]) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.25, 0.3, 0.35, 0.45])
def test_next_to_a_narrow_peak(alpha):
    for beta in (0.0, 0.5, -0.9):
        zeta = -beta * math.tan(math.pi * alpha / 2)
        x = zeta + torch.tensor([-3e-3, -1e-4, 2e-5, 8e-4, 6e-3, 3e-2])
        exact = torch.tensor([stable_log_density(alpha, beta, float(v)) for v in x])
        good = ~torch.isnan(exact)
        assert int(good.sum()) >= 4
        assert torch.allclose(log_density(x, alpha, beta)[good], exact[good], rtol=0, atol=1e-10)


def test_a_rule_astray_is_nan(monkeypatch):
    """The weights e^-g dg must add up to 1: nodes in a wrong place are not summed silently."""
    locate = _contour._locate
    monkeypatch.setattr(
        _contour, "_locate", lambda *a: (p := locate(*a))._replace(centre=p.centre - 300)
    )
    x = torch.tensor([0.3])
    found = _contour.quadrature(x, torch.full((1,), 1.5), torch.zeros(1), "all", False)
    assert all(bool(torch.isnan(v).all()) for v in found)


@pytest.mark.parametrize(
    "law", [(0.5, 1.0), (0.8, -1.0), (0.3, 0.5), (1.0, -1.0), (1.5, 1.0), (1.7, 0.2), (2.0, 0.0)]
)
def test_quantiles_take_few_steps(law, monkeypatch):
    calls = []
    values = _integrals._values
    monkeypatch.setattr(_integrals, "_values", lambda *a: calls.append(1) or values(*a))
    level = torch.linspace(0.05, 0.95, 10)
    alpha, beta = (torch.tensor(v) for v in law)
    x = _integrals.quantile(level, alpha, beta)
    assert len(calls) <= 40
    F, S = cdf_and_sf(x, *law)
    assert torch.allclose(torch.minimum(F, S), torch.minimum(level, 1 - level), rtol=1e-9)
    many = _integrals.quantile(level.repeat(250), alpha, beta)  # by the table of the law
    assert torch.allclose(many[:10], x, rtol=1e-8)


def test_next_to_the_end_of_a_half_line():
    x = 10 ** torch.linspace(-12, -2, 200) - 1  # Levy's law again, S0
    y = x + 1  # the distance that is left after rounding
    levy = -0.5 / y - torch.log(2 * math.pi * y**3) / 2
    # beside an error of 3e-16 in x
    bar = 1e-10 + 1e-11 * levy.abs() + 3e-16 * 0.5 / y.square()
    found = log_density(x, 0.5, 1.0)
    assert ((found - levy).abs() < bar).all()
    assert (cdf(x[:100], 0.5, 1.0) == 0).all()
    assert (sf(x[:100], 0.5, 1.0) == 1).all()
    for alpha in (0.2, 0.3, 0.7):
        T = math.tan(math.pi * alpha / 2)
        x = T * 10 ** torch.linspace(-16, -10, 50) - T
        value = log_density(x, alpha, 1.0)
        # g = r^alpha / cos - r z is largest at the saddle; f = r / sqrt(2 pi r |slope|) e^-g
        z, cos = x + T, math.cos(math.pi * alpha / 2)
        r = (alpha / (z * cos)) ** (1 / (1 - alpha))
        saddle = z * r - r**alpha / cos + torch.log(r / (2 * math.pi * (1 - alpha) * z)) / 2
        precise = z > 1e-13 * T
        assert torch.allclose(value[precise], saddle[precise], rtol=5e-3)
        assert (value < -200).all()  # and none is nan
        assert (cdf(x, alpha, 1.0) < 1e-90).all()


@pytest.mark.parametrize("e", [1e-5, 9e-6, 1e-7, -9e-6])
def test_totally_skewed_laws_near_alpha_1_keep_their_tail(e):
    """P(X > x) ~ (2/pi) / x at alpha = 1, beta = 1; the next terms are of order e log x."""
    x = torch.tensor([1e4, 1e5, 1e6, 1e9, 1e13], dtype=torch.float64)
    beyond = sf(x, torch.tensor(1 - e, dtype=torch.float64), 1.0)
    at_1 = sf(x, torch.tensor(1.0, dtype=torch.float64), 1.0)
    assert torch.allclose(beyond, at_1, rtol=40 * abs(e))
