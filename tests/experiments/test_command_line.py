import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from heavytail.experiments import __main__ as command_line
from heavytail.experiments import results, runs, scales, summary, tables
from heavytail.experiments.__main__ import main
from heavytail.experiments.results import Config
from heavytail.experiments.summary import COLUMNS
from heavytail.experiments.sweep import Report, Store
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
    more = ["--processes", "0"] if words[0] in ("run", "resume") else []
    return main([*words, *more, *(["--device", "cpu"] if more or words[0] == "cost" else [])])


def fail(*_, **__):
    raise RuntimeError("this run is made to fail")


# What runs.


def test_run_and_run_again(capsys):
    assert here("run", "small") == 0
    assert capsys.readouterr().out == "4 done, 0 there before, 0 failed, 0 lost\n"
    assert all(Store("results").holds(config) for config in QUICK)
    assert here("run", "small") == 0
    assert capsys.readouterr().out == "0 done, 4 there before, 0 failed, 0 lost\n"


def test_sizes_stores_and_seeds(tmp_path):
    assert here("run", "small", "--seeds", "1", "--store", "other/folder") == 0
    store = Store(tmp_path / "other" / "folder")
    assert [store.holds(config) for config in QUICK] == [True, False, True, False]
    assert here("run", "small", "--scale", "paper", "--store", "other/folder") == 0
    assert store.holds(PAPER[0])


def test_what_failed_is_resumed_only_by_resume(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run", fail)
        assert here("run", "small") == 1
    assert "RuntimeError: this run is made to fail" in capsys.readouterr().out
    assert here("run", "small") == 1
    assert "0 done, 0 there before, 4 failed, 0 lost" in capsys.readouterr().out
    assert here("resume", "small") == 0
    assert capsys.readouterr().out == "4 done, 0 there before, 0 failed, 0 lost\n"


def test_what_is_lost_is_told(capsys, monkeypatch):
    report = Report(lost=[(PLAIN, "the pool broke")])
    monkeypatch.setattr(command_line, "sweep", lambda *_, **__: report)
    assert here("run", "small") == 1
    assert "lost, the pool broke" in capsys.readouterr().out


def test_missing_data_are_told_at_once(capsys, monkeypatch):
    def nowhere(name):
        raise FileNotFoundError(f"put the files of {name} somewhere")

    monkeypatch.setattr(command_line, "load", nowhere)
    assert here("run", "small") == 2
    assert capsys.readouterr().err == "put the files of digits somewhere\n"
    assert not Store("results").folder.exists()


def test_an_interrupt_leaves_what_is_done(capsys, monkeypatch):
    begun = []

    def interrupted(config, *arguments, **options):
        begun.append(config)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return run(config, *arguments, **options)

    run = runs.run
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run", interrupted)
        assert here("run", "small") == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    assert here("run", "small") == 0
    assert capsys.readouterr().out == "2 done, 2 there before, 0 failed, 0 lost\n"


@pytest.mark.parametrize(
    ("words", "device", "expected"),
    [
        ([], "cpu", None),
        ([], "cuda", 1),  # runs would share it
        (["--processes", "3"], "cuda", 3),
    ],
)
def test_how_many_runs_at_a_time(words, device, expected, monkeypatch):
    found = []

    def spy(run, configs, store, **options):
        found.append((options["processes"], options["retry"], run.keywords))
        return Report()

    monkeypatch.setattr(command_line, "sweep", spy)
    assert main(["run", "small", "--device", device, "--threads", "2", *words]) == 0
    assert found == [(expected, False, {"device": device, "threads": 2})]


# Records.


def test_a_record_is_enough(capsys, tmp_path):
    """The store may be lost: nothing is run again."""
    assert here("run", "small", "--record", "kept/record.json") == 0
    text = (tmp_path / "kept" / "record.json").read_text()
    assert here("run", "small", "--store", "new", "--record", "kept/record.json") == 0
    assert capsys.readouterr().out.endswith("0 done, 4 there before, 0 failed, 0 lost\n")
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "kept" / "record.json").read_text() == text


