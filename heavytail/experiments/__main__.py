"""The experiments of the book from the command line.

Runs belong to tables, and a table's runs to a file. What is there is not run again.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from heavytail.experiments import tables
from heavytail.experiments.data import load
from heavytail.experiments.records import Store, read
from heavytail.experiments.results import decode
from heavytail.experiments.runs import in_sweep
from heavytail.experiments.sweep import sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 where a run failed, 2 on bad input, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (OSError, ValueError, ImportError) as failure:
        print(failure, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m heavytail.experiments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for does, about in (
        (_list, "the tables, how many runs each holds, and how many of them are there"),
        (_tabulate, "show a table, as far as its runs are there"),
        (_run, "run what is missing of a table; start it again after a break, and it goes on"),
    ):
        command = commands.add_parser(does.__name__[1:], help=about, description=about)
        command.set_defaults(command=does)
        option, where = command.add_argument, command.add_mutually_exclusive_group()
        option("--size", choices=("quick", "paper"), default="quick", help="paper is full size")
        where.add_argument("--store", type=Path, default="results", help="folder of TABLE.json")
        if does is not _list:
            option("table", choices=tables.TABLES)
            where.add_argument("--record", type=Path, metavar="FILE", help="or the file itself")
    how = command.add_mutually_exclusive_group()  # of the last command: run
    option("--device", default="auto", help="cpu, cuda:1; a GPU, if there is one")
    how.add_argument("--processes", type=int, metavar="N", help="runs at a time; 0: all here")
    how.add_argument("--dask", metavar="ADDRESS", help="of a Dask scheduler to run on")
    return parser


def _list(options: argparse.Namespace) -> int:
    for name, table in tables.TABLES.items():
        found = Store(options.store / f"{name}.json").find(getattr(table, options.size))
        there = sum(entry is not None for entry in found)
        print(f"{name:18} {there:4} of {len(found):4} runs   {table.title}")
    return 0


def _tabulate(options: argparse.Namespace) -> int:
    if options.record is not None and not options.record.exists():
        raise FileNotFoundError(f"no record at {options.record}")
    configs = getattr(tables.TABLES[options.table], options.size)
    rows = tables.rows(configs, read(_store(options).path, decode))
    lines = [tables.COLUMNS, *map(tables.cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
    return 0


def _run(options: argparse.Namespace) -> int:
    table, store = tables.TABLES[options.table], _store(options)
    configs = getattr(table, options.size)
    found = zip(configs, store.find(configs), strict=True)
    for name in {config.data for config, entry in found if entry is None}:
        load(name)  # found missing here, not in each run
    device, processes = _device(options), options.processes
    with ExitStack() as stack:
        executor = None
        if options.dask is not None:
            from distributed import Client  # an extra, and slow to import

            client = stack.enter_context(Client(options.dask))
            executor = stack.enter_context(client.get_executor(pure=False))
        elif processes is None and not device.startswith("cpu"):
            processes = 1  # more would share the device
        report = sweep(
            partial(in_sweep, device=device), configs, store, executor=executor, processes=processes
        )
    print(report)
    return 0 if report.complete else 1


def _store(options: argparse.Namespace) -> Store:
    """Return the file of a table."""
    path = options.record or options.store / f"{options.table}.json"
    command = f"python -m heavytail.experiments run {options.table} --size {options.size}"
    command += f" --record {path}"
    return Store(path, what=tables.TABLES[options.table].title, command=command)


def _device(options: argparse.Namespace) -> str:
    """Return the device to run on, if it is there; that of a cluster's workers unseen."""
    name: str = options.device
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if options.dask is None:
        try:
            float(torch.ones(1, device=name).sum())
        except Exception as failure:
            reason = str(failure).partition("\n")[0]
            raise ValueError(f"--device must be one that is here, got {name!r}: {reason}") from None
    return name


if __name__ == "__main__":
    sys.exit(main())
