import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from heavytail.experiments import __main__ as command_line
from heavytail.experiments import rates, results, runs, tables
from heavytail.experiments.__main__ import main
from heavytail.experiments.records import Store
from heavytail.experiments.results import Config
from heavytail.experiments.summary import COLUMNS
from heavytail.experiments.sweep import Report
from heavytail.experiments.tables import TABLES, Table

PLAIN = Config(data="digits", width=12, steps=3)
NOISY = replace(PLAIN, kind="shared", alpha=1.75, scale=0.01)
QUICK = tuple(replace(config, seed=seed) for config in (PLAIN, NOISY) for seed in range(2))
PAPER = (replace(PLAIN, width=13),)
TITLE = "What small nets do"


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """One small table, in an empty folder, run in this process."""
    monkeypatch.setattr(tables, "TABLES", {"small": Table(TITLE, PAPER, QUICK)})
    monkeypatch.chdir(tmp_path)


def here(*words):
    """Run a command in this process."""
    more = ["--processes", "0", "--device", "cpu"] if words[0] == "run" else []
    return main([*words, *more])


def fail(*_, **__):
    raise RuntimeError("this run is made to fail")


def held(path):
    """Return the configurations of a record, in its order."""
    return [results.decode(entry)[0] for entry in Store(path).entries()]


# What runs.


def test_run_and_run_again(capsys):
    assert here("run", "small") == 0
    assert capsys.readouterr().out == "4 done, 0 there before, 0 failed, 0 lost\n"
    assert held("results/small.json") == list(QUICK)
    assert here("run", "small") == 0
    assert capsys.readouterr().out == "0 done, 4 there before, 0 failed, 0 lost\n"


def test_sizes_and_seeds_meet_in_one_file():
    assert here("run", "small", "--size", "paper", "--store", "other/folder") == 0
    assert here("run", "small", "--seeds", "1", "--store", "other/folder") == 0
    assert set(held("other/folder/small.json")) == {PAPER[0], QUICK[0], QUICK[2]}


def test_a_record_says_what_it_is():
    assert here("run", "small", "--record", "kept/record.json") == 0
    content = json.loads(Path("kept/record.json").read_text())
    assert content["what"] == TITLE
    command = "python -m heavytail.experiments run small --size quick --record kept/record.json"
    assert content["command"] == command
    assert {"config", "result", "seconds", "date", "machine", "versions", "commit"} == set(
        content["runs"][0]
    )


def test_a_brief_record_leaves_the_long_parts_out():
    tables.TABLES["brief"] = replace(TABLES["official"], quick=QUICK)
    here("run", "brief")
    here("run", "small")
    brief, whole = (Store(f"results/{name}.json").read(QUICK[3]) for name in ("brief", "small"))
    assert brief["result"]["curve"] is None is brief["result"]["layers"]
    assert whole["result"]["curve"]
    assert whole["result"]["layers"]
    assert brief["result"]["ratio"] == whole["result"]["ratio"]


