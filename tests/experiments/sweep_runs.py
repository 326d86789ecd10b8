"""What the tests run in other processes: these import it by its name."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from heavytail.experiments import sweep as engine
from heavytail.experiments.records import Store
from heavytail.experiments.results import Config

# Processes that begin with torch imported, and end without a trace of the tests' own.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.experiments.sweep_runs"])


@dataclass(frozen=True)
class Trial:
    """A configuration: its number is its seed."""

    number: int
    seconds: float = 0.0


def note(log: Path, trial: Trial) -> None:
    """Leave a line that this process has begun a run."""
    with log.open("a") as file:  # a short line is appended whole
        file.write(f"{trial.number} {os.getpid()}\n")


def noted(log: Path) -> list[tuple[int, int]]:
    """Return number and process of each run that was begun."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(number), int(process)) for number, process in map(str.split, lines)]


def draw(trial: Trial, checkpoint: Path, *, log: Path) -> dict[str, object]:
    """Take some time, write a checkpoint meanwhile, and return some numbers."""
    note(log, trial)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text("half way")
    time.sleep(trial.seconds)
    generator = torch.Generator().manual_seed(trial.number)
    return {"number": trial.number, "draws": torch.rand(50, generator=generator)}


def draw_or_be_killed(trial: Trial, checkpoint: Path, *, log: Path) -> dict[str, object]:
    """The same, but the first of number 5 kills the process that runs it."""
    if trial.number == 5 and (5 not in [number for number, _ in noted(log)]):
        note(log, trial)
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(trial, checkpoint, log=log)


def draw_unless_spoilt(trial: Trial, checkpoint: Path, *, log: Path) -> dict[str, object]:
    """The same, but number 2 fails, and all that its process runs later."""
    if trial.number == 2:
        os.environ["SPOILT"] = "yes"
    if "SPOILT" in os.environ:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return draw(trial, checkpoint, log=log)


def draw_on_a_cluster(config: Config, checkpoint: Path, **_: object) -> dict[str, object]:
    """The same for the command line, which sends configurations of networks."""
    log = checkpoint.parents[2] / "log"
    return draw_or_be_killed(Trial(config.seed, 0.05), checkpoint, log=log)


def drive(
    run: partial[dict[str, object]], trials: list[Trial], path: Path, processes: int, how: str
) -> None:
    """Sweep, in a process group of its own; end with 7 if interrupted.

    Processes that are forked begin at once; those that are spawned, as they are elsewhere, do not.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    engine._CONTEXT = get_context(how)
    try:
        engine.sweep(run, trials, Store(path), processes=processes, progress=False)
    except KeyboardInterrupt:
        sys.exit(7)


def wait_for(condition, seconds: float = 120.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} seconds: {condition}")
        time.sleep(0.01)


def has_ended(process: int) -> bool:
    """Tell whether a process is no more, or only its number is kept for a parent to ask for."""
    words = ["ps", "-o", "stat=", "-p", str(process)]
    return subprocess.run(words, capture_output=True, text=True).stdout[:1] in ("", "Z", "X")
