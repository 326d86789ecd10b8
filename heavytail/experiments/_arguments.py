"""Checks of what only the experiments take, as those of ``heavytail._check``."""

import os
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def instance(name: str, value: T, *kinds: Any) -> T:
    """Return a value of one of some classes, of which a tensor, though iterable, is none."""
    if isinstance(value, Tensor) or not isinstance(value, kinds):
        words = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be of type {words}, got {value!r:.60}")
    return value


def file(name: str, value: str | os.PathLike[str]) -> Path:
    """Return the path of a file, which need not be there."""
    path = Path(instance(name, value, str, os.PathLike))
    if path.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {path}")
    return path
