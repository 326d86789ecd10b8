import itertools
import math

import pytest
import torch

from heavytail import compression_bound, quantize, symmetric_stable

SETTING = {"columns": 2000, "kept": 1000, "inputs": 140, "outputs": 2, "examples": 500}


def test_the_bound_is_its_formula():
    bits = 8 * 1000 * 142 + 64
    log_count = math.log(2001) + math.log(math.comb(2000, 1000)) + bits * math.log(2)
    exact = 0.02 + math.sqrt((log_count + math.log(20)) / 1000)
    assert compression_bound(0.02, **SETTING, scale_bits=64) == pytest.approx(exact, rel=1e-12)
    assert 27 < exact < 29  # vacuous by far


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_union_bound_adds_up_to_delta(n):
    """Over all networks, each counted: which columns are kept, and a bit for each weight."""
    N, delta, weights = 50, 0.1, 2 + 1
    shape = {"columns": n, "inputs": 2, "outputs": 1, "examples": N, "bits": 1, "delta": delta}
    total = 0.0
    for kept in itertools.product([False, True], repeat=n):
        t = compression_bound(0.0, **shape, kept=sum(kept))
        networks = len(list(itertools.product([-1, 1], repeat=sum(kept) * weights)))
        total += networks * math.exp(-2 * N * t**2)
    assert total == pytest.approx(delta)


def test_the_bound_holds():
    """The best of 2^10 networks that guess: the union bound is needed."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (400,), generator=generator)
    guesses = torch.randint(2, (2**10, 400), generator=generator)
    best = float((guesses != labels).double().mean(1).min())
    options = {"columns": 1, "kept": 1, "inputs": 1, "outputs": 1, "examples": 400}
    assert 0.5 <= compression_bound(best, **options, bits=5) < 0.65  # the true error is 1/2
    assert best + math.sqrt(math.log(20) / 800) < 0.5


@pytest.mark.parametrize("bits", [1, 4, 16])
def test_rounding_is_to_the_grid(bits, generator):
    weight = symmetric_stable(1.2, (50, 30), generator=generator, dtype=torch.float64)
    rounded = quantize(weight, bits)
    top = weight.abs().amax(1, keepdim=True)
    assert ((rounded - weight).abs() <= top / (2**bits - 1) * (1 + 1e-6)).all()  # a float32 scale
    assert max(len(row.unique()) for row in rounded) <= 2**bits
    assert torch.allclose(quantize(2 * weight, bits), 2 * rounded, rtol=1e-6)
    assert torch.equal(quantize(torch.zeros(2, 3), bits), torch.zeros(2, 3))
    assert quantize(weight.half().view(50, 5, 6), bits).shape == (50, 5, 6)
    assert quantize(torch.zeros(0, 3), bits).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compression_bound(1.5, **SETTING), r"training_error must be in \[0, 1\]"),
        (lambda: compression_bound(0, **SETTING | {"kept": 2001}), r"in \[0, 2000\], got 2001"),
        (lambda: compression_bound(0, **SETTING, delta=1), r"delta must be in \(0, 1\), got 1"),
        (lambda: quantize(torch.ones(3), 8), r"shape \(n, ...\), got \(3,\)"),
        (lambda: quantize(torch.ones(3, 2), 25), r"bits must be in \[1, 24\], got 25"),
        (lambda: quantize(torch.ones(3, 2) / 0, 8), r"weight must be in \[-1e38, 1e38\], got inf"),
    ],
)
def test_bad_input_stops_at_the_door(call, message):
    with pytest.raises(ValueError, match=message):
        call()
