"""What the benchmarks share: interleaved rounds, and the command line."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from heavytail import _check
from heavytail.experiments._files import replaced
from heavytail.experiments.records import origin


def fastest(
    runs: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = False
) -> dict[str, float]:
    """Return the seconds of the fastest call of each candidate.

    Args:
        runs: the candidates by name; all are called in turn in each round.
        rounds: how often, >= 1.
        warm_up: whether a round that does not count comes first.
    """
    return least({name: partial(_seconds, run) for name, run in runs.items()}, rounds, warm_up)


def least(
    measures: Mapping[str, Callable[[], float]], rounds: int, warm_up: bool = False
) -> dict[str, float]:
    """Return the least of what each candidate measures itself; arguments as for `fastest`."""
    rounds = _check.count("rounds", rounds, 1)
    best = dict.fromkeys(measures, math.inf)
    for round_ in range(rounds + warm_up):
        for name, measure in measures.items():
            found = measure()
            if round_ >= warm_up:
                best[name] = min(best[name], found)
    return best


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def command_line(
    record: Callable[[int], dict[str, Any]],
    about: str | None,
    *,
    rounds: int,
    peers: tuple[str, ...] = (),
) -> None:
    """Measure; print the figures with command, date, machine and versions, or write them.

    Args:
        record: returns the figures, of so many rounds.
        about: what is measured, for the help.
        rounds: unless the command says otherwise.
        peers: packages whose versions matter, imported when the figures are there.
    """
    program = f"python -m benchmarks.{Path(sys.argv[0]).stem}"
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=program, description=about, formatter_class=form)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--rounds", type=int, metavar="N", default=rounds, help=f">= 1; {rounds}, if not given"
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be >= 1, got {options.rounds}")
    command = program
    if options.record is not None:
        command += f" --record {options.record}"
    if options.rounds != rounds:
        command += f" --rounds {options.rounds}"
    figures = {**record(options.rounds), "command": command, **origin(*peers)}
    text = json.dumps(figures, indent=2)
    if options.record is None:
        print(text)
        return
    with replaced(options.record) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
