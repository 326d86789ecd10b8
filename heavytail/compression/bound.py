r"""Generalisation through compression: a bound that can be computed.

Fix a grid of 2^q values a weight before the data is seen. A network of d inputs, n hidden columns
and o outputs of which k columns are kept, with its weights on that grid, is one of at most

    (n + 1) C(n, k) 2^{q k (d + o) + b}

networks: the factor n + 1 pays for choosing k afterwards, b bits for the scales of the grid. By
Hoeffding's inequality for each and the union bound, with probability 1 - delta over N training
examples, all these networks at once have

    error <= training error + sqrt( code / (2 N) ),
    code = log(n + 1) + log C(n, k) + (q k (d + o) + b) log 2 + log(1/delta).

Both errors are those of the 0-1 loss. An argument outside its set is a TypeError or a ValueError.
Source: Arora, Ge, Neyshabur and Zhang, ICML 2018, for the idea; the count is ours.
"""

import math

import torch
from torch import Tensor

from heavytail import _check


def compression_bound(
    training_error: float,
    *,
    columns: int,
    kept: int,
    inputs: int,
    outputs: int,
    examples: int,
    bits: int = 8,
    scale_bits: int = 0,
    delta: float = 0.05,
) -> float:
    """Return the bound on the error of a pruned and rounded network; above 1 it says nothing.

    Args:
        training_error: fraction of the training examples that it gets wrong, in [0, 1].
        columns: n, hidden columns before pruning, >= 1.
        kept: k, in [0, n].
        inputs: d >= 1, and 1 more where hidden units have biases.
        outputs: o >= 1.
        examples: N >= 1, training examples.
        bits: q >= 1, a weight.
        scale_bits: b >= 0, of all scales together: 32 for each row that :func:`quantize` is given.
        delta: probability with which the bound may fail, in (0, 1).
    """
    error = _check.number("training_error", training_error, "[0, 1]")
    n = _check.count("columns", columns, 1)
    k = _check.count("kept", kept, 0, n)
    d, o = _check.count("inputs", inputs, 1), _check.count("outputs", outputs, 1)
    N, q = _check.count("examples", examples, 1), _check.count("bits", bits, 1)
    b, delta = _check.count("scale_bits", scale_bits), _check.number("delta", delta, "(0, 1)")
    choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    code = (q * k * (d + o) + b) * math.log(2)
    return error + math.sqrt((math.log(n + 1) + choices + code - math.log(delta)) / (2 * N))


def quantize(weight: Tensor, bits: int) -> Tensor:
    """Round each row of a weight to 2^bits values, equally spaced from -max to max of the row.

    Each row has a scale of its own, a float32. The grid has no 0, but a row of zeros stays one. The
    result has shape and dtype of the weight, and is off by max / (2^bits - 1), and that rounding.

    Args:
        weight: shape (n, ...), floating point, at most 1e38 in size.
        bits: q in [1, 24].
    """
    if _check.tensor("weight", weight).dim() < 2:
        raise ValueError(f"weight must have shape (n, ...), got {tuple(weight.shape)}")
    steps = 2 ** _check.count("bits", bits, 1, 24) - 1
    rows = weight.detach().double().flatten(1)
    _check.numbers("weight", rows, "[-1e38, 1e38]")
    top = rows.abs().amax(1, keepdim=True) if rows.numel() else rows.new_ones(len(rows), 1)
    # The scale is stored as a float32: rounded up, so that no weight lies beyond it.
    top = torch.nextafter(top.float(), top.new_tensor(math.inf, dtype=torch.float32)).double()
    levels = ((rows / top + 1) / 2 * steps).round() / steps
    levels = torch.where(rows.any(1, keepdim=True), levels, 0.5)
    return ((2 * levels - 1) * top).view_as(weight).to(weight.dtype)
