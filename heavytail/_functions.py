"""Sine and logarithms in place, by the faster of two libraries.

torch gives them to MKL, which takes a slow path on processors that are not Intel's. numpy has loops
for AVX-512 whoever made the processor, on Linux. Both are right to a few roundings; which one
computes depends on the machine alone, so that a draw is the same in every process on it.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

BY_NUMPY = sys.platform == "linux" and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _in_place(
    by_torch: Callable[[Tensor], Tensor], by_numpy: Any, *dtypes: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Return a function that overwrites its argument, by numpy for these dtypes."""

    def apply(x: Tensor) -> Tensor:
        # A tensor that lies elsewhere, or is traced, has no memory that numpy could see.
        seen = type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()
        if not (BY_NUMPY and seen and x.dtype in dtypes):
            return by_torch(x)
        values = x.numpy()
        with np.errstate(all="ignore"):  # as torch does
            by_numpy(values, out=values)
        return x

    return apply


sin_ = _in_place(torch.sin_, np.sin, torch.float32)  # numpy's own for float64 is slow
log_ = _in_place(torch.log_, np.log, torch.float32, torch.float64)
log2_ = _in_place(torch.log2_, np.log2, torch.float32, torch.float64)
log1p_ = _in_place(torch.log1p_, np.log1p, torch.float32, torch.float64)
