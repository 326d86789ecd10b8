import math

import pytest
import torch
from torch.nn import functional

from heavytail.limit import problem as module
from heavytail.limit.particles import simulate
from heavytail.limit.problem import MeanField, System

RUN = {"T": 1.0, "steps": 10, "alpha": 1.75, "sigma": 0.5, "kind": "independent"}

FUNCTIONS = {
    "tanh": lambda x, theta: torch.tanh(theta @ x),
    "sigmoid": lambda x, theta: torch.sigmoid(theta @ x),
    "relu": lambda x, theta: torch.relu(theta @ x),
    "linear": lambda x, theta: theta @ x,
}
RANDOM = 1 - 2 * torch.randint(2, (60,), generator=torch.Generator().manual_seed(5))


def data(N=16, d=3):
    seeded = torch.Generator().manual_seed(6)
    x = torch.randn(N, d, generator=seeded, dtype=torch.float64)
    return x, torch.sin(2 * x[:, 0]) + x[:, 1].cos()


def smooth(**options):
    return MeanField(*data(), **options)


def line(curvature=1.0):
    """h = theta, l = A (f - y)^2 / 2, all start at 0: the exact case, with y = 1."""
    one = torch.ones(1, dtype=torch.float64)
    loss = "squared" if curvature == 1 else lambda f, y: curvature * (f - y) ** 2 / 2
    return MeanField(one[:, None], one, h="linear", loss=loss, start=torch.zeros(1))


def particles(n=40, d=3):
    seeded = torch.Generator().manual_seed(7)
    return torch.randn(n, d, generator=seeded, dtype=torch.float64)


def huber(f, y):
    return functional.huber_loss(f, y, reduction="none")


def logistic(f, y):
    return torch.log(1 + torch.exp(-y * f))


def risk(h, signs, loss, x, y, theta):
    """The risk by torch's own functions, and the outputs."""
    activation = {"linear": lambda z: z, "relu": torch.relu}.get(h) or getattr(torch, h)
    f = (activation(x @ theta.T) * signs).mean(1)
    squared = (f - y) ** 2 / 2
    return {"squared": squared, "logistic": logistic(f, y), huber: huber(f, y)}[loss].mean(), f


@pytest.mark.parametrize("blocks", ["one, kept", "many, computed again"])
@pytest.mark.parametrize("loss", ["squared", "logistic", huber])
@pytest.mark.parametrize("signs", [None, "alternating", RANDOM])
@pytest.mark.parametrize("h", FUNCTIONS)
def test_the_drift_is_the_gradient_of_the_risk(h, signs, loss, blocks, monkeypatch):
    """-n times it, of a named neuron and of the same as a function, at rounding."""
    if blocks != "one, kept":
        monkeypatch.setattr(module, "_BLOCK", 64)
        monkeypatch.setattr(module, "_KEPT", 0)
    x, y = data()
    y = torch.where(torch.arange(16) % 2 == 0, 1.0, -1.0).double() if loss == "logistic" else y
    a = {None: torch.ones(40), "alternating": torch.tensor([1.0, -1.0]).repeat(20)}
    a = (RANDOM[:40] if signs is RANDOM else a[signs]).double()
    theta = particles().requires_grad_()
    value, f = risk(h, a, loss, x, y, theta)
    (gradient,) = torch.autograd.grad(value, theta)
    for neuron in (h, FUNCTIONS[h]):
        problem = MeanField(x, y, h=neuron, signs=signs, loss=loss)
        torch.testing.assert_close(problem.predict(theta), f, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(problem.drift(theta), -40 * gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("h", ["tanh", FUNCTIONS["tanh"]])
def test_the_drift_of_another_system(h):
    """A tracer's drift is that beside so many copies of mu that it counts for nothing."""
    problem, mu = smooth(h=h), particles(7)
    beside = torch.cat([particles(1), mu.repeat(2000, 1)])
    ((_, found),) = System(problem, particles(1)[None]).drift(problem.predict(mu[None]))
    found = found[0, 0]
    torch.testing.assert_close(found, problem.drift(beside)[0], rtol=0, atol=1e-3)
    assert float((found - problem.drift(particles(1))[0]).abs().max()) > 0.1
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    theta = particles()
    torch.testing.assert_close(problem.drift(theta[order]), problem.drift(theta)[order])


def test_many_systems_are_single_ones():
    problem = smooth(signs="alternating")
    many = particles(60).view(6, 10, 3)
    for function in (problem.predict, problem.drift):
        each = torch.stack([function(theta) for theta in many])
        torch.testing.assert_close(function(many), each)
    found, wanted = (
        simulate(smooth(loss=loss), 20, **RUN, seed=1, systems=3, dtype=torch.float64).particles
        for loss in (lambda f, y: (f - y) ** 2 / 2, "squared")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_data_beyond_the_floats_are_named():
    x, y = data()
    for name, problem in (("x", MeanField(x * 1e300, y)), ("y", MeanField(x, y * 1e300))):
        with pytest.raises(ValueError, match=rf"{name}, in torch.float32, must be .*inf"):
            simulate(problem, 10, **RUN, seed=0)


def test_its_text_is_short():
    assert repr(smooth(start=torch.zeros(3))) == (
        "MeanField(h='tanh', loss='squared', start=tensor([0., 0., 0.]), signs=None)"
    )
    assert len(repr(smooth(start=torch.zeros(900), h=sum_of, signs=torch.ones(900)))) < 160


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"h": "cosine"}, ValueError, r"h, if no function, must be one of \['linear'.*'cosine'"),
        ({"loss": "hinge"}, ValueError, "loss, if no function, .* got 'hinge'"),
        ({"loss": "logistic"}, ValueError, "y must be -1 or 1"),
        ({"signs": "random"}, ValueError, "signs, if no tensor, .* got 'random'"),
        *(
            ({"signs": signs}, ValueError, r"signs must be real and finite, of shape \(n,\)")
            for signs in (torch.ones(2, 2), torch.tensor([math.nan]), torch.ones(2) * 1j)
        ),
        ({"x": torch.ones(4)}, ValueError, r"x and y must have shapes \(N, d\) and \(N,\)"),
        ({"y": torch.ones(3)}, ValueError, r"got \(16, 3\) and \(3,\)"),
        ({"start": torch.zeros(2)}, ValueError, r"start must have shape \(3\), .* got \(2,\)"),
    ],
)
def test_bad_problems(changed, error, message):
    x, y = data()
    with pytest.raises(error, match=message):
        MeanField(**({"x": x, "y": y} | changed))


