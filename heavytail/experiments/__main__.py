"""The experiments of the book from the command line.

Runs belong to tables, and their results to a store, a folder with a file for each. What is there is
not run again.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from heavytail import _check
from heavytail.experiments import records, results, runs, scales, summary, tables
from heavytail.experiments.data import load
from heavytail.experiments.results import Config
from heavytail.experiments.sweep import Executor, Report, Store, key, sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0; 1 where a run failed or was lost, 2 where data or a record are missing, 130 if the
        command was interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        result: int = options.command(options)
    except FileNotFoundError as missing:
        print(missing, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return result


_COMMANDS = {
    "list": "the tables, how many runs each holds, and how many of them are there",
    "cost": "how long the missing runs of a table will take here, from some steps of each kind",
    "run": "run what is missing of a table; start it again after a break, and it goes on",
    "resume": "the same, and once more what failed",
    "tabulate": "show a table, as far as its runs are there",
    "plan": "choose the scales of the noise anew",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m heavytail.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def command(name: str, function: Any, *, table: bool = True) -> argparse.ArgumentParser:
        about = _COMMANDS[name]
        part = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        part.set_defaults(command=function)
        if table:
            part.add_argument(
                "table",
                metavar="TABLE",
                choices=tables.TABLES,
                help=f"one of {', '.join(tables.TABLES)}",
            )
            part.add_argument(
                "--record",
                type=Path,
                metavar="FILE",
                help="a file that holds all runs of the table so far; its runs count as there",
            )
        elif name == "list":
            part.add_argument(
                "--records",
                type=Path,
                metavar="FOLDER",
                help="with records named TABLE.json; their runs count as there",
            )
        if name != "plan":
            part.add_argument(
                "--scale",
                choices=tables.SIZES,
                default="quick",
                help="quick, the default: some minutes on a laptop; paper: full size",
            )
            part.add_argument(
                "--store",
                type=Path,
                metavar="FOLDER",
                default=Path("results"),
                help="where the results are; results, if not given",
            )
        return part

    command("list", _list, table=False)
    for name, function in (("cost", _cost), ("run", _run), ("resume", _run)):
        part = command(name, function)
        part.add_argument(
            "--device", default="auto", help="auto, the default: a GPU if there is one; cpu, cuda:1"
        )
        part.add_argument(
            "--threads",
            type=_at_least(1),
            metavar="N",
            default=1,
            help="of torch, in each process; 1, if not given",
        )
        if name == "cost":
            continue
        part.set_defaults(retry=name == "resume")
        where = part.add_mutually_exclusive_group()
        where.add_argument(
            "--processes",
            type=_at_least(0),
            metavar="N",
            help="how many runs at a time; 0 makes no processes; as many as CPUs, if not given, "
            "and 1 on a GPU",
        )
        where.add_argument("--dask", metavar="ADDRESS", help="of a Dask scheduler to run on")
        part.add_argument(
            "--seeds", type=_at_least(0), metavar="N", help="the first so many seeds only"
        )
    command("tabulate", _tabulate).add_argument("--csv", action="store_true", help="as CSV")
    command("plan", _plan, table=False)
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    """Return what reads an integer from there on."""

    def integer(text: str) -> int:
        try:
            return _check.count("it", int(text), least)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be an integer >= {least}, got {text}") from None

    return integer


def _list(options: argparse.Namespace) -> int:
    store = Store(options.store)
    for name, table in tables.TABLES.items():
        configs = table.configs(options.scale)
        record = None if options.records is None else options.records / f"{name}.json"
        there = len(configs) - len(_missing(configs, store, record))
        print(f"{name:18} {there:4} of {len(configs):4} runs   {table.title}")
    return 0


def _tabulate(options: argparse.Namespace) -> int:
    if options.record is not None and not options.record.exists():
        raise FileNotFoundError(f"no record at {options.record}")
    configs = tables.TABLES[options.table].configs(options.scale)
    found = _entries(configs, Store(options.store), options.record)
    rows = summary.rows(configs, map(results.decode, found))
    lines = [list(summary.COLUMNS), *map(summary.cells, rows)]
    if options.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(lines)
        return 0
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
    return 0


def _plan(options: argparse.Namespace) -> int:
    del options
    for shape in scales.shapes():
        chosen, known = scales.plan(shape), len(scales.CONTROLS.get(shape, ()))
        controls = tuple(scales.gaussian_scale(shape, scale) for scale in chosen[:known])
        print(f"{shape}: {chosen}" + (f"; at alpha 2 {controls}" if known else ""), flush=True)
    return 0


def _cost(options: argparse.Namespace) -> int:
    store, device = Store(options.store), _device(options.device)
    configs = tables.TABLES[options.table].configs(options.scale)
    missing = _missing(configs, store, options.record)
    seconds = partial(runs.step_seconds, device=device, threads=options.threads)
    total = tables.cost(missing, seconds)
    print(
        f"{len(missing)} runs: {total / 60:.0f} minutes of training at most, one after another, "
        f"on {device}; measuring them comes on top"
    )
    return 0


def _run(options: argparse.Namespace) -> int:
    configs: Sequence[Config] = tables.TABLES[options.table].configs(options.scale)
    if options.seeds is not None:
        configs = [config for config in configs if config.seed < options.seeds]
    store = Store(options.store)
    known = _recorded(options.record)
    wanted = [config for config in configs if key(config) not in known]
    device = _device(options.device)
    for name in {config.data for config in wanted if not store.holds(config)}:
        load(name)  # found missing here, not in each run
    processes = options.processes
    if processes is None and device != "cpu":
        processes = 1  # they would share the device
    run = partial(runs.in_sweep, device=device, threads=options.threads)
    if options.dask is None:
        report = sweep(run, wanted, store, processes=processes, retry=options.retry)
    else:
        report = _on_dask(run, wanted, store, options)
    report.present += len(configs) - len(wanted)
    print(report)
    if options.record is not None:
        _record(options, store)
    return 0 if report.complete else 1


def _on_dask(
    run: Any, configs: Iterable[Config], store: Store, options: argparse.Namespace
) -> Report:
    """Run on a cluster of Dask, whose workers reach the store's folder."""
    from distributed import Client  # an extra, and slow to import

    store = Store(store.folder.resolve())  # workers may live in other folders
    with Client(options.dask) as client, client.get_executor(pure=False) as executor:
        engine: Executor = executor
        return sweep(run, configs, store, executor=engine, retry=options.retry)


