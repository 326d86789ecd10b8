"""Records: runs in one file, whole after any accident, and what is said of their origin."""

import datetime
import glob
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from filelock import FileLock, Timeout

import heavytail
from heavytail.experiments._files import replaced

Entry = dict[str, Any]


def plain(value: Any, digits: int | None = None) -> Any:
    """Return a value as JSON can hold it, its numbers with so many significant digits.

    Dataclasses become dictionaries; tuples, tensors and arrays lists; nan and the infinities the
    words that ``float`` reads.

    Raises:
        TypeError: if there is anything else in it.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(part, digits) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, digits) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, float) and digits is not None:
        return float(f"{value:.{digits}g}")
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a run must hold plain values, got {value!r:.80}")


def key(config: Any) -> str:
    """Return the name of a configuration: 16 hexadecimal digits of the SHA-256 of what it says.

    Fields at their default are left out: one that a class gets later renames nothing.

    Raises:
        TypeError: if it is no dataclass of plain values.
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"a configuration must be a dataclass, got {config!r}")
    return _key(plain(config), type(config))


def _key(config: Mapping[str, Any], of: Any) -> str:
    defaults = {p.name: plain(p.default) for p in fields(of) if p.default is not MISSING}
    said = {name: part for name, part in config.items() if part != defaults.get(name, ...)}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """A record: a JSON file with a line for each run, replaced in one move when one has ended.

    An entry of its list ``"runs"`` holds configuration, result, seconds, and where and when it was
    made; of ``"failed"`` the traceback of a run that raised in place of the result. An entry that
    is damaged is named by a warning and counts as not there.

    Args:
        path: of the file, which is made when something is written.
        head: what else it says: what it is, and the command that makes it.
    """

    def __init__(self, path: str | os.PathLike[str], **head: str) -> None:
        self.path = Path(path).absolute()  # workers may live in other folders
        self._head = head
        self._known: tuple[Any, dict[str, Entry]] = None, {}

    def entries(self) -> list[Entry]:
        """Return all entries with a result, none if there is no file.

        Raises:
            ValueError: if the file is no record.
        """
        return [entry for entry in _entries(self.path) if "result" in entry]

    def holds(self, config: Any) -> bool:
        """Tell whether the result of a configuration is there."""
        return self.read(config) is not None

    def read(self, config: Any) -> Entry | None:
        """Return the entry of a configuration, None if there is no result."""
        entry = self._named(type(config)).get(key(config), {})
        return entry if "result" in entry else None

    def failure(self, config: Any) -> str | None:
        """Return the traceback of a configuration that failed, None if it did not."""
        entry = self._named(type(config)).get(key(config), {})
        return entry.get("traceback")

    def write(self, config: Any, outcome: Mapping[str, Any]) -> None:
        """Write what came of a run, a result or a traceback, in place of what was there."""
        named = {**self._named(type(config)), key(config): {"config": plain(config), **outcome}}
        self._save(type(config), named)
        self.forget(config)

    def arrange(self, configs: Sequence[Any]) -> None:
        """Put the entries of configurations of one class into their order, before all others."""
        named = self._named(type(configs[0]))
        first = {name: named[name] for name in map(key, configs) if name in named}
        if list(named)[: len(first)] != list(first):
            self._save(type(configs[0]), first | named)

    def checkpoint(self, config: Any) -> Path:
        """Return the path at which a run may keep its state; it goes when the run has ended."""
        return self._work / key(config) / "state.safetensors"

    def forget(self, config: Any) -> None:
        """Remove the state that a run kept."""
        shutil.rmtree(self.checkpoint(config).parent, ignore_errors=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store: one sweep at a time writes to it.

        Raises:
            BlockingIOError: if another sweep is at work on it.
        """
        lock: AbstractContextManager[Any]
        self._work.mkdir(parents=True, exist_ok=True)
        try:  # the system opens the lock when this process ends, however it ends
            lock = FileLock(self._work / "lock").acquire(timeout=0)
        except Timeout:
            raise BlockingIOError(f"another sweep is at work on {self.path}") from None
        except NotImplementedError:  # a drive without locks
            lock = nullcontext()
        with lock:
            for draft in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.draft"):
                draft.unlink(missing_ok=True)  # of a sweep that was killed while it wrote
            yield
            if {path.name for path in self._work.iterdir()} <= {"lock"}:
                shutil.rmtree(self._work)

    @property
    def _work(self) -> Path:
        return self.path.with_name(f"{self.path.name}.work")

    def _named(self, of: type) -> dict[str, Entry]:
        """Return all entries by the names they have as configurations of a class."""
        state = of, _stamp(self.path)
        if self._known[0] != state:
            self._known = state, {_key(e["config"], of): e for e in _entries(self.path)}
        return self._known[1]

    def _save(self, of: type, named: dict[str, Entry]) -> None:
        results = [json.dumps(e, separators=(",", ":")) for e in named.values() if "result" in e]
        failures = [json.dumps(e) for e in named.values() if "result" not in e]
        parts = [f"{json.dumps(name)}: {json.dumps(said)}" for name, said in self._head.items()]
        parts.append('"runs": [\n' + ",\n".join(results) + "\n]")
        if failures:
            parts.append('"failed": [\n' + ",\n".join(failures) + "\n]")
        with replaced(self.path) as draft:
            draft.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
        self._known = (of, _stamp(self.path)), named


def read(path: str | os.PathLike[str]) -> list[Entry]:
    """Return the entries of a record, see :meth:`Store.entries`."""
    return Store(path).entries()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is replaced, None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _entries(path: Path) -> list[Entry]:
    """Return the entries of a file, those of failures too; what is damaged is passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    try:
        content = json.loads(text)
        found = [*content["runs"], *content.get("failed", ())]
    except (ValueError, TypeError, KeyError, AttributeError):
        _, start, lines = text.partition('"runs": [\n')
        if not start:
            raise ValueError(f"{path} must be a record of runs, got {text[:60]!r}") from None
        found = [_parsed(line) for line in lines.splitlines() if line not in _AROUND]
    for entry in found:
        if not _is_whole(entry):
            warnings.warn(f"{path}: a damaged entry is passed over: {entry!r:.80}", stacklevel=4)
    return [entry for entry in found if _is_whole(entry)]


_AROUND = ("]}", "],", '"failed": [')  # lines that are no entry


def _parsed(line: str) -> Any:
    try:
        return json.loads(line.rstrip(","))
    except ValueError:
        return line


def _is_whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        return False
    return isinstance(entry.get("result"), dict) or isinstance(entry.get("traceback"), str)


def origin(*peers: str) -> Entry:
    """Return date, machine, versions, those of imported peers among them, and commit."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "heavytail": heavytail.__version__,
    }
    for peer in peers:
        versions[peer] = getattr(sys.modules.get(peer), "__version__", None)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "machine": _processor(), "versions": versions, "commit": commit()}


@cache  # the first call counts: what has been imported does not change with the files
def commit() -> str | None:
    """Return the commit of the package's working tree, "+" behind it if files have changed since.

    None if the package is not run from a clone of its own.
    """
    folder = Path(heavytail.__file__).parent

    def git(*arguments: str) -> str:
        # No lock: the index is its owner's. Within a hook of git, GIT_DIR names another folder.
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
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
