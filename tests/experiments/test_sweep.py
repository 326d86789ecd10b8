import logging
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from heavytail.experiments import __main__ as command_line
from heavytail.experiments import tables
from heavytail.experiments.records import Store, plain, read
from heavytail.experiments.results import Config
from heavytail.experiments.sweep import sweep
from tests.experiments.sweep_runs import (
    FORKS,
    Trial,
    draw,
    draw_on_a_cluster,
    draw_or_be_killed,
    draw_unless_spoilt,
    drive,
    has_ended,
    noted,
    wait_for,
)

TRIALS = [Trial(number) for number in range(6)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store" / "runs.json")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def run(log):
    return partial(draw, log=log)


def here(run, configs, store, **options):
    """Sweep in this process, quietly."""
    return sweep(run, configs, store, **{"processes": 0, "progress": False, **options})


def numbers(log):
    """Return the numbers of the runs that were begun, in order."""
    return [number for number, _ in noted(log)]


def results(store, trials):
    """Return the results of runs that are all there."""
    return [entry["result"] for entry in store.find(trials)]


def drawn(trials, tmp_path):
    """Return what the runs of a sweep give by themselves."""
    return [plain(draw(t, tmp_path / "x" / "state", log=tmp_path / "apart")) for t in trials]


def files(store):
    """Return the names of all that a sweep left, but for a draft: the next to write takes it."""
    return [path.name for path in store.path.parent.iterdir() if path.suffix != ".draft"]


def broken(trial, checkpoint):
    raise ArithmeticError(f"number {trial.number} does not add up")


# What is run.


def test_only_what_is_missing_is_run(run, log, store, tmp_path, capfd):
    assert here(run, TRIALS[2:4], store).done == 2
    report = here(run, [*TRIALS, *map(Trial, range(6))], store)
    assert (report.present, report.done, report.complete) == (2, 4, True)
    assert str(report) == "4 done, 2 there before, 0 failed"
    assert numbers(log) == [2, 3, 0, 1, 4, 5]
    assert results(store, TRIALS) == drawn(TRIALS, tmp_path)
    assert [entry["config"]["number"] for entry in read(store.path)] == list(range(6))
    assert files(store) == ["runs.json"]  # no lock, and no checkpoint
    here(run, TRIALS, store, progress=True)
    assert capfd.readouterr() == ("", "")  # the output is no terminal


def test_a_failure_is_told_and_stops_nothing_and_is_run_again(run, log, store):
    def some_fail(trial, checkpoint):
        return (broken if trial.number % 2 else run)(trial, checkpoint)

    report = here(some_fail, TRIALS, store)
    assert (report.done, [trial.number for trial, _ in report.failed]) == (3, [1, 3, 5])
    assert not report.complete
    counts, first, *_ = str(report).splitlines()
    assert counts == "3 done, 0 there before, 3 failed"
    assert first == "Trial(number=1, seconds=0.0): ArithmeticError: number 1 does not add up"
    assert "in broken" in str(report)
    again = here(run, TRIALS, store)
    assert (again.present, again.done, again.complete) == (3, 3, True)
    assert numbers(log) == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("found", [{"x": {1}}, 7, None])
def test_what_is_no_result_is_a_failure(found, store):
    assert len(here(lambda *_: found, TRIALS, store).failed) == 6
    assert len(here(lambda *_: sys.exit(3), TRIALS, store).failed) == 6
    assert not store.path.exists()


def test_a_result_that_cannot_be_written_is_no_result(run, store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: os.read(-1, 0))
        report = here(run, TRIALS, store)
    assert (report.done, len(report.failed)) == (0, 6)
    assert "OSError: [Errno 9]" in str(report)
    assert not store.path.exists()
    assert here(run, TRIALS, store).done == 6
    assert files(store) == ["runs.json"]


def test_who_failed_goes_on_from_its_checkpoint(store):
    def keep(trial, checkpoint, failure):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with checkpoint.open("a") as file:
            file.write("further ")
        if failure is not None:
            raise failure
        return {"all": checkpoint.read_text()}

    for failure in (OSError(), ArithmeticError(), None):
        here(partial(keep, failure=failure), TRIALS[:1], store)
    assert results(store, TRIALS[:1]) == [{"all": "further further further "}]
    assert files(store) == ["runs.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": -1}, "processes must be >= 0, got -1"),
        ({"processes": 1.5}, "processes must be an integer, got 1.5"),
        ({"executor": object()}, "executor must be of type .*Executor .* None, got"),
        (
            {"executor": ThreadPoolExecutor(1), "processes": 0},
            "processes must be None beside an executor",
        ),
        ({"store": "folder"}, "store must be of type Store, got .folder."),
        ({"configs": [{1}]}, "config must be a dataclass, got {1}"),
    ],
)
def test_bad_arguments(options, message, run, store):
    options = {"configs": TRIALS, "store": store, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        sweep(run, options.pop("configs"), options.pop("store"), **options)


# Executors.


def test_threads_of_another_folder(run, log, tmp_path, monkeypatch):
    """Workers may be at another place than the one the store's path begins at."""
    trials = [Trial(number, 0.01) for number in range(20)]
    monkeypatch.chdir(tmp_path)
    store = Store("runs.json")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with ThreadPoolExecutor(8) as pool:
        assert here(run, trials, store, executor=pool, processes=None).done == 20
        assert pool.submit(int).result() == 0  # it is left open
    assert sorted(numbers(log)) == list(range(20))
    assert len(read(tmp_path / "runs.json")) == 20
    assert list((tmp_path / "other").iterdir()) == []


def test_a_process_that_is_killed_takes_no_other_run(log, store):
    """The system kills whom it likes, for want of memory among others."""
    trials = [Trial(number, 0.05) for number in range(12)]
    run = partial(draw_or_be_killed, log=log)
    first = here(run, trials, store, processes=2)
    assert first.failed == [(trials[5], "its process ended with exit code -9")]
    assert first.done == 11
    store.checkpoint(trials[0]).parent.mkdir(parents=True)  # of one killed before it could go
    assert here(run, trials, store).done == 1
    assert files(store) == ["runs.json"]
    assert len({process for _, process in noted(log)} - {os.getpid()}) == 3


def test_a_process_whose_run_failed_gets_no_other(log, store):
    """It may be spoilt, as after an error of CUDA, of which no later call recovers."""
    report = here(partial(draw_unless_spoilt, log=log), TRIALS, store, processes=1)
    assert (report.done, [trial.number for trial, _ in report.failed]) == (5, [2])
    assert len({process for _, process in noted(log)}) == 2


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_sweep(end, log, store):
    """Only the parent gets the signal, as in a notebook; the other is at a run of an hour."""
    trials = [Trial(number, 3600.0) for number in range(8)]
    arguments = (partial(draw, log=log), trials, store.path, 1, "spawn")
    process = FORKS.Process(target=drive, args=arguments)
    process.start()
    wait_for(lambda: noted(log))
    os.kill(process.pid, end)
    process.join(60)
    assert process.exitcode == (7 if end == signal.SIGINT else -end)
    wait_for(lambda: all(has_ended(worker) for _, worker in noted(log)))
    assert len(noted(log)) == 1  # and begins no other


def test_one_sweep_at_a_time(run, log, store):
    trials = [Trial(0, 3600.0), Trial(1)]
    other = FORKS.Process(target=drive, args=(run, trials, store.path, 0, "fork"))
    other.start()
    wait_for(lambda: noted(log))
    with pytest.raises(BlockingIOError, match=r"another sweep is at work on .*runs.json"):
        here(run, trials[1:], store)
    other.kill()
    other.join()
    assert here(run, trials[1:], store).done == 1  # the lock ended with its holder


# Acceptance.


def test_a_sweep_killed_ten_times_comes_to_its_end(run, log, store, tmp_path):
    """At random moments: as it starts, or amid the runs, all its processes or the parent alone."""
    trials = [Trial(number, 0.05) for number in range(40)]
    moments, kept = random.Random(40), []
    for attempt in range(10):
        begun = len(noted(log)) + 2
        process = FORKS.Process(target=drive, args=(run, trials, store.path, 2, "fork"))
        process.start()
        if attempt % 3:
            wait_for(lambda: len(noted(log)) >= begun or not process.is_alive())  # noqa: B023
        time.sleep(moments.uniform(0, 0.2))
        if attempt % 3 == 2 and process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert all(entry in read(store.path) for entry in kept)
        kept = read(store.path)
    workers = {worker for _, worker in noted(log)}
    report = here(run, trials, store)
    assert (report.present, report.done, report.complete) == (len(kept), 40 - len(kept), True)
    assert len(read(store.path)) == 40
    assert results(store, trials) == drawn(trials, tmp_path)
    assert files(store) == ["runs.json"]
    wait_for(lambda: all(map(has_ended, workers)))


@pytest.mark.filterwarnings("ignore")  # of Dask itself
def test_a_cluster_that_loses_a_worker_has_the_results_of_one_process(
    store, tmp_path, monkeypatch, capsys
):
    """By the command line; the workers live in another folder than the command."""
    distributed = pytest.importorskip("distributed")
    configs = tuple(Config(data="digits", seed=seed) for seed in range(16))
    monkeypatch.setattr(tables, "TABLES", {"small": tables.Table("Small", configs)})
    monkeypatch.setattr(command_line, "in_sweep", draw_on_a_cluster)
    monkeypatch.chdir(tmp_path)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    folder = str(tmp_path / "dask")
    with distributed.LocalCluster(
        **options, silence_logs=logging.CRITICAL, local_directory=folder
    ) as cluster:
        command = ["run", "small", "--size", "paper", "--device", "cpu", "--record"]
        command += ["store/runs.json", "--dask", cluster.scheduler_address]
        assert command_line.main(command) == 0
    assert capsys.readouterr().out == "16 done, 0 there before, 0 failed\n"
    assert numbers(store.path.parent / "log").count(5) == 2
    assert results(store, configs) == drawn(map(Trial, range(16)), tmp_path)
