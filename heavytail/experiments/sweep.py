"""Sweeps that survive: many runs, a file each, on whatever runs them.

A *store* is a folder. A run is a configuration, a frozen dataclass of plain values; its result is
a file named by the hash of the configuration, and it is there whole or not at all. So a sweep that
was killed goes on by being started again: what is there is not run twice. Several processes, on
one machine or on many that share the folder, may work on one store at a time: who runs a
configuration holds its lock, which the system opens when the process ends, however it ends.

What executes the runs is not ours: any executor with the interface of ``concurrent.futures``.
"""

import hashlib
import json
import os
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, is_dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from tqdm import tqdm

from heavytail import _check
from heavytail.experiments._files import drafts, write_text
from heavytail.experiments.provenance import commit, origin

_PAUSE = 0.05  # seconds between two looks at the runs
_ENTRIES = "[0-9a-f]" * 16 + ".json"  # the names of a store's files


class Future(Protocol):
    """What is asked of a run that was handed over."""

    def done(self) -> bool:
        """Tell whether it has ended."""

    def result(self) -> Any:
        """Return its value, or raise what it raised."""


class Executor(Protocol):
    """What is asked of an executor: ``submit``, as in ``concurrent.futures``."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Hand a call over, and return its future."""


# A run: a configuration and a path at which it may keep what it needs to be resumed.
Run = Callable[[Any, Path], Mapping[str, Any]]


def key(config: Any) -> str:
    """Return the name of a configuration: 16 hexadecimal digits of the SHA-256 of its JSON.

    Args:
        config: a dataclass of plain values.

    Raises:
        TypeError, ValueError: if it is another thing, or holds what JSON does not know.
    """
    return _key(_plain(config))