def test_a_record_says_what_it_is(tmp_path):
    here("run", "small", "--record", "record.json")
    text = (tmp_path / "record.json").read_text()
    content = json.loads(text)
    assert content["what"] == TITLE
    command = "python -m heavytail.experiments run small --scale quick --record record.json"
    assert content["command"] == command
    assert [results.decode(entry)[0] for entry in content["runs"]] == list(QUICK)
    assert len(text.splitlines()) == 7  # a line each


def test_a_record_goes_on(tmp_path, capsys):
    here("run", "small", "--seeds", "1", "--record", "record.json")
    here("run", "small", "--store", "new", "--record", "record.json")
    assert capsys.readouterr().out.splitlines()[1].startswith("2 done, 2 there before")
    content = json.loads((tmp_path / "record.json").read_text())
    assert [results.decode(entry)[0] for entry in content["runs"]] == list(QUICK)


def test_a_brief_record_is_small_and_not_taken_for_a_whole_one(tmp_path, capsys):
    """Curves and layers are left out of the file, and in the store."""
    tables.TABLES["brief"] = Table(TITLE, PAPER, QUICK[:1], brief=True)
    here("run", "brief", "--record", "brief.json")
    (entry,) = json.loads((tmp_path / "brief.json").read_text())["runs"]
    _, result = results.decode(entry)
    assert result.curve is None is result.layers
    _, whole = results.decode(Store("results").read(QUICK[0]))
    assert result == replace(whole, curve=None, layers=None)
    capsys.readouterr()
    here("run", "brief", "--store", "new", "--record", "brief.json")
    assert capsys.readouterr().out.startswith("0 done, 1 there before")
    here("run", "small", "--store", "new")
    assert capsys.readouterr().out.startswith("4 done, 0 there before")


def test_a_record_keeps_runs_of_another_size(tmp_path):
    here("run", "small", "--scale", "paper", "--record", "record.json")
    here("run", "small", "--store", "new", "--record", "record.json")
    content = json.loads((tmp_path / "record.json").read_text())
    assert {results.decode(entry)[0] for entry in content["runs"]} == {*QUICK, *PAPER}


def test_a_record_holds_what_did_not_fail(tmp_path, monkeypatch):
    here("run", "small", "--seeds", "1")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run", fail)
        assert here("run", "small", "--record", "record.json") == 1
    assert len(json.loads((tmp_path / "record.json").read_text())["runs"]) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"what": 1}', '{"runs": [{"config": {}}]}'])
def test_what_is_no_record_is_refused_and_left(text, tmp_path):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match=r"record.json must be a record"):
        here("run", "small", "--record", "record.json")
    assert (tmp_path / "record.json").read_text() == text


# What is told.


def test_list(capsys):
    here("run", "small", "--seeds", "1")
    capsys.readouterr()
    assert here("list") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split() == ["small", "2", "of", "4", "runs", *TITLE.split()]
    assert here("list", "--scale", "paper", "--store", "none") == 0
    assert "0 of    1 runs" in capsys.readouterr().out
    here("run", "small", "--seeds", "1", "--record", "kept/small.json")
    capsys.readouterr()
    assert here("list", "--store", "none", "--records", "kept") == 0
    assert "2 of    4 runs" in capsys.readouterr().out


def test_cost(capsys, monkeypatch):
    monkeypatch.setattr(runs, "step_seconds", lambda config, **_: 60.0 if config.alpha else 20.0)
    assert here("cost", "small") == 0
    told = "of training at most, one after another, on cpu; measuring them comes on top\n"
    assert capsys.readouterr().out == f"4 runs: 8 minutes {told}"
    here("run", "small", "--seeds", "1", "--record", "record.json")
    capsys.readouterr()
    here("cost", "small")
    assert capsys.readouterr().out == f"2 runs: 4 minutes {told}"
    here("cost", "small", "--store", "none", "--record", "record.json")
    assert capsys.readouterr().out == f"2 runs: 4 minutes {told}"
    here("cost", "small", "--store", "none", "--record", "not yet.json")
    assert capsys.readouterr().out.startswith("4 runs")


