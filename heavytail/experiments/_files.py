"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heavytail import _check


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield the path of a draft, which takes the place of ``path`` at the end, in one move.

    What stops in between leaves ``path`` as it was. The draft's name follows from the path: what a
    killed writer left is overwritten by the next one, and two must not write at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        with draft.open("r+b") as file:  # on the disk before it takes the name
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def file(name: str, value: str | os.PathLike[str]) -> Path:
    """Return the path of a file, which need not be there."""
    path = Path(_check.instance(name, value, str | os.PathLike))
    if path.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {path}")
    return path
