"""Sweeps that survive: many runs, one store, on whatever executes them.

A run is a configuration, a frozen dataclass of plain values, and a function that makes a result of
it. The process that sweeps alone writes to the store; its workers return what they found. So a
sweep that was killed at any moment goes on by being started again: what is there is not run twice.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from heavytail import _check
from heavytail.experiments.records import Entry, Store, key, origin, plain

# A run: a configuration, and a path at which it may keep what it needs to be resumed.
Run = Callable[[Any, Path], Any]

Outcomes = Generator[tuple[Any, Entry], None, None]

_MACHINE = (OSError, MemoryError, torch.cuda.OutOfMemoryError)  # at fault, and not the run


@dataclass
class Report:
    """What came of a sweep.

    Attributes:
        present: results that were there before.
        done: results made now.
        failed: configuration and traceback of each run that raised, now or before.
        lost: configuration and reason of each run that a machine gave up: a process killed, a disk
            full, a device not there. Nothing was written; the next sweep runs it again.
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
        run: maps a configuration, and a path at which it may keep its state, to a result: a
            dictionary or a dataclass of what :func:`heavytail.experiments.records.plain` knows. It
            is sent to other processes: a function of a module, or a ``functools.partial`` of one.
            That training diverged is a result; an exception is a failure, kept with its traceback,
            and stops no other run.
        configs: dataclasses of plain values; equal ones are run once.
        store: where results go. Workers reach for its folder when they keep a state.
        executor: anything with the interface of ``concurrent.futures.Executor``, for example
            ``dask.distributed.Client(...).get_executor(pure=False)``. It is left open. None makes
            processes, which end when this one does, or is interrupted. One that is killed loses
            its own run and no other.
        processes: how many, >= 1; None is the number of CPUs. 0 runs all here, one after another.
        retry: run again what failed before.
        progress: show a progress bar where the output is a terminal.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.
        BlockingIOError: if another sweep is at work on the store.
    """
    wanted = list({key(config): config for config in configs}.values())
    if not isinstance(store, Store):
        raise TypeError(f"store must be a Store, got {store!r}")
    if executor is not None and processes is not None:
        raise ValueError(f"processes must be None beside an executor, got {processes}")
    if processes is not None:
        processes = _check.count("processes", processes)
    report = Report()
    if not wanted:
        return report
    with store.held():
        missing = []
        for config in wanted:
            if store.holds(config):
                store.forget(config)  # of a sweep that was killed before it could
                report.present += 1
            elif not retry and (text := store.failure(config)) is not None:
                report.failed.append((config, text))
            else:
                missing.append(config)
        outcomes = _here(run, missing, store)
        if executor is not None:
            outcomes = _on(executor, run, missing, store)
        elif processes != 0 and missing:
            outcomes = _on_processes(min(processes or _cpus(), len(missing)), run, missing, store)
        ready, quiet = len(wanted) - len(missing), None if progress else True
        bar = tqdm(total=len(wanted), initial=ready, unit="run", disable=quiet)
        with bar, closing(outcomes):
            for config, outcome in outcomes:
                _keep(config, outcome, store, report)
                bar.set_postfix(failed=len(report.failed), lost=len(report.lost))
                bar.update()
        store.arrange(wanted)
    return report


def _keep(config: Any, outcome: Entry, store: Store, report: Report) -> None:
    """Write what came of a run, and count it."""
    try:
        if "lost" not in outcome:
            store.write(config, outcome)
    except OSError as failure:
        outcome = {"lost": f"OSError: {failure}"}
    if "lost" in outcome:
        report.lost.append((config, outcome["lost"]))
    elif "traceback" in outcome:
        report.failed.append((config, outcome["traceback"]))
    else:
        report.done += 1


def _attempt(run: Run, config: Any, checkpoint: Path) -> Entry:
    """Return the entry of a run; where the run is executed.

    What raised is told in words: an exception may not survive the way between processes.
    """
    about = origin()  # of the code as it is now, not as it will be when the run has ended
    began = time.perf_counter()
    try:
        result = plain(run(config, checkpoint))
        if not isinstance(result, dict):
            raise TypeError(f"a run must return a dictionary or a dataclass, got {result!r:.80}")
    except (Exception, SystemExit) as failure:
        if isinstance(failure, _MACHINE) or "CUDA error" in str(failure):
            return {"lost": f"{type(failure).__name__}: {failure}"}
        return {"traceback": traceback.format_exc(), **about}
    return {"result": result, "seconds": round(time.perf_counter() - began, 3), **about}


def _here(run: Run, configs: Sequence[Any], store: Store) -> Outcomes:
    for config in configs:
        yield config, _attempt(run, config, store.checkpoint(config))


def _on(executor: Executor, run: Run, configs: Sequence[Any], store: Store) -> Outcomes:
    """Yield configuration and outcome of each run, as they come."""
    flying: dict[Future[Entry], Any] = {}
    try:
        for config in configs:
            future = executor.submit(_attempt, run, config, store.checkpoint(config))
            flying[future] = config
        for future in as_completed(flying):
            try:
                outcome = future.result()
            except Exception as failure:  # of the executor: runs keep theirs to themselves
                outcome = {"lost": f"{type(failure).__name__}: {failure}"}
            yield flying[future], outcome
    finally:
        for future in flying:
            future.cancel()


def _on_processes(n: int, run: Run, configs: Sequence[Any], store: Store) -> Outcomes:
    with _Processes(n) as pool:
        yield from _on(pool, run, configs, store)


class _Processes(ThreadPoolExecutor):
    """Processes that share nothing and have one run at a time each, with a thread for each.

    One that is killed takes no other run with it. They end with this process, however it ends, and
    at once if it is interrupted: what they are at goes on from its checkpoint.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n, initializer=_shield)
        self._stop, self._stopper = get_context("spawn").Pipe(duplex=False)
        self._mine = threading.local()
        self._pools: list[ProcessPoolExecutor] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        return super().submit(self._passed_on, function, *arguments, **named)

    def _passed_on(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Return what the process of this thread makes of a call."""
        pool = getattr(self._mine, "pool", None)
        if pool is None:
            pool = self._mine.pool = ProcessPoolExecutor(
                1, get_context("spawn"), initializer=_end_with_parent, initargs=(self._stop,)
            )
            self._pools.append(pool)
        try:
            return pool.submit(function, *arguments, **named).result()
        except BrokenProcessPool:
            self._mine.pool = None  # the next call has another
            raise BrokenProcessPool("its process was killed") from None

    def __exit__(self, *failure: Any) -> None:
        self.shutdown(wait=False, cancel_futures=True)
        if failure[0] is not None:
            self._stopper.close()
        self.shutdown()
        for pool in self._pools:
            pool.shutdown()
        self._stopper.close()
        self._stop.close()


def _shield() -> None:
    """Keep Ctrl-C, which reaches all of a terminal's processes, from those begun by this thread."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _end_with_parent(stop: Connection) -> None:
    """End this process when the one that made it ends, however that ends, or says so."""
    parent = parent_process()
    assert parent is not None  # called in the pool's processes only
    tqdm.set_lock(threading.RLock())  # its own, a semaphore of the system, would be left behind

    def watch() -> None:
        connection.wait([parent.sentinel, stop])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cpus() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