def test_cost_takes_steps(capsys):
    assert here("cost", "small") == 0
    assert re.match(r"4 runs: \d+ minutes", capsys.readouterr().out)


def test_tabulate(capsys):
    assert here("run", "small", "--seeds", "1") == 0
    capsys.readouterr()
    assert here("tabulate", "small") == 0
    head, plain, noisy = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == list(COLUMNS)
    assert re.split("  +", plain)[:5] == ["digits, fully connected, 12", "none", "–", "0", "1"]
    assert re.split("  +", noisy)[1:5] == ["I", "1.75", "0.01", "1"]
    assert noisy.index("I") == head.index("noise")


def test_tabulate_as_csv_from_a_record(capsys):
    here("run", "small", "--record", "record.json")
    capsys.readouterr()
    assert here("tabulate", "small", "--csv", "--store", "none", "--record", "record.json") == 0
    text = capsys.readouterr().out
    assert "\r" not in text
    head, *lines = csv.reader(io.StringIO(text))
    assert head == list(COLUMNS)
    found = summary.rows(QUICK, map(results.decode, Store("results").entries()))
    assert lines == [summary.cells(row) for row in found]


def test_tabulate_nothing(capsys):
    assert here("tabulate", "small") == 0
    assert capsys.readouterr().out.count("not yet") == 8
    assert here("tabulate", "small", "--record", "record.json") == 2
    assert capsys.readouterr().err == "no record at record.json\n"


def test_plan(capsys, monkeypatch):
    monkeypatch.setattr(scales, "plan", lambda shape: (0.1, 0.2))
    monkeypatch.setattr(scales, "gaussian_scale", lambda shape, scale: 2 * scale)
    assert here("plan") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(scales.SCALES)
    assert lines[0].endswith("(0.1, 0.2); at alpha 2 (0.2, 0.4)")
    assert lines[1].endswith("(0.1, 0.2)")
    assert sum("at alpha 2" in line for line in lines) == len(scales.CONTROLS)
    assert sum(line.endswith("at alpha 2 (0.2,)") for line in lines) == 2  # MNIST, the weak ones


# What is refused.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run"], "required: TABLE"),
        (["run", "large"], "invalid choice: 'large'"),
        (["run", "small", "--scale", "huge"], "invalid choice: 'huge'"),
        (["run", "small", "--processes", "-1"], "must be an integer >= 0, got -1"),
        (["run", "small", "--threads", "0"], "must be an integer >= 1, got 0"),
        (["run", "small", "--seeds", "x"], "must be an integer >= 0, got x"),
        (["run", "small", "--dask", "a", "--processes", "1"], "not allowed with argument"),
    ],
)
def test_bad_words(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_tells_what_each_command_does():
    command = [sys.executable, "-m", "heavytail.experiments", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = " ".join(text.split())
    for name in ("list", "cost", "run", "resume", "tabulate", "plan"):
        assert f" {name} {command_line._COMMANDS[name]}" in words


@pytest.mark.parametrize("name", ["list", "cost", "run", "resume", "tabulate", "plan"])
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m heavytail.experiments {name}" in capsys.readouterr().out


def test_the_tables_are_offered(capsys, monkeypatch):
    monkeypatch.setattr(tables, "TABLES", TABLES)
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    (line,) = re.findall("TABLE +one of (.*)", capsys.readouterr().out)
    assert set(line.split(", ")) == {
        "ecg5000-table",
        "ecg5000-gaussian",
        "ecg5000-wide",
        "ecg5000-deep",
        "mnist-table",
        "mnist-centred",
        "mnist-wide",
        "official",
        "official-wide",
        "prediction",
        "cifar10-vgg11",
        "cifar10-table",
        "cifar100-table",
    }
