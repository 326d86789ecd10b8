"""Records: runs in one file, whole after any accident, and what is said of their origin."""

import datetime
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

import heavytail
from heavytail import _check
from heavytail.experiments._files import file, replaced

Entry = dict[str, Any]


def plain(value: Any, digits: int | None = None) -> Any:
    """Return a value as JSON can hold it, its numbers with 1 to 17 significant digits, or all.

    Dataclasses become dictionaries; tuples, tensors and arrays lists; nan and the infinities the
    words that ``float`` reads. Anything else is a TypeError.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        with suppress(NotImplementedError):  # of a tensor on the device meta
            value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(part, digits) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, digits) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, float) and digits is not None:
        return float(f"{value:.{_check.count('digits', digits, 1, 17)}g}")
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a run must hold plain values, got {value!r:.80}")


def key(config: Any) -> str:
    """Return the name of a configuration: 16 hexadecimal digits of the SHA-256 of what it says.

    Fields at their default are left out: one that a class gets later renames nothing. What is no
    dataclass of plain values is a TypeError.
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"config must be a dataclass, got {config!r:.60}")
    return _key(plain(config), type(config))


def _key(config: Mapping[str, Any], of: Any) -> str:
    defaults = {p.name: plain(p.default) for p in fields(of) if p.default is not MISSING}
    said = {name: part for name, part in config.items() if part != defaults.get(name, ...)}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """A record: a JSON file with a line for each run, replaced in one move when one has ended.

    An entry of its list ``"runs"`` holds configuration, result, seconds, and where and when it was
    made. ``head`` is what else the file says.
    """

    def __init__(self, path: str | os.PathLike[str], **head: str) -> None:
        self.path = file("path", path).absolute()  # workers may live in other folders
        self._head = head
        self._work = self.path.with_name(f"{self.path.name}.work")

    def find(self, configs: Iterable[Any]) -> list[Entry | None]:
        """Return the entry of each configuration, None where there is none."""
        configs = [*_check.instance("configs", configs, Iterable)]
        names, entries = [key(config) for config in configs], read(self.path)
        named = {_key(e["config"], of): e for of in set(map(type, configs)) for e in entries}
        return [named.get(name) for name in names]

    def write(self, config: Any, entry: Entry, order: Iterable[str] = ()) -> None:
        """Write what came of a run, a dictionary ``"result"`` in it, in place of what was there.

        Entries of the names (:func:`key`) in ``order`` come first, in this order.
        """
        name = key(config)
        given = _check.instance("order", order, Iterable)
        order = [_check.instance("each of order", each, str) for each in given]
        entry = plain({"config": config, **_check.instance("entry", entry, Mapping)})
        _check.instance("the result of entry", entry.get("result"), dict)
        named = {_key(e["config"], type(config)): e for e in read(self.path)} | {name: entry}
        names = [name for name in dict.fromkeys((*order, *named)) if name in named]
        lines = [json.dumps(named[name], separators=(",", ":")) for name in names]
        parts = [f"{json.dumps(name)}: {json.dumps(said)}" for name, said in self._head.items()]
        parts.append('"runs": [\n' + ",\n".join(lines) + "\n]")
        with replaced(self.path) as draft:
            draft.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
        self.forget(config)

    def checkpoint(self, config: Any) -> Path:
        """Return the path at which a run may keep its state; it goes when the run has ended."""
        return self._work / key(config) / "state"

    def forget(self, config: Any) -> None:
        """Remove the state that a run kept."""
        shutil.rmtree(self.checkpoint(config).parent, ignore_errors=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store: one sweep at a time writes to it, another is a BlockingIOError."""
        self._work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._work / "lock")  # the system opens it when its holder ends
        try:
            with suppress(NotImplementedError):  # of a drive without locks
                lock.acquire(timeout=0)
            yield
            if {path.name for path in self._work.iterdir()} <= {"lock"}:
                shutil.rmtree(self._work)
        except Timeout:
            raise BlockingIOError(f"another sweep is at work on {self.path}") from None
        finally:
            lock.release()


def read(path: str | os.PathLike[str], decode: Callable[[Entry], Any] = dict) -> list[Any]:
    """Return what ``decode`` makes of each entry of a record; of no file, nothing.

    One that is damaged, or that ``decode`` refuses, is named by a warning and passed over. A file
    that is no record is a ValueError.
    """
    _check.instance("decode", decode, Callable)
    try:
        text = file("path", path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    try:
        found = [*json.loads(text)["runs"]]
    except (ValueError, TypeError, KeyError):  # line by line, then
        _, start, lines = text.partition('"runs": [\n')
        if not start:
            raise ValueError(f"{path} must be a record of runs, got {text[:60]!r}") from None
        found = []
        for line in lines.rstrip().removesuffix("]}").splitlines():
            with suppress(ValueError):  # else the line stands for itself
                line = json.loads(line.rstrip(","))
            found.append(line)
    whole = []
    for entry in found:
        try:
            match entry:
                case {"config": dict(), "result": dict()}:
                    whole.append(decode(entry))
                case _:
                    raise TypeError("no configuration and result")
        except Exception as failure:  # said once, however often it is read
            text = f"{path}: a damaged entry is passed over: {entry!r:.80} ({failure!r:.90})"
            warnings.warn(text, stacklevel=1)
    return whole


def origin(*peers: str) -> Entry:
    """Return date, machine, versions, those of imported peers among them, and commit."""
    names = ("torch", "numpy", "scipy", "heavytail", *peers)
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    versions = {"python": platform.python_version(), **versions}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "machine": _processor(), "versions": versions, "commit": commit()}


@cache  # the first call counts: what has been imported does not change with the files
def commit() -> str | None:
    """Return the commit of the package's working tree, "+" behind it if files have changed since.

    None if the package is not run from a clone of its own.
    """
    folder = str(Path(heavytail.__file__).parent)
    # Within a hook of git, GIT_DIR names another folder.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        # No lock: the index is its owner's.
        command = ["git", "--no-optional-locks", "-C", folder, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not that of some folder above
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def _processor() -> str:
    """Return the processor's name and the vector instructions that torch uses."""
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in names if "model name" in line), "unknown")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"
