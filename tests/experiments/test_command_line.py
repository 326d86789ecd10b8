import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from heavytail.experiments import __main__ as command_line
from heavytail.experiments import records, runs, tables
from heavytail.experiments.__main__ import main
from heavytail.experiments.results import Config, decode
from heavytail.experiments.sweep import Report
from heavytail.experiments.tables import COLUMNS, TABLES, Table

PLAIN = Config(data="digits", width=160, steps=30)
PAPER = (PLAIN, replace(PLAIN, kind="shared", alpha=1.75, scale=0.01))
TITLE = "What small nets do"
SMALL = Table(TITLE, PAPER)


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """One small table, in an empty folder."""
    monkeypatch.setattr(tables, "TABLES", {"small": SMALL})
    monkeypatch.chdir(tmp_path)


def here(*words):
    """Run a command in this process."""
    more = ["--processes", "0", "--device", "cpu"] if words[0] == "run" else []
    return main([*words, *more])


def held(path):
    """Return the configurations of a record, in its order."""
    return [decode(entry)[0] for entry in records.read(path)]


# What runs.


def test_run_and_run_again(capsys):
    for done in (4, 0):
        assert here("run", "small") == 0
        counts = f"{done} done, {4 - done} there before, 0 failed\n"
        assert capsys.readouterr().out == counts
        assert held("results/small.json") == list(SMALL.quick)
    content = json.loads(Path("results/small.json").read_text())
    assert content["what"] == TITLE
    command = "python -m heavytail.experiments run small --size quick --record results/small.json"
    assert content["command"] == command
    said = {"config", "result", "seconds", "date", "machine", "versions", "commit"}
    assert set(content["runs"][0]) == said


def test_sizes_meet_in_one_file():
    assert here("run", "small", "--size", "paper", "--store", "other/folder") == 0
    assert here("run", "small", "--record", "other/folder/small.json") == 0
    assert set(held("other/folder/small.json")) == {*PAPER, *SMALL.quick}


def test_missing_data_are_told_at_once(capsys, monkeypatch):
    def nowhere(name):
        raise FileNotFoundError(f"put the files of {name} somewhere")

    monkeypatch.setattr(command_line, "load", nowhere)
    assert here("run", "small") == 2
    assert capsys.readouterr().err == "put the files of digits somewhere\n"
    assert not Path("results").exists()


def test_an_interrupt_leaves_what_is_done(capsys, monkeypatch):
    begun, run = [], runs.run

    def interrupted(config, *arguments, **options):
        begun.append(config)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return run(config, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "run", interrupted)
        assert here("run", "small") == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    assert here("run", "small") == 0
    assert capsys.readouterr().out == "2 done, 2 there before, 0 failed\n"


def test_how_many_runs_at_a_time(monkeypatch, capsys):
    found = []

    def spy(run, configs, store, **options):
        found.append((options, run.keywords))
        return Report(0, failed=[(PLAIN, "its process ended")])

    monkeypatch.setattr(command_line, "sweep", spy)
    monkeypatch.setattr(command_line, "_device", lambda options: options.device)
    for device, words in (("cpu", []), ("cuda", []), ("cuda", ["--processes", "3"])):
        assert main(["run", "small", "--device", device, *words]) == 1
    assert "its process ended" in capsys.readouterr().out
    assert [options["processes"] for options, _ in found] == [None, 1, 3]  # they share a GPU
    assert found[2] == ({"executor": None, "processes": 3}, {"device": "cuda"})


# What is told.


def test_list(capsys):
    here("run", "small", "--store", "kept")
    capsys.readouterr()
    assert here("list", "--store", "kept") == 0
    assert capsys.readouterr().out.split() == ["small", "4", "of", "4", "runs", *TITLE.split()]
    assert here("list", "--size", "paper") == 0
    assert "0 of    2 runs" in capsys.readouterr().out


def test_tabulate(capsys):
    assert here("tabulate", "small") == 0
    assert capsys.readouterr().out.count("not yet") == 8
    here("run", "small")
    capsys.readouterr()
    assert here("tabulate", "small") == 0
    head, plain, noisy = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == list(COLUMNS)
    assert re.split("  +", plain)[:5] == ["digits, fully connected, 16", "none", "–", "0", "2"]
    assert re.split("  +", noisy)[1:5] == ["I", "1.75", "0.0373", "2"]
    assert noisy.index("I") == head.index("noise")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "small", "--device", "foo"], "--device must be one that is here, got 'foo': "),
        (
            ["run", "small", "--device", "cuda:77"],
            "--device must be one that is here, got 'cuda:77'",
        ),
        (["run", "small", "--device", "meta"], "--device must be one that is here, got 'meta': "),
        (["run", "small", "--processes", "-1"], "processes must be >= 0, got -1"),
        (["run", "small", "--record", "notes.json"], "notes.json must be a record of runs, got"),
        (["tabulate", "small", "--record", "notes.json"], "notes.json must be a record of runs"),
        (["tabulate", "small", "--record", "none.json"], "no record at none.json"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(words, message, capsys):
    Path("notes.json").write_text("# Notes\n")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["notes.json"]
    assert Path("notes.json").read_text() == "# Notes\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["run", "large"], "invalid choice: 'large'"),
        (["run", "small", "--dask", "a", "--processes", "1"], "not allowed with argument"),
        (["run", "small", "--store", "a", "--record", "b"], "not allowed with argument"),
    ],
)
def test_bad_words(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert message in capsys.readouterr().err


def test_help_of_each_command(capsys, monkeypatch):
    monkeypatch.setattr(tables, "TABLES", TABLES)
    monkeypatch.setenv("COLUMNS", "1000")
    for name in ("list", "run", "tabulate"):
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert f"usage: python -m heavytail.experiments {name}" in text
        assert name == "list" or ",".join(TABLES) in text
    command = [sys.executable, "-m", "heavytail.experiments", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "what is missing of a table" in text