def _key(plain: Mapping[str, Any]) -> str:
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _plain(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON has it: tuples are lists there."""
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"a configuration must be a dataclass, got {config!r}")
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config), allow_nan=False))
    return plain


class Store:
    """A folder of results.

    ``KEY.json`` holds configuration, result, seconds, and where and when it was made;
    ``failed/KEY.json`` the traceback of a run that raised. ``work`` holds locks and checkpoints.

    Args:
        folder: where; it is made when something is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def holds(self, config: Any) -> bool:
        """Tell whether the result of a configuration is there."""
        return self._file(config).exists()

    def read(self, config: Any) -> dict[str, Any] | None:
        """Return the entry of a configuration, None if there is none.

        Raises:
            ValueError: if the file is damaged, or of another configuration.
        """
        return _read(self._file(config), _plain(config))

    def failure(self, config: Any) -> str | None:
        """Return the traceback of a configuration that failed, None if it did not."""
        entry = _read(self._failed(config), _plain(config), "traceback")
        return None if entry is None else str(entry["traceback"])

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield all entries, in the order of their names; other files are left alone."""
        for path in sorted(self.folder.glob(_ENTRIES)):
            entry = _read(path)
            if entry is not None:  # it may have been removed meanwhile
                yield entry

    def write(self, config: Any, result: Mapping[str, Any], seconds: float) -> None:
        """Write the result of a run."""
        entry = {"config": _plain(config), "result": dict(result), "seconds": round(seconds, 3)}
        write_text(self._file(config), json.dumps({**entry, **origin()}, allow_nan=False) + "\n")
        self._failed(config).unlink(missing_ok=True)
        self.checkpoint(config).unlink(missing_ok=True)

    def write_failure(self, config: Any, text: str) -> None:
        """Write the traceback of a run."""
        entry = {"config": _plain(config), "traceback": text}
        write_text(self._failed(config), json.dumps({**entry, **origin()}) + "\n")

    def checkpoint(self, config: Any) -> Path:
        """Return the path at which a run may keep its state; it goes when the result is there."""
        return self.folder / "work" / f"{key(config)}.safetensors"

    def tidy(self, config: Any) -> None:
        """Remove the drafts that a killed run left; for who holds the lock."""
        for path in (self._file(config), self._failed(config), self.checkpoint(config)):
            for draft in drafts(path):
                draft.unlink(missing_ok=True)

    @contextmanager
    def lock(self, config: Any) -> Iterator[bool]:
        """Hold the lock of a configuration, or yield False where another does."""
        path = self.folder / "work" / f"{key(config)}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _file(self, config: Any) -> Path:
        return self.folder / f"{key(config)}.json"

    def _failed(self, config: Any) -> Path:
        return self.folder / "failed" / f"{key(config)}.json"


def _read(
    path: Path, plain: Mapping[str, Any] | None = None, content: str = "result"
) -> dict[str, Any] | None:
    """Return what a file of the store holds, None if it is not there."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        read = json.loads(text, parse_constant=_no_constant)
    except ValueError as failure:
        raise ValueError(f"{path} must be an entry of a store, got {text[:60]!r}") from failure
    form = dict if content == "result" else str
    if (
        not isinstance(read, dict)
        or not isinstance(found := read.get("config"), dict)
        or not isinstance(read.get(content), form)
    ):
        raise ValueError(f"{path} must hold config and {content} of a run, got {read!r:.200}")
    if _key(found) != path.stem or (plain is not None and found != plain):
        raise ValueError(f"{path} must be named by its own configuration, got {found}")
    return read


def _no_constant(name: str) -> None:
    raise ValueError(f"no entry holds {name}")


@dataclass
class Report:
    """What came of a sweep.

    Attributes:
        present: results that were there before.
        done: results made now, by this sweep or by another on the same store meanwhile.
        failed: configuration and traceback of each run that raised, now or before.
        lost: configuration and reason of each run whose executor gave up; nothing was written.
    """

    present: int = 0
    done: int = 0
    failed: list[tuple[Any, str]] = field(default_factory=list)
    lost: list[tuple[Any, str]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every run has a result."""
        return not self.failed and not self.lost

    def __str__(self) -> str:
        """Return the counts, and the last line of each traceback."""
        counts = f"{self.done} done, {self.present} there before"
        counts += f", {len(self.failed)} failed, {len(self.lost)} lost"
        ends = [(config, text.strip().rpartition("\n")[2]) for config, text in self.failed]
        lines = [f"{config}: {end}" for config, end in ends]
        lines += [f"{config}: lost, {reason}" for config, reason in self.lost]
        return "\n".join([counts, *lines])


def sweep(
    run: Run,
    configs: Iterable[Any],
    store: Store,
    *,
    executor: Executor | None = None,
    processes: int | None = None,
    retry: bool = False,
    progress: bool = True,
) -> Report:
    """Run what the store does not hold yet.

    Args:
        run: maps a configuration, and a path at which it may keep its state, to a result that
            JSON can hold. It is sent to other processes: a function of a module, or a
            ``functools.partial`` of one. That training diverged is a result; an exception is a
            failure, kept with its traceback, and stops no other run.
        configs: dataclasses of plain values; equal ones are run once.
        store: where results go. Whoever executes the runs must reach its folder.
        executor: anything with the ``submit`` of ``concurrent.futures.Executor``, for example
            ``dask.distributed.Client(...).get_executor()``. It is left open. None makes a pool of
            processes, which end when this one does, or is interrupted.
        processes: size of that pool, >= 1; None is the number of CPUs. 0 runs all here, one
            after another.
        retry: run again what failed before.
        progress: show a progress bar where the output is a terminal.

    Returns:
        The report. A run that another process holds is waited for, and taken over if that one
        ends without a result.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.
    """
    wanted = list({key(config): config for config in configs}.values())
    if not isinstance(store, Store):
        raise TypeError(f"store must be a Store, got {store!r}")
    if executor is not None and processes is not None:
        raise ValueError(f"processes must be None beside an executor, got {processes}")
    if processes is not None:
        processes = _check.count("processes", processes)
    report, missing = Report(), []
    for config in wanted:
        if store.read(config) is not None:  # reads it: a damaged file is found now
            store.checkpoint(config).unlink(missing_ok=True)  # of one killed before it could
            report.present += 1
        elif not retry and (text := store.failure(config)) is not None:
            report.failed.append((config, text))
        else:
            missing.append(config)
    pool: AbstractContextManager[Executor | None]
    if executor is not None or processes == 0 or not missing:
        pool = nullcontext(executor)
    else:
        pool = _pool(min(processes or _cpus(), len(missing)))
    ready = len(wanted) - len(missing)
    quiet = None if progress else True
    with (
        tqdm(total=len(wanted), initial=ready, unit="run", disable=quiet) as bar,
        pool as engine,
    ):
        _drive(run, missing, store, engine, retry, report, bar)
    return report


def _drive(
    run: Run,
    configs: Sequence[Any],
    store: Store,
    engine: Executor | None,
    retry: bool,
    report: Report,
    bar: Any,
) -> None:
    """Hand the runs over and take note of what comes back, until all have ended."""
    waiting, flying = list(configs), dict[int, tuple[Future, Any]]()
    elsewhere: list[Any] = []
    folder = os.path.abspath(store.folder)  # workers may live in other folders
    try:
        while waiting or flying or elsewhere:
            for config in waiting:
                call = uuid.uuid4().hex
                try:
                    if engine is None:
                        outcome = _work(run, config, folder, retry, call)
                    else:
                        future = engine.submit(_work, run, config, folder, retry, call)
                except Exception as failure:  # a broken pool takes nothing more
                    _lose(failure, config, report, bar)
                    continue
                if engine is None:
                    _note(outcome, config, store, report, elsewhere, bar)
                else:
                    flying[id(future)] = (future, config)
            waiting = []
            ended = [(name, *pair) for name, pair in flying.items() if pair[0].done()]
            for name, future, config in ended:
                del flying[name]
                try:
                    outcome = future.result()
                except Exception as failure:  # of the executor: runs keep theirs to themselves
                    _lose(failure, config, report, bar)
                else:
                    _note(outcome, config, store, report, elsewhere, bar)
            if not ended:
                time.sleep(_PAUSE)
                held, elsewhere = elsewhere, []
                for config in held:
                    (waiting if _is_free(store, config) else elsewhere).append(config)
    finally:
        for future, _ in flying.values():
            getattr(future, "cancel", lambda: None)()


def _note(
    outcome: str, config: Any, store: Store, report: Report, elsewhere: list[Any], bar: Any
) -> None:
    """Count what came of a run."""
    if outcome == "busy":
        elsewhere.append(config)
        return
    if outcome == "failed":
        report.failed.append((config, store.failure(config) or "no traceback was kept"))
        bar.set_postfix(failed=len(report.failed))
    else:
        report.done += 1
    bar.update()


def _lose(failure: Exception, config: Any, report: Report, bar: Any) -> None:
    """Count a run that its executor gave up."""
    report.lost.append((config, f"{type(failure).__name__}: {failure}"))
    bar.update()


def _is_free(store: Store, config: Any) -> bool:
    """Tell whether nobody holds the run any more."""
    if store.holds(config):
        return True
    with store.lock(config) as mine:
        return mine


def _work(run: Run, config: Any, folder: str, retry: bool, call: str) -> str:
    """Run a configuration unless it is done, or being done; where the run is executed.

    ``call`` is another each time: Dask takes equal calls for one, and remembers what came of it.
    """
    del call
    commit()  # of the code as it is now, not as it will be when the run has ended
    store = Store(folder)
    with store.lock(config) as mine:
        if not mine:
            return "busy"
        if store.holds(config):
            return "done"
        if not retry and store.failure(config) is not None:
            return "failed"
        store.tidy(config)
        checkpoint = store.checkpoint(config)
        before = _stamp(checkpoint)
        start = time.perf_counter()
        try:
            result = run(config, checkpoint)
            store.write(config, result, time.perf_counter() - start)
        except (Exception, SystemExit):
            store.write_failure(config, traceback.format_exc())
            if before is not None and _stamp(checkpoint) == before:
                checkpoint.unlink()  # it led nowhere, and may be what is wrong
            return "failed"
    return "done"


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is replaced, None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Make a pool whose processes share nothing with this one, and end with it.

    They end at once if this one is interrupted: what they are at goes on from its checkpoint.
    """
    context = get_context("spawn")
    stop, stopper = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_end_with_parent, initargs=(stop,)
    )
    with stop, stopper, pool:
        try:
            yield pool
        except BaseException:
            stopper.close()
            raise


def _end_with_parent(stop: Connection) -> None:
    """End this process when the one that made it ends, however that ends, or says so."""
    parent = parent_process()
    assert parent is not None  # called in the pool's processes only
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    tqdm.set_lock(threading.RLock())  # its own, a semaphore of the system, would be left behind

    def watch() -> None:
        connection.wait([parent.sentinel, stop])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cpus() -> int:
    """Return the number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
