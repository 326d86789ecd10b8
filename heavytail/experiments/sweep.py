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
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from heavytail import _check
from heavytail.experiments.records import Entry, Store, key, origin, plain

Run = Callable[[Any, Path], Any]  # of a configuration, and a path at which it may keep its state
Call = tuple[Run, Any, Path]
Outcomes = Generator[tuple[Any, Entry | str], None, None]  # an entry, or why there is none

_CONTEXT: Any = get_context("spawn")  # a process that is forked can use no GPU
_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Report:
    """What came of a sweep."""

    present: int  #: results that were there before
    done: int = 0  #: results made now
    #: configuration of each run that has no result, and why: a traceback, or how its process ended
    failed: list[tuple[Any, str]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every run has a result."""
        return not self.failed

    def __str__(self) -> str:
        """Return the counts, the last line of each failure, and all of the last one."""
        lines = [f"{self.done} done, {self.present} there before, {len(self.failed)} failed"]
        lines += [f"{config}: {text.strip().splitlines()[-1]}" for config, text in self.failed]
        return "\n".join([*lines, *(text for _, text in self.failed[-1:])])


def sweep(
    run: Run,
    configs: Iterable[Any],
    store: Store,
    *,
    executor: Executor | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Report:
    """Run what the store does not hold yet.

    Args:
        run: maps a configuration, and a path at which it may keep its state, to a dictionary or a
            dataclass of what :func:`heavytail.experiments.records.plain` knows. It is sent to other
            processes: a function of a module, or a ``functools.partial`` of one. If it raises, that
            is reported, stops no other run and is no result: the next sweep runs it again.
        configs: dataclasses of plain values; equal ones are run once.
        store: where results go. Workers reach for its folder when they keep a state.
        executor: a ``concurrent.futures.Executor``, for example
            ``dask.distributed.Client(...).get_executor(pure=False)``. It is left open. None makes
            processes, which end when this one does, or is interrupted.
        processes: how many, >= 1; None is the number of CPUs. 0 runs all here, one after another.
        progress: show a progress bar where the output is a terminal.

    Raises a TypeError or a ValueError on an argument outside the sets above, and a BlockingIOError
    if another sweep is at work on the store.
    """
    _check.instance("run", run, Callable)
    wanted = {key(config): config for config in _check.instance("configs", configs, Iterable)}
    _check.instance("store", store, Store)
    _check.instance("executor", executor, Executor | None)
    _check.flag("progress", progress)
    if executor is not None and processes is not None:
        raise ValueError(f"processes must be None beside an executor, got {processes}")
    processes = _check.count("processes", _CPUS if processes is None else processes)
    with store.held():
        missing = []
        for config, entry in zip(wanted.values(), store.find(wanted.values()), strict=True):
            if entry is None:
                missing.append(config)
            else:
                store.forget(config)  # of a sweep that was killed before it could
        calls = [(run, config, store.checkpoint(config)) for config in missing]
        if executor is not None:
            outcomes = _on_executor(executor, calls)
        elif processes == 0:
            outcomes = ((call[1], _attempt(*call)) for call in calls)
        else:
            outcomes = _on_processes(processes, calls)
        report, quiet = Report(len(wanted) - len(missing)), None if progress else True
        bar = tqdm(total=len(wanted), initial=report.present, unit="run", disable=quiet)
        with bar, closing(outcomes):
            for config, outcome in outcomes:
                try:
                    if not isinstance(outcome, str):
                        store.write(config, outcome, wanted)
                        report.done += 1
                except OSError:  # of a disk that is full
                    outcome = traceback.format_exc()
                if isinstance(outcome, str):
                    report.failed.append((config, outcome))
                bar.set_postfix(failed=len(report.failed))
                bar.update()
    return report


def _attempt(run: Run, config: Any, checkpoint: Path) -> Entry | str:
    """Return the entry of a run, or the traceback of what it raised; where the run is executed."""
    about = origin()  # of the code as it is now, not as it will be when the run has ended
    began = time.perf_counter()
    try:
        result = plain(run(config, checkpoint))
        if not isinstance(result, dict):
            raise TypeError(f"a run must return a dictionary or a dataclass, got {result!r:.80}")
    except (Exception, SystemExit):
        return traceback.format_exc()  # in words: itself, it may not survive the way back
    return {"result": result, "seconds": round(time.perf_counter() - began, 3), **about}


def _on_executor(executor: Executor, calls: Sequence[Call]) -> Outcomes:
    flying = {executor.submit(_attempt, *call): call for call in calls}
    try:
        for future in as_completed(flying):
            try:
                outcome = future.result()
            except Exception:  # of the executor: runs keep theirs to themselves
                outcome = traceback.format_exc()
            yield flying[future][1], outcome
    finally:
        for future in flying:
            future.cancel()


def _on_processes(n: int, calls: Iterable[Call]) -> Outcomes:
    """Yield what comes of n processes, which have a pipe and one run at a time each.

    One that is killed takes no other run with it. They end with this process, however it ends, and
    at once if it is interrupted: what they are at goes on from its checkpoint.
    """
    waiting = deque(calls)
    busy: dict[Connection, tuple[BaseProcess, Call]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < n:
                pipe, process = idle.pop() if idle else _begun()
                busy[pipe] = process, waiting.popleft()
                with suppress(OSError):  # of one that was killed: its pipe has ended too
                    pipe.send(busy[pipe][1])
            ready: list[Any] = connection.wait([*busy])
            for pipe in ready:
                process, (_, config, _) = busy.pop(pipe)
                try:
                    outcome = pipe.recv()
                    if not isinstance(outcome, str):  # else its GPU may be lost to it
                        idle.append((pipe, process))
                except (EOFError, OSError):
                    process.join()
                    outcome = f"its process ended with exit code {process.exitcode}"
                yield config, outcome
    finally:  # the idle end with their pipes
        for process, _ in busy.values():
            process.kill()
            process.join()


def _begun() -> tuple[Connection, BaseProcess]:
    """Return a process that attempts what comes through a pipe, and its pipe.

    Ctrl-C, which reaches all processes of a terminal, is kept from it.
    """
    pipe, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_work, args=(theirs,))
    resource_tracker.ensure_running()  # here: it lets signals through when it begins
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return pipe, process


def _work(pipe: Connection) -> None:
    parent = parent_process()
    assert parent is not None
    tqdm.set_lock(threading.RLock())  # its own, a semaphore of the system, would be left behind

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with suppress(EOFError, OSError):  # where the other end is closed
        while True:
            pipe.send(_attempt(*pipe.recv()))