def sum_of(x, theta):
    return theta.sum()


def test_a_gradient_that_is_one_number_for_all():
    """Torch holds it once and shows it many times: nothing can be written to it."""
    (x, y), theta = data(), particles()
    pull = (y.double() - theta.sum(1).mean()).mean()
    torch.testing.assert_close(MeanField(x, y, h=sum_of).drift(theta), pull.expand(40, 3))


@pytest.mark.parametrize(
    ("h", "theta", "error", "message"),
    [
        ("tanh", torch.zeros(5, 2), ValueError, r"theta must have shape \(..., n, 3\)"),
        ("tanh", torch.zeros(0, 3), ValueError, r"all >= 1, got \(0, 3\)"),
        (sum_of, torch.zeros(3), ValueError, r"theta must have shape \(..., n, p\)"),
        ("tanh", torch.zeros(5, 3) * 1j, TypeError, "theta must be a floating-point tensor"),
    ],
)
def test_bad_particles(h, theta, error, message):
    for function in (smooth(h=h).drift, smooth(h=h).predict):
        with pytest.raises(error, match=message):
            function(theta)


@pytest.mark.parametrize(
    ("option", "function", "message"),
    [
        ("h", lambda x, theta: torch.log(-((theta @ x) ** 2)), "what h returns, .* got nan"),
        ("h", lambda x, theta: (theta @ x - theta @ x).sqrt(), "the gradient of h .* got nan"),
        ("h", lambda x, theta: theta, r"must have shape \(10, 16\), got \(10, 16, 3\)"),
        ("h", lambda x, theta: 1.0, "what h returns must be a floating-point tensor, got 1.0"),
        ("h", lambda x, theta: theta @ x * 1j, "what h returns must .* got dtype torch.complex64"),
        ("loss", lambda f, y: (f - f).sqrt(), "the slope of loss .* got nan"),
        ("loss", lambda f, y: ((f - y) ** 2).mean(), r"must have shape \(1, 16\), got \(\)"),
        ("loss", lambda f, y: torch.where(f > 9, f, math.nan), "what loss returns must .* got nan"),
        ("start", lambda n, g: torch.full((n, 3), math.nan), "what start returns, .* got nan"),
        (
            "start",
            torch.full((3,), 1e300, dtype=torch.float64),
            "what start returns, in torch.float32, .* inf",
        ),
        ("start", lambda n, g: torch.zeros(n - 1, 3), r"shape \(10, 3\), all >= 1, got \(9, 3\)"),
        ("signs", RANDOM[:9], "signs must hold 10 entries or more, got 9"),
    ],
)
def test_bad_functions_are_named(option, function, message):
    with pytest.raises((TypeError, ValueError), match=message):
        simulate(smooth(**{option: function}), 10, **RUN, seed=0)


def test_particles_that_have_left_the_floats_are_no_fault_of_the_functions():
    """Overflow is said to be possible: what h makes of inf is not its doing."""
    options = RUN | {"alpha": 0.05, "T": 10.0}
    for h in ("tanh", FUNCTIONS["tanh"]):
        assert not simulate(smooth(h=h), 50, **options, seed=0).particles.isfinite().all()
