"""Checks of what only the experiments take, as those of ``heavytail._check``."""

import os
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def instance(name: str, value: T, kind: Any) -> T:
    """Return a value of a class, or of a union of them; a tensor is of none, not even iterable."""
    if isinstance(value, Tensor) or not isinstance(value, kind):
        words = kind.__name__ if isinstance(kind, type) else kind
        raise TypeError(f"{name} must be of type {words}, got {value!r:.60}")
    return value


def file(name: str, value: str | os.PathLike[str]) -> Path:
    """Return the path of a file, which need not be there."""
    path = Path(instance(name, value, str | os.PathLike))
    if path.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {path}")
    return path
