import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import heavytail
from heavytail.limit import problem as module
from heavytail.limit.particles import simulate
from heavytail.limit.problem import MeanField
from heavytail.noise import KINDS
from tests.limit.test_problem import FUNCTIONS, RANDOM, RUN, data, smooth


def drawn(n, generator):
    return torch.rand(n, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("start", [None, drawn, torch.tensor([1.0, 2.0, 3.0])])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("h", ["tanh", FUNCTIONS["relu"]])
def test_the_scheme_by_hand(h, kind, start):
    """Start, drifts and increments of one generator; systems have n rows each, in order."""
    problem = smooth(h=h, start=start)
    for n, systems in ((1, None), (20, None), (5, 4)):
        many = n * (systems or 1)
        generator = torch.Generator().manual_seed(3)
        if start is None:
            theta = torch.randn(many, 3, generator=generator, dtype=torch.float64)
        else:
            theta = drawn(many, generator) if callable(start) else start.double().repeat(many, 1)
        theta = theta.view(-1, n, 3)
        for _ in range(10):
            b = torch.stack([problem.drift(each) for each in theta])
            xi = heavytail.noise_vectors(
                kind, 1.75, many, 3, generator=generator, dtype=torch.float64
            )
            theta = theta + 0.1 * b + 0.5 * 0.1 ** (1 / 1.75) * xi.view(-1, n, 3)
        options = RUN | {"kind": kind, "systems": systems, "dtype": torch.float64}
        found = simulate(problem, n, **options, seed=3).particles
        wanted = theta if systems else theta[0]
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    if isinstance(start, Tensor):
        assert start.tolist() == [1.0, 2.0, 3.0]


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
    """Times come back in order and once, each the nearest step."""
    problem = smooth()
    plain = simulate(problem, 20, **RUN, seed=1)
    assert plain.observed is None
    times = [1.0, 0.29, 0.0, 0.31]
    seen = simulate(problem, 20, **RUN, seed=1, observe=torch.clone, times=times)
    assert seen.times.tolist() == pytest.approx([0.0, 0.3, 1.0])
    assert torch.equal(seen.observed[-1], plain.particles)
    many = simulate(problem, 20, **RUN, seed=1, systems=3, observe=problem.predict)
    assert many.observed.shape == (11, 3, 16)
    torch.testing.assert_close(many.observed[-1], problem.predict(many.particles))


@pytest.mark.parametrize("T", [0.11, 0.21, 7.098366770372078])
def test_times_may_be_above_the_end_by_rounding(T):
    """T * 10 / 10 is above T by an ulp here, and float32 by more."""
    assert T * 10 / 10 > T
    run = RUN | {"T": T, "observe": torch.clone}
    every = simulate(smooth(), 5, **run, seed=1)
    torch.testing.assert_close(every.times, torch.linspace(0, T, 11, dtype=torch.float64))
    for times in (
        [T * j / 10 for j in range(11)],
        torch.linspace(0, T, 11),
        np.linspace(0, T * (1 + 1e-7), 11),
    ):
        again = simulate(smooth(), 5, **run, seed=1, times=times)
        assert torch.equal(again.observed, every.observed)
    with pytest.raises(ValueError, match=r"each of times must be in \[0, "):
        simulate(smooth(), 5, **run, seed=1, times=[1.001 * T])


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
        for signs in (RANDOM, RANDOM[:20].double())
    ]
    assert torch.equal(generated[0], generated[1])


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


@pytest.mark.parametrize("h", ["tanh", FUNCTIONS["tanh"]])
def test_memory_does_not_grow_with_the_data(h, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 1 << 14)
    monkeypatch.setattr(module, "_KEPT", 0)
    n, N = 100_000, 64
    with Largest() as largest:
        simulate(MeanField(*data(N), h=h), n, **(RUN | {"steps": 1}), seed=0)
    assert n * 3 <= largest.numel <= N * n / 5  # the particles, and the blocks of a draw


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"n": 10**12}, ValueError, r"n, times systems, must be in \[1, 10{9}\], got 10{12}$"),
        ({"steps": 10**30}, ValueError, r"steps must be in \[1, 1000000000\], got 10+"),
        ({"times": [0.0, 2.0]}, ValueError, r"each of times must be in \[0, 1\.0+1\], got 2"),
        ({"times": 0}, TypeError, "times must be a sequence of numbers, got 0"),
        ({"observe": 0}, TypeError, "observe must be a function, got 0"),
        ({"dtype": torch.float16}, ValueError, "dtype must be torch.float32 or torch.float64"),
        ({"device": "meta"}, ValueError, "device must be one that computes, got meta"),
        ({"problem": None}, TypeError, "problem must be a MeanField"),
        ({"observe": lambda theta: 1.0}, TypeError, "what observe returns must be a tensor"),
    ],
)
def test_bad_runs(changed, error, message):
    with pytest.raises(error, match=message):
        simulate(**({"problem": smooth(), "n": 10, "seed": 0} | RUN | changed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_too_small_for_the_floats_is_refused(dtype):
    """Rounded to 0 it would be lost; times a vector that has left the floats it would be nan."""
    at = -10 / math.log10(torch.finfo(dtype).tiny)  # here 1e-10^(1 / alpha) is the least float
    run = RUN | {"T": 1e-9, "kind": "shared", "dtype": dtype, "seed": 0}  # 10 steps
    for alpha, sigma in ((1.001 * at, 1.0), (1.001 * at, 0.0), (0.999 * at, 0.0)):
        simulate(smooth(), 5, **(run | {"alpha": alpha, "sigma": sigma}))
    with pytest.raises(ValueError, match=r"sigma eta\^\(1/alpha\) must be in .*, got "):
        simulate(smooth(), 5, **(run | {"alpha": 0.999 * at, "sigma": 1.0}))
    with pytest.raises(ValueError, match=r"sigma eta.*, got inf"):  # as T / steps is above 1
        simulate(smooth(), 5, **(run | {"T": 100.0, "alpha": 0.001}))
