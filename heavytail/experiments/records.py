"""Records: the runs of a table in one file, small enough to be kept beside the book."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heavytail.experiments._files import write_text

_LONG = ("curve", "layers")  # parts of a result that a brief record leaves out


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the entries of a record, none if there is no file.

    Each has the configuration and the result of a run, as a store has them
    (:class:`heavytail.experiments.sweep.Store`).

    Raises:
        ValueError: if the file is no record.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        entries = [dict(entry) for entry in json.loads(text)["runs"]]
        parts = [entry[part] for entry in entries for part in ("config", "result")]
    except (ValueError, KeyError, TypeError) as failure:
        raise ValueError(f"{path} must be a record of runs, got {failure!r}") from failure
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{path} must be a record of runs, got {text[:60]!r}")
    return entries


def write(
    path: str | os.PathLike[str],
    head: Mapping[str, Any],
    entries: Iterable[Mapping[str, Any]],
    *,
    brief: bool = False,
) -> None:
    """Write a record in one move, a line for each run.

    Args:
        path: of the file.
        head: what the record is, and the command that makes it.
        entries: of the runs.
        brief: leave out what is told of each fraction removed and of each layer.
    """
    found = [_brief(entry) if brief else entry for entry in entries]
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in found)
    write_text(Path(path), f'{json.dumps(head)[:-1]},\n"runs": [\n{lines}\n]}}\n')


def _brief(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "result": {**entry["result"], **dict.fromkeys(_LONG)}}
