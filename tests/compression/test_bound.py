import math

import pytest
import torch

from heavytail import symmetric_stable
from heavytail.compression.bound import compression_bound, quantize

SETTING = {"columns": 2000, "kept": 1000, "inputs": 140, "outputs": 2, "examples": 500}


def test_the_bound_is_its_formula():
    bits = 8 * 1000 * 142 + 64
    log_count = math.log(2001) + math.log(math.comb(2000, 1000)) + bits * math.log(2)
    exact = 0.02 + math.sqrt((log_count + math.log(20)) / 1000)
    assert compression_bound(0.02, **SETTING, scale_bits=64) == pytest.approx(exact, rel=1e-12)
    assert 27 < exact < 29  # vacuous by far


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_union_bound_adds_up_to_delta(n):
    """Over all k and all networks: the sum of exp(-2 N t_k^2) is at most delta, and no less."""
    d, o, q, N, delta = 2, 1, 1, 50, 0.1
    shape = {"columns": n, "inputs": d, "outputs": o, "examples": N, "bits": q, "delta": delta}
    total = 0.0
    for k in range(n + 1):
        t = compression_bound(0.0, **shape, kept=k)
        total += math.comb(n, k) * 2 ** (q * k * (d + o)) * math.exp(-2 * N * t**2)
    assert total == pytest.approx(delta)


def test_the_bound_holds():
    """Networks that fit noise: the training error of the best of many is below 1/2 by less."""
    generator = torch.Generator().manual_seed(0)
    examples, count = 400, 2**10  # one column, one input, no output: ten bits
    labels = torch.randint(2, (examples,), generator=generator)
    guesses = torch.randint(2, (count, examples), generator=generator)
    best = float((guesses != labels).double().mean(1).min())
    options = {"columns": 1, "kept": 1, "inputs": 1, "outputs": 1, "examples": examples}
    bound = compression_bound(best, **options, bits=5)
    assert 0.5 <= bound < 0.65  # the true error is 1/2; without the union it would be missed
    assert best + math.sqrt(math.log(20) / (2 * examples)) < 0.5


def test_more_examples_and_fewer_columns_help():
    bounds = [compression_bound(0.0, **(SETTING | {"kept": k})) for k in (1, 10, 1000)]
    assert bounds == sorted(bounds)
    many = compression_bound(0.0, **(SETTING | {"kept": 10, "examples": 60_000}))
    assert many < 0.4 < 1 < bounds[1]


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_rounding_is_to_the_grid(bits, generator):
    weight = symmetric_stable(1.2, (50, 30), generator=generator, dtype=torch.float64)
    rounded = quantize(weight, bits)
    top = weight.abs().amax(1, keepdim=True)
    assert ((rounded - weight).abs() <= top / (2**bits - 1) * (1 + 1e-6)).all()
    assert max(len(row.unique()) for row in rounded) <= 2**bits
    assert torch.equal(quantize(torch.zeros(2, 3), bits), torch.zeros(2, 3))
    assert quantize(weight.float().view(50, 5, 6), bits).shape == (50, 5, 6)
    assert quantize(torch.zeros(0, 3), bits).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compression_bound(1.5, **SETTING), r"training_error must be in \[0, 1\]"),
        (lambda: compression_bound(0, **SETTING | {"kept": 2001}), r"in \[0, 2000\], got 2001"),
        (lambda: compression_bound(0, **SETTING, delta=1), r"delta must be in \(0, 1\), got 1"),
        (lambda: compression_bound(0, **SETTING, bits=0), "bits must be >= 1, got 0"),
        (lambda: quantize(torch.ones(3), 8), r"shape \(n, ...\), got \(3,\)"),
        (lambda: quantize(torch.ones(3, 2), 25), r"bits must be in \[1, 24\], got 25"),
        (lambda: quantize(torch.ones(3, 2) / 0, 8), "weight must be finite"),
        (lambda: quantize(torch.full((3, 2), 3e38), 8), "at most 1e38 in size, got 3e"),
    ],
)
def test_bad_input_stops_at_the_door(call, message):
    with pytest.raises(ValueError, match=message):
        call()
