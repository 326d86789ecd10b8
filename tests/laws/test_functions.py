"""Both libraries of the in-place functions compute the same, and without a word."""

import math

import numpy as np
import pytest
import torch

from heavytail.laws import _functions

NAMES = _functions.Functions._fields
DTYPES = [torch.float32, torch.float64]
BOTH = [_functions.TORCH, _functions._NUMPY]


def arguments(name, dtype):
    """What the maps put in: angles up to pi; above -1 with a logarithm of 1 + x, else above 0."""
    if name == "sin_":
        return torch.linspace(1e-6, math.pi, 100_001, dtype=dtype)
    if name == "log1p_":
        return -torch.logspace(-30, 0, 100_001, dtype=torch.float64)[:-1].to(dtype)
    return torch.logspace(-35, 35, 100_001, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("functions", BOTH)
def test_functions_are_right_to_a_few_roundings(functions, name, dtype):
    x = arguments(name, dtype)
    exact = getattr(np, name.rstrip("_"))(x.numpy().astype(np.longdouble))
    found = x.clone()
    assert getattr(functions, name)(found) is found
    unit = torch.finfo(dtype).eps
    # sin is small next to pi, where all that the maps ask of it is to be small.
    error = np.abs(found.numpy() - exact)
    assert (error <= 4 * unit * np.maximum(np.abs(exact), unit)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("functions", BOTH)
def test_the_ends_give_no_warning(functions, name):
    x = torch.tensor([0.0, -1.0, -2.0, math.inf, math.nan])
    expected = getattr(torch, name.rstrip("_"))(x)
    found = getattr(functions, name)(x.clone())
    assert torch.allclose(found, expected, equal_nan=True)


def test_the_choice(monkeypatch):
    for by_numpy, functions in enumerate(BOTH):
        monkeypatch.setattr(_functions, "BY_NUMPY", bool(by_numpy))
        assert _functions.of_blocks() is functions