def _recorded(record: Path | None) -> dict[str, dict[str, Any]]:
    """Return the entries of a record by the names of their configurations."""
    entries = [] if record is None else records.read(record)
    return {key(Config(**entry["config"])): entry for entry in entries}


def _missing(configs: Iterable[Config], store: Store, record: Path | None) -> list[Config]:
    """Return the runs that are neither in the store nor in the record."""
    known = _recorded(record)
    return [config for config in configs if key(config) not in known and not store.holds(config)]


def _entries(configs: Iterable[Config], store: Store, record: Path | None) -> list[dict[str, Any]]:
    """Return what is there of some runs: in the store, or else in the record."""
    known = _recorded(record)
    found = (store.read(config) or known.get(key(config)) for config in configs)
    return [entry for entry in found if entry is not None]


def _record(options: argparse.Namespace, store: Store) -> None:
    """Write all runs of the table that are there; other runs of the file stay."""
    table = tables.TABLES[options.table]
    configs = table.configs(options.scale)
    entries = _entries(configs, store, options.record)
    own = [entry["config"] for entry in entries]
    others = _recorded(options.record).values()
    entries += [entry for entry in others if entry["config"] not in own]
    command = f"run {options.table} --scale {options.scale} --record {options.record}"
    head = {"what": table.title, "command": f"python -m heavytail.experiments {command}"}
    records.write(options.record, head, entries, brief=table.brief)


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