def test_what_failed_is_run_again_only_when_told(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run", fail)
        assert here("run", "small") == 1
    assert "RuntimeError: this run is made to fail" in capsys.readouterr().out
    assert here("run", "small") == 1
    assert "0 done, 0 there before, 4 failed, 0 lost" in capsys.readouterr().out
    assert here("run", "small", "--retry") == 0
    assert capsys.readouterr().out == "4 done, 0 there before, 0 failed, 0 lost\n"


@pytest.mark.parametrize("device", ["foo", "cuda:77", "meta"])
def test_a_device_that_is_not_there_is_told_at_once(device, capsys):
    assert main(["run", "small", "--device", device]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"--device must be one that is here, got {device}: ")
    assert error.count("\n") == 1
    assert not Path("results").exists()


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
    assert capsys.readouterr().out == "2 done, 2 there before, 0 failed, 0 lost\n"


def test_how_many_runs_at_a_time(monkeypatch, capsys):
    found = []

    def spy(run, configs, store, **options):
        found.append((options, run.keywords))
        return Report(lost=[(PLAIN, "the pool broke")])

    monkeypatch.setattr(command_line, "sweep", spy)
    monkeypatch.setattr(command_line, "_device", lambda options: options.device)
    for device, words in (("cpu", []), ("cuda", []), ("cuda", ["--processes", "3"])):
        assert main(["run", "small", "--device", device, "--threads", "2", *words]) == 1
    assert "lost, the pool broke" in capsys.readouterr().out
    assert [options["processes"] for options, _ in found] == [None, 1, 3]  # they share a GPU
    assert found[2] == (
        {"processes": 3, "retry": False},
        {"device": "cuda", "threads": 2},
    )


def test_rates_are_a_table_like_others(monkeypatch, capsys):
    study = rates.Study("euler", "relu", 1.5, (2, 4), 8, seeds=3, first_seed=10, size=5)
    monkeypatch.setattr(tables, "TABLES", {"rates": replace(TABLES["rates"], quick=(study,))})
    assert here("run", "rates") == here("tabulate", "rates") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("euler  relu  1.5")
    ((found, _),) = rates.read("results/rates.json")
    assert found == study


# What is told.


def test_list(capsys):
    here("run", "small", "--seeds", "1", "--store", "kept")
    capsys.readouterr()
    assert here("list", "--store", "kept") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split() == ["small", "2", "of", "4", "runs", *TITLE.split()]
    assert here("list", "--size", "paper") == 0
    assert "0 of    1 runs" in capsys.readouterr().out


def test_tabulate(capsys):
    assert here("tabulate", "small") == 0
    assert capsys.readouterr().out.count("not yet") == 8
    assert here("tabulate", "small", "--record", "record.json") == 2
    assert capsys.readouterr().err == "no record at record.json\n"
    here("run", "small", "--seeds", "1")
    capsys.readouterr()
    assert here("tabulate", "small") == 0
    text = capsys.readouterr().out
    head, plain, noisy = text.splitlines()
    assert re.split("  +", head) == list(COLUMNS)
    assert re.split("  +", plain)[:5] == ["digits, fully connected, 12", "none", "–", "0", "1"]
    assert re.split("  +", noisy)[1:5] == ["I", "1.75", "0.01", "1"]
    assert noisy.index("I") == head.index("noise")
    assert here("tabulate", "small", "--csv") == 0
    lines = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert lines == [re.split("  +", line) for line in text.splitlines()]


def test_what_is_no_record_is_told_in_a_line(capsys):
    Path("notes.json").write_text("# Notes\n")
    for command in ("run", "tabulate"):
        assert here(command, "small", "--record", "notes.json") == 2
        assert "notes.json must be a record of runs, got '# Notes" in capsys.readouterr().err
    assert Path("notes.json").read_text() == "# Notes\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["run"], "required: TABLE"),
        (["run", "large"], "invalid choice: 'large'"),
        (["run", "small", "--size", "huge"], "invalid choice: 'huge'"),
        (["run", "small", "--processes", "-1"], "must be an integer >= 0, got -1"),
        (["run", "small", "--threads", "0"], "must be an integer >= 1, got 0"),
        (["run", "small", "--dask", "a", "--processes", "1"], "not allowed with argument"),
        (["run", "small", "--store", "a", "--record", "b"], "not allowed with argument"),
    ],
)
def test_bad_words(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_of_each_command(capsys, monkeypatch):
    monkeypatch.setattr(tables, "TABLES", TABLES)
    monkeypatch.setenv("COLUMNS", "1000")
    for name in ("list", "run", "tabulate"):
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        text = capsys.readouterr().out
        assert stop.value.code == 0
        assert f"usage: python -m heavytail.experiments {name}" in text
        assert name == "list" or ", ".join(TABLES) in text
    command = [sys.executable, "-m", "heavytail.experiments", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "what is missing of a table" in text
