"""Bad input stops at the door: each check names the value and the allowed set.

A wrong type is a ``TypeError``, a wrong value a ``ValueError``. The checks return the value in
plain form, so that what follows them need not look again. An allowed set is written as the message
says it, an interval such as ``"(0, 2]"``.
"""

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cache
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

FINITE = "(-inf, inf)"
POSITIVE = "(0, inf)"
NONNEGATIVE = "[0, inf)"


def number(name: str, value: object, interval: str = FINITE) -> float:
    """Return a real number of an interval as a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number in {interval}, got {value!r}")
    try:
        plain = float(value)
    except OverflowError:
        plain = -math.inf if value < 0 else math.inf
    if not _inside(plain, interval):
        raise ValueError(f"{name} must be in {interval}, got {plain:g}")
    return plain


def numbers(
    name: str, value: object, interval: str = FINITE, size: torch.Size | None = None
) -> float | Tensor:
    """Return a number of an interval, or a floating-point tensor of them, detached.

    A tensor is to broadcast to ``size``. Looking at one on an accelerator waits for the device.
    """
    if not isinstance(value, Tensor):
        return number(name, value, interval)
    entries = tensor(name, value).detach()
    bad = ~_inside(entries, interval)
    if bad.any():
        raise ValueError(f"{name} must be in {interval}, got {entries[bad].flatten()[0]:g}")
    if size is not None:
        broadcasts(name, entries, size)
    return entries


@cache
def _ends(interval: str) -> tuple[float, bool, float, bool]:
    """Return the lower end, whether it belongs to the interval, and the same for the upper."""
    low, high = interval[1:-1].split(",")
    return float(low), interval[0] == "[", float(high), interval[-1] == "]"


def _inside(value: Any, interval: str) -> Any:
    low, with_low, high, with_high = _ends(interval)
    above = value >= low if with_low else value > low  # nan is nowhere
    below = value <= high if with_high else value < high
    return above & below


def tensor(name: str, value: object) -> Tensor:
    """Return a real floating-point tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a floating-point tensor, got {value!r:.60}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got dtype {value.dtype}")
    if value.is_meta:
        raise ValueError(f"{name} must have values, got a tensor on the device meta")
    return value


def count(name: str, value: object, least: int = 0, most: int | None = None) -> int:
    """Return an integer in [least, most]; None is any that torch can count to."""
    plain = _integer(name, value)
    if most is None and plain < least:
        raise ValueError(f"{name} must be >= {least}, got {plain}")
    if most is None and plain >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {plain}")
    if most is not None and not least <= plain <= most:
        raise ValueError(f"{name} must be in [{least}, {most}], got {plain}")
    return plain


def seed(name: str, value: object) -> int:
    """Return a seed in [0, 2^64), what a generator takes."""
    plain = _integer(name, value)
    if not 0 <= plain < 2**64:
        raise ValueError(f"{name} must be in [0, 2^64), got {plain}")
    return plain


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return int(value)


def flag(name: str, value: object) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r:.60}")
    return value


def instance(name: str, value: T, kind: Any) -> T:
    """Return a value of a class, or of a union of them; a tensor is of none, not even iterable."""
    if isinstance(value, Tensor) or not isinstance(value, kind):
        words = kind.__name__ if isinstance(kind, type) else kind
        raise TypeError(f"{name} must be of type {words}, got {value!r:.60}")
    return value


def function(name: str, value: object) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r:.60}")


def shape(name: str, value: object) -> torch.Size:
    """Return an integer or a sequence of integers as a shape."""
    most = 2**63 - 1
    if isinstance(value, Sequence) and not isinstance(value, str):
        return torch.Size([count(f"each entry of {name}", entry, 0, most) for entry in value])
    if isinstance(value, Integral):
        return torch.Size([count(name, value, 0, most)])
    raise TypeError(f"{name} must be an integer or a sequence of integers, got {value!r}")


def one_of(name: str, value: object, allowed: Collection[str]) -> str:
    """Return a word of the allowed ones."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {sorted(allowed)}, got {value!r}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {sorted(allowed)}, got {value!r}")
    return value


def broadcasts(name: str, value: Tensor, size: torch.Size) -> None:
    """Refuse a tensor that does not broadcast to ``size``."""
    with suppress(RuntimeError):
        if torch.broadcast_shapes(value.shape, size) == size:
            return
    raise ValueError(f"{name} must broadcast to size {tuple(size)}, got shape {tuple(value.shape)}")


def place(
    generator: torch.Generator | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> tuple[torch.device, torch.dtype]:
    """Return where a draw is made and in which precision.

    Without ``device`` a draw is made where its generator lives, else on torch's default device;
    without ``dtype`` in torch's default dtype. On mps torch draws no 64 bits.
    """
    if dtype is None:
        dtype = torch.get_default_dtype()
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
    there = generator.device if device is None and generator is not None else where(device)
    if generator is not None and there.type != generator.device.type:
        raise ValueError(
            f"the generator must live on the draw's device: got a generator on "
            f"{generator.device} and device {there}"
        )
    if there.type == "mps":
        raise ValueError("device must be one that draws 64 bits, as cpu and cuda do, got mps")
    return there, dtype


def where(device: object) -> torch.device:
    """Return a device; None is torch's default."""
    if device is None:
        return torch.get_default_device()
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device must be a torch.device or its name, got {device!r}")
    try:
        return torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be one that torch knows, got {device!r}") from None
