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

import torch
from tqdm import tqdm

from heavytail import _check
from heavytail.experiments.records import Entry, Store, key, origin, plain

# A run: a configuration, and a path at which it may keep what it needs to be resumed.
Run = Callable[[Any, Path], Any]

Call = tuple[Run, Any, Path]
Outcomes = Generator[tuple[Any, Entry], None, None]

_MACHINE = (OSError, MemoryError, torch.cuda.OutOfMemoryError)  # at fault, and not the run
_CONTEXT: Any = get_context("spawn")  # a process that is forked can use no GPU


@dataclass
class Report:
    """What came of a sweep."""

    present: int = 0  #: results that were there before
    done: int = 0  #: results made now
    #: configuration and traceback of each run that raised, now or before
    failed: list[tuple[Any, str]] = field(default_factory=list)
    #: configuration and reason of each run that a machine gave up: a process killed, a disk full, a
    #: device not there. Nothing was written; the next sweep runs it again
    lost: list[tuple[Any, str]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every run has a result."""
        return not self.failed and not self.lost

    def __str__(self) -> str:
        """Return the counts, and the last line of each traceback."""
        counts = f"{self.done} done, {self.present} there before"
        counts += f", {len(self.failed)} failed, {len(self.lost)} lost"
        lines = [f"{config}: {text.strip().splitlines()[-1]}" for config, text in self.failed]
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
        run: maps a configuration, and a path at which it may keep its state, to a dictionary or a
            dataclass of what :func:`heavytail.experiments.records.plain` knows. It is sent to other
            processes: a function of a module, or a ``functools.partial`` of one. What it raises is
            kept with its traceback, and stops no other run.
        configs: dataclasses of plain values; equal ones are run once.
        store: where results go. Workers reach for its folder when they keep a state.
        executor: anything with the interface of ``concurrent.futures.Executor``, for example
            ``dask.distributed.Client(...).get_executor(pure=False)``. It is left open. None makes
            processes, which end when this one does, or is interrupted.
        processes: how many, >= 1; None is the number of CPUs. 0 runs all here, one after another.
        retry: run again what failed before.
        progress: show a progress bar where the output is a terminal.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.
        BlockingIOError: if another sweep is at work on the store.
    """
    wanted = {key(config): config for config in configs}
    if not isinstance(store, Store):
        raise TypeError(f"store must be a Store, got {store!r}")
    if executor is not None and processes is not None:
        raise ValueError(f"processes must be None beside an executor, got {processes}")
    if processes is not None:
        processes = _check.count("processes", processes)
    report, missing = Report(), []
    with store.held():
        for config, entry in zip(wanted.values(), store.find(wanted.values()), strict=True):
            if "result" in entry:
                store.forget(config)  # of a sweep that was killed before it could
                report.present += 1
            elif "traceback" in entry and not retry:
                report.failed.append((config, entry["traceback"]))
            else:
                missing.append(config)
        calls = [(run, config, store.checkpoint(config)) for config in missing]
        if executor is not None:
            outcomes = _on_executor(executor, calls)
        elif processes == 0:
            outcomes = ((call[1], _attempt(*call)) for call in calls)
        else:
            outcomes = _on_processes(processes or _cpus(), calls)
        ready, quiet = len(wanted) - len(missing), None if progress else True
        bar = tqdm(total=len(wanted), initial=ready, unit="run", disable=quiet)
        with bar, closing(outcomes):
            for config, outcome in outcomes:
                try:
                    if "lost" not in outcome:
                        store.write(config, outcome, wanted)
                except OSError as failure:
                    outcome = _lost(failure)
                if "lost" in outcome:
                    report.lost.append((config, outcome["lost"]))
                elif "traceback" in outcome:
                    report.failed.append((config, outcome["traceback"]))
                else:
                    report.done += 1
                bar.set_postfix(failed=len(report.failed), lost=len(report.lost))
                bar.update()
    return report


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
            return _lost(failure)
        return {"traceback": traceback.format_exc(), **about}
    return {"result": result, "seconds": round(time.perf_counter() - began, 3), **about}


def _lost(failure: BaseException) -> Entry:
    return {"lost": f"{type(failure).__name__}: {failure}"}


def _on_executor(executor: Executor, calls: Sequence[Call]) -> Outcomes:
    flying = {executor.submit(_attempt, *call): call for call in calls}
    try:
        for future in as_completed(flying):
            try:
                outcome = future.result()
            except Exception as failure:  # of the executor: runs keep theirs to themselves
                outcome = _lost(failure)
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

    def hand_out(pipe: Connection, process: BaseProcess) -> None:
        if waiting:
            busy[pipe] = process, waiting.popleft()
            with suppress(OSError):  # of one that was killed: its pipe has ended too
                pipe.send(busy[pipe][1])

    try:
        while waiting or busy:
            while waiting and len(busy) < n:
                hand_out(*_begun())
            ready: list[Any] = connection.wait([*busy])
            for pipe in ready:
                process, (_, config, _) = busy.pop(pipe)
                try:
                    outcome = pipe.recv()
                    hand_out(pipe, process)
                except (EOFError, OSError):
                    process.join()
                    outcome = {"lost": f"its process ended with exit code {process.exitcode}"}
                yield config, outcome
    finally:  # the others end with their pipes
        for process, _ in busy.values():
            process.kill()
            process.join()


def _begun() -> tuple[Connection, BaseProcess]:
    """Return a process that attempts what comes through a pipe, and its pipe.

    Ctrl-C, which reaches all processes of a terminal, is kept from it.
    """
    pipe, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_work, args=(theirs,))
    masked = getattr(signal, "pthread_sigmask", lambda *_: ())  # not on Windows
    resource_tracker.ensure_running()  # here: it lets signals through when it begins
    before = masked(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    finally:
        masked(signal.SIG_SETMASK, before)
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


def _cpus() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
