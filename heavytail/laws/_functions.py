"""Sine and logarithms of a block of draws, in place.

Where a processor has AVX-512, numpy computes them on Linux: it has loops of its own for that. torch
calls MKL, which takes a slow path on processors that are not Intel's. Both are right to a few
roundings. The choice is made once: same machine, same torch and numpy, same bits.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

BY_NUMPY = sys.platform == "linux" and torch.backends.cpu.get_cpu_capability() == "AVX512"


class Functions(NamedTuple):
    """Each overwrites its argument, floating point, and returns it."""

    sin_: Callable[[Tensor], Tensor]
    log_: Callable[[Tensor], Tensor]
    log2_: Callable[[Tensor], Tensor]
    log1p_: Callable[[Tensor], Tensor]


TORCH = Functions(torch.sin_, torch.log_, torch.log2_, torch.log1p_)


def of_blocks() -> Functions:
    """Return those for memory of our own on a CPU: no autograd, no tracing looks at it."""
    return _NUMPY if BY_NUMPY else TORCH


def _by_numpy(function: Any) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        values = x.numpy()
        with np.errstate(all="ignore"):  # as torch does
            function(values, out=values)
        return x

    return apply


def _sin_(x: Tensor) -> Tensor:
    # In double precision numpy takes the sine of the C library, number by number.
    return _single_sin_(x) if x.dtype == torch.float32 else x.sin_()


_single_sin_ = _by_numpy(np.sin)
_NUMPY = Functions(_sin_, _by_numpy(np.log), _by_numpy(np.log2), _by_numpy(np.log1p))
