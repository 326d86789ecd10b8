import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import heavytail
from heavytail.laws import _blocks as _draws
from heavytail.limit import particles as meanfield
from heavytail.limit.particles import MeanField, simulate
from heavytail.noise import KINDS

RUN = {"T": 1.0, "steps": 10, "alpha": 1.75, "sigma": 0.5, "kind": "independent"}

FUNCTIONS = {
    "tanh": lambda x, theta: torch.tanh(theta @ x),
    "sigmoid": lambda x, theta: torch.sigmoid(theta @ x),
    "relu": lambda x, theta: torch.relu(theta @ x),
    "linear": lambda x, theta: theta @ x,
}


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


def within(rates, expected, tolerance=math.inf):
    assert abs(rates.slope - expected) < min(3 * rates.slope_stderr, tolerance)


# The drift.


@pytest.mark.parametrize("signs", [None, "alternating", lambda i: 1.0 - 2 * (i % 3 == 0).double()])
@pytest.mark.parametrize("h", FUNCTIONS)
def test_closed_forms_are_the_gradients_of_the_function(h, signs, monkeypatch):
    y = torch.where(torch.arange(16) % 2 == 0, 1.0, -1.0).double()
    named = MeanField(data()[0], y, h=h, loss="logistic", signs=signs)
    by_hand = MeanField(
        data()[0],
        y,
        h=FUNCTIONS[h],
        loss=lambda f, y: torch.log(1 + torch.exp(-y * f)),
        signs=signs,
    )
    for block, kept in ((1 << 16, 1 << 20), (64, 0)):  # in one block; in many, outputs not kept
        monkeypatch.setattr(meanfield, "_BLOCK", block)
        monkeypatch.setattr(meanfield, "_KEPT", kept)
        for found, wanted in (
            (named.predict(particles()), by_hand.predict(particles())),
            (named.drift(particles()), by_hand.drift(particles())),
            (named.drift(particles(), particles(7)), by_hand.drift(particles(), particles(7))),
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def huber(f, y):
    return functional.huber_loss(f, y, reduction="none")


RANDOM = 1 - 2 * torch.randint(2, (60,), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("loss", ["squared", huber])
@pytest.mark.parametrize("signs", ["alternating", RANDOM])
@pytest.mark.parametrize("h", FUNCTIONS)
def test_the_drift_is_the_gradient_of_the_risk(h, signs, loss):
    problem, theta = smooth(h=h, signs=signs, loss=loss), particles().requires_grad_()
    activation = {"linear": lambda z: z, "relu": torch.relu}.get(h) or getattr(torch, h)
    a = RANDOM[:40].double() if signs is RANDOM else torch.tensor([1.0, -1.0]).double().repeat(20)
    f = (activation(problem.x @ theta.T) * a).mean(1)
    risk = (huber(f, problem.y) if loss is huber else (f - problem.y) ** 2 / 2).mean()
    (gradient,) = torch.autograd.grad(risk, theta)
    torch.testing.assert_close(-40 * gradient, problem.drift(theta), rtol=1e-12, atol=1e-14)


def test_a_loss_of_many_systems():
    found, wanted = (
        simulate(smooth(loss=loss), 20, **RUN, seed=1, systems=3, dtype=torch.float64).particles
        for loss in (lambda f, y: (f - y) ** 2 / 2, "squared")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "signs",
    [
        lambda i: 1 - 2 * torch.randint(2, i.shape),
        lambda i: torch.where(i < len(i) // 2, 1.0, -1.0),
    ],
)
def test_signs_depend_on_the_index_alone(signs):
    with pytest.raises(ValueError, match="signs must depend on i alone: the first 20 of 40"):
        smooth(signs=signs).predict(particles())
    with pytest.raises(ValueError, match="signs must depend on i alone"):
        simulate(smooth(signs=signs), 20, **RUN, seed=0)


@pytest.mark.parametrize("h", ["tanh", FUNCTIONS["tanh"]])
def test_the_drift_knows_no_order(h):
    problem, theta = smooth(h=h), particles()
    order = torch.randperm(len(theta), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(problem.drift(theta[order]), problem.drift(theta)[order])


def test_many_systems_are_single_ones():
    problem = smooth(signs="alternating")
    many = particles(60).view(6, 10, 3)
    each = torch.stack([problem.predict(theta) for theta in many])
    torch.testing.assert_close(problem.predict(many), each)


# The scheme.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("h", ["tanh", "relu"])
def test_the_scheme_by_hand(kind, h):
    """Of one particle and of many: the drift, and the increments of the same generator."""
    for n in (1, 50):
        problem = smooth(h=h)
        generator = torch.Generator().manual_seed(3)
        theta = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        for _ in range(10):
            b = problem.drift(theta)
            xi = heavytail.noise_vectors(kind, 1.75, n, 3, generator=generator, dtype=torch.float64)
            theta = theta + 0.1 * b + 0.5 * 0.1 ** (1 / 1.75) * xi
        found = simulate(problem, n, **(RUN | {"kind": kind}), seed=3, dtype=torch.float64)
        torch.testing.assert_close(found.particles, theta, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "start",
    [
        torch.tensor([1.0, 2.0, 3.0]),
        lambda n, generator: torch.rand(n, 3, generator=generator, dtype=torch.float64),
    ],
)
def test_starts_by_hand(start):
    """The start, and then the noise, of one generator; systems have n rows each, in order."""
    problem, many = smooth(start=start), []
    for systems, shape in ((None, (20, 3)), (4, (4, 5, 3))):
        generator = torch.Generator().manual_seed(3)
        theta = start(20, generator) if callable(start) else start.double().repeat(20, 1)
        xi = heavytail.noise_vectors(
            "isotropic", 1.75, 20, 3, generator=generator, dtype=torch.float64
        )
        theta = theta.view(shape)
        b = torch.stack([problem.drift(each) for each in theta.view(-1, shape[-2], 3)])
        theta = theta + 0.1 * b.view(shape) + 0.5 * 0.1 ** (1 / 1.75) * xi.view(shape)
        options = RUN | {"kind": "isotropic", "T": 0.1, "steps": 1, "systems": systems}
        found = simulate(problem, shape[-2], **options, seed=3, dtype=torch.float64)
        torch.testing.assert_close(found.particles, theta, rtol=1e-12, atol=1e-12)
        many.append(found.particles)
    assert float(many[0].std(0).min()) > 0  # noise has come to the start


def test_without_noise_one_particle_descends():
    """n = 1 and sigma = 0: gradient descent on one neuron."""
    x, y = data()
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        ((torch.tanh(x @ theta) - y) ** 2 / 2).mean().backward()
        optimizer.step()
    problem = smooth(start=torch.zeros(3))
    found = simulate(problem, 1, **(RUN | {"sigma": 0.0}), seed=0, dtype=torch.float64)
    torch.testing.assert_close(found.particles[0], theta.detach())


def test_seeds_and_the_global_generator():
    before = torch.get_rng_state()
    first, same, other = (simulate(smooth(), 100, **RUN, seed=seed).particles for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_observed():
    problem = smooth()
    plain = simulate(problem, 20, **RUN, seed=1)
    assert plain.observed is None
    seen = simulate(problem, 20, **RUN, seed=1, observe=torch.clone, times=[1.0, 0.0, 0.31])
    assert seen.times.tolist() == pytest.approx([0.0, 0.3, 1.0])
    assert torch.equal(seen.observed[-1], seen.particles)
    assert torch.equal(seen.particles, plain.particles)
    few = simulate(problem, 20, **(RUN | {"steps": 1000}), seed=1, observe=problem.predict)
    assert few.observed.shape == (11, 16)
    many = simulate(problem, 20, **RUN, seed=1, systems=3, observe=problem.predict)
    assert many.particles.shape == (3, 20, 3)
    assert many.observed.shape == (11, 3, 16)


@pytest.mark.parametrize("T", [0.11, 0.21, 7.098366770372078])
def test_times_may_be_above_the_end_by_rounding(T):
    """T * 10 / 10 is above T by an ulp here, and float32 by more."""
    assert T * 10 / 10 > T
    run = RUN | {"T": T, "observe": torch.clone}
    every = simulate(smooth(), 5, **run, seed=1)
    assert torch.equal(every.observed[-1], every.particles)
    torch.testing.assert_close(every.times, torch.linspace(0, T, 11, dtype=torch.float64))
    for times in (
        [T * j / 10 for j in range(11)],
        torch.linspace(0, T, 11),
        np.linspace(0, T * (1 + 1e-7), 11),
    ):
        again = simulate(smooth(), 5, **run, seed=1, times=times)
        assert torch.equal(again.observed, every.observed)
    with pytest.raises(ValueError, match="times must be in"):
        simulate(smooth(), 5, **run, seed=1, times=[1.001 * T])


def test_times_come_back_in_order_and_once():
    seen = simulate(smooth(), 5, **RUN, seed=1, observe=torch.clone, times=[1.0, 0.29, 0.0, 0.31])
    assert seen.times.tolist() == pytest.approx([0.0, 0.3, 1.0])
    assert len(seen.observed) == 3


def test_a_start_is_called_once_for_all_rows():
    called = []

    def start(n, generator):
        called.append(n)
        return torch.randn(n, 3, generator=generator)

    simulate(smooth(start=start), 5, **RUN, seed=1, systems=3)
    heavytail.chaos_error(smooth(start=start), [4, 8], **RUN, seeds=2, reference=40)
    assert called == [15, 40, 40]


def test_a_system_has_the_first_of_fixed_signs():
    generated = [
        simulate(smooth(signs=signs), 20, **RUN, seed=1).particles
        for signs in (RANDOM, RANDOM[:20].double(), lambda i: RANDOM[:20][i])
    ]
    assert torch.equal(generated[0], generated[1])
    assert torch.equal(generated[0], generated[2])
    rates = heavytail.chaos_error(smooth(signs=RANDOM), [8, 32], **RUN, seeds=20, reference=60)
    within(rates, -0.5, 0.2)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("h", ["tanh", FUNCTIONS["tanh"]])
def test_memory_is_that_of_the_particles(h, kind, monkeypatch):
    monkeypatch.setattr(meanfield, "_BLOCK", 1 << 14)
    monkeypatch.setattr(meanfield, "_KEPT", 0)
    monkeypatch.setattr(_draws, "_BLOCK", 1 << 14)
    x, y = data(N=64)
    n = 100_000
    with Largest() as largest:
        simulate(MeanField(x, y, h=h), n, **(RUN | {"steps": 3, "kind": kind}), seed=0)
    assert n * 3 <= largest.numel <= 1.2 * n * 3  # N n is 20 times as much


# Bad arguments.


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"h": "cosine"}, ValueError, r"h must be one of \['linear'.*got 'cosine'"),
        ({"h": 3}, TypeError, r"h must be one of .*, or a function \(x, theta\), got 3"),
        ({"loss": "hinge"}, ValueError, r"loss .*, or a function \(f, y\), got 'hinge'"),
        ({"loss": "logistic"}, ValueError, "y must be -1 or 1"),
        ({"signs": "random"}, ValueError, r"'alternating'\], or None, a tensor or a function of i"),
        ({"signs": [1, -1]}, TypeError, r"'alternating'\], or None, a tensor or a function of i"),
        ({"signs": torch.ones(2, 2)}, ValueError, r"signs must be finite, of shape \(n,\)"),
        ({"signs": torch.tensor([math.nan])}, ValueError, "signs must be finite"),
        ({"x": torch.ones(4)}, ValueError, r"x must have shape \(N, d\)"),
        ({"x": [[1.0]]}, TypeError, "x must be a .*tensor|x must be"),
        ({"y": torch.ones(3)}, ValueError, r"y must have shape \(16,\), got \(3,\)"),
        ({"y": torch.full((16,), math.nan)}, ValueError, "y must be finite"),
        ({"start": torch.zeros(2)}, ValueError, "start must be of dimension 3"),
        ({"start": torch.zeros(5, 3)}, ValueError, r"start must have shape \(p,\).*got \(5, 3\)"),
        ({"start": torch.zeros(0)}, ValueError, r"start must have shape \(p,\), all >= 1"),
        ({"start": 1.0}, TypeError, "start must be a tensor, a function or None"),
    ],
)
def test_bad_problems(changed, error, message):
    x, y = data()
    with pytest.raises(error, match=message):
        MeanField(**({"x": x, "y": y} | changed))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be >= 1, got 0"),
        ({"T": 0.0}, ValueError, "T must be > 0"),
        ({"steps": 0}, ValueError, "steps must be >= 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"alpha": 2.5}, ValueError, r"alpha must be in \(0, 2\], got 2\.5"),
        ({"sigma": -1.0}, ValueError, "sigma must be >= 0, got -1"),
        ({"kind": "diagonal"}, ValueError, "kind must be one of"),
        ({"seed": -1}, ValueError, "seed must be >= 0"),
        ({"systems": 0}, ValueError, "systems must be >= 1"),
        ({"times": [0.0, 2.0]}, ValueError, r"times must be in \[0, 1\]"),
        ({"times": [-0.1]}, ValueError, r"times must be in \[0, 1\]"),
        ({"times": ["now"]}, TypeError, "each of times must be a real number"),
        ({"dtype": torch.float16}, ValueError, "dtype must be torch.float32 or torch.float64"),
        ({"problem": None}, TypeError, "problem must be a MeanField"),
        ({"observe": lambda theta: 1.0}, TypeError, "what observe returns must be a tensor"),
        ({"problem": smooth(start=lambda n, g: torch.zeros(3))}, ValueError, "what start returns"),
        (
            {"problem": smooth(start=lambda n, g: torch.zeros(n - 1, 3))},
            ValueError,
            r"what start returns must have shape \(10, p\), all >= 1, got \(9, 3\)",
        ),
        ({"problem": smooth(signs=lambda i: i[:1])}, ValueError, "signs must return shape"),
        ({"problem": smooth(signs=RANDOM[:9])}, ValueError, "signs must hold 10 entries or more"),
        (
            {"problem": smooth(loss=lambda f, y: ((f - y) ** 2).mean())},
            ValueError,
            r"loss must return the shape of f, \(1, 16\), got \(\)",
        ),
        (
            {"problem": smooth(h=lambda x, theta: theta[0] * torch.tanh(theta[1:] @ x))},
            ValueError,
            r"start= is needed: h fails on a particle of shape \(3,\)",
        ),
        ({"problem": smooth(h=lambda x, theta: theta)}, ValueError, "h must return a scalar"),
    ],
)
def test_bad_runs(changed, error, message):
    with pytest.raises(error, match=message):
        simulate(**({"problem": smooth(), "n": 10, "seed": 0} | RUN | changed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_too_small_for_the_floats_is_refused(dtype):
    """Rounded to 0 it would be lost; times a vector that has left the floats it would be nan."""
    at = -10 / math.log10(torch.finfo(dtype).tiny)  # here 1e-10^(1 / alpha) is the least float
    run = RUN | {"T": 1e-9, "sigma": 1.0, "kind": "shared"}  # 10 steps
    for alpha, fits in ((0.999 * at, False), (1.001 * at, True)):
        for sigma in (0.0, 1.0):
            options = run | {"alpha": alpha, "sigma": sigma, "dtype": dtype}
            if fits or not sigma:
                simulate(smooth(), 5, **options, seed=0)
                continue
            with pytest.raises(ValueError, match=r"sigma eta\^\(1/alpha\) must be 0 or in"):
                simulate(smooth(), 5, **options, seed=0)
            with pytest.raises(ValueError, match=r"sigma eta\^\(1/alpha\) must be 0 or in"):
                heavytail.chaos_error(smooth(), [2, 4], **options, seeds=2, reference=8)
    with pytest.raises(ValueError, match=r"got inf at alpha 0\.001"):  # as T / steps is above 1
        simulate(smooth(), 5, **(RUN | {"T": 100.0, "alpha": 0.001}), seed=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.drift(torch.zeros(2, 5, 3)), ValueError, r"theta must have shape \(n, p\)"),
        (lambda p: p.drift(torch.zeros(5, 2)), ValueError, "theta must be of dimension 3"),
        (lambda p: p.drift(torch.zeros(0, 3)), ValueError, r"theta .* all >= 1, got \(0, 3\)"),
        (lambda p: p.drift(torch.zeros(5, 3).long()), TypeError, "theta must be floating-point"),
        (lambda p: p.predict(torch.zeros(3)), ValueError, r"theta must have shape \(..., n, p\)"),
        (lambda p: p.predict(torch.zeros(0, 4, 3)), ValueError, r"all >= 1, got \(0, 4, 3\)"),
        (lambda p: p.predict(torch.zeros(4, 0, 3)), ValueError, r"all >= 1, got \(4, 0, 3\)"),
        (
            lambda p: p.drift(torch.zeros(5, 3), torch.zeros(1, 5, 3)),
            ValueError,
            r"system must have shape \(m, p\), all >= 1, got \(1, 5, 3\)",
        ),
        (
            lambda p: p.drift(torch.zeros(5, 3), torch.zeros(5, 2)),
            ValueError,
            "system must be of dimension 3",
        ),
        (lambda p: p.drift(torch.zeros(5, 3), 1.0), TypeError, "system must be a tensor"),
        (
            lambda p: p.drift(torch.zeros(5, 3), torch.zeros(5, 3).double()),
            ValueError,
            "system must be as theta, p = 3, torch.float32 on cpu, got p = 3, torch.float64",
        ),
        (
            lambda p: smooth(h=lambda x, theta: theta.sum()).drift(
                torch.zeros(5, 3), torch.zeros(5, 2)
            ),
            ValueError,
            "system must be as theta, p = 3, .* got p = 2",
        ),
    ],
)
def test_bad_particles(call, error, message):
    with pytest.raises(error, match=message):
        call(smooth())
