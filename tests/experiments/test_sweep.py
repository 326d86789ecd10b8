import logging
import os
import random
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest

from heavytail.experiments import runs, tables
from heavytail.experiments import sweep as module
from heavytail.experiments.__main__ import main
from heavytail.experiments.results import Config
from heavytail.experiments.sweep import Report, Store, key, sweep
from tests.experiments.sweep_runs import (
    FORKS,
    Trial,
    draw,
    draw_once_released,
    draw_or_be_killed,
    drive,
    has_ended,
    noted,
    wait_for,
)

TRIALS = [Trial(number) for number in range(6)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


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
    return [store.read(trial)["result"] for trial in trials]


def files(store):
    """Return the names of all files but locks."""
    found = [path for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(str(path.relative_to(store.folder)) for path in found)


def broken(trial, checkpoint):
    raise ArithmeticError(f"number {trial.number} does not add up")


# The store.


@dataclass
class Turned:
    seconds: float
    number: int


def test_a_name_is_a_hash_of_what_the_configuration_says():
    assert key(Trial(3)) == key(Trial(3, 0.0)) == "9e8b690ae3a21fa4"
    assert key(Turned(0.0, 3)) == key(Trial(3))  # the order of the fields is no matter
    assert len({key(trial) for trial in TRIALS}) == 6


@dataclass
class Free:
    value: object


@pytest.mark.parametrize("value", [3, {"number": 3}, Trial, Free({1}), Free(Trial)])
def test_a_configuration_is_a_dataclass_of_plain_values(value, run, store):
    with pytest.raises(TypeError):
        here(run, [value], store)


def test_a_configuration_holds_no_nan(run, store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        here(run, [Free(float("nan"))], store)


def test_an_entry_says_what_when_and_where(run, store):
    here(run, TRIALS[:1], store)
    entry = store.read(TRIALS[0])
    assert entry["config"] == {"number": 0, "seconds": 0.0}
    assert entry["result"]["number"] == 0
    assert entry["seconds"] >= 0
    assert {"date", "machine", "versions", "commit"} <= set(entry)
    assert list(store.entries()) == [entry]


def test_what_is_not_there(store):
    assert not store.holds(TRIALS[0])
    assert store.read(TRIALS[0]) is None
    assert store.failure(TRIALS[0]) is None
    assert list(store.entries()) == []
    assert not store.folder.exists()


def test_tuples_are_lists_in_a_file(store):
    config = Free((1, (2.5, None)))
    assert here(lambda config, _: {"x": (1, 2)}, [config], store).complete
    assert store.read(config)["result"] == {"x": [1, 2]}
    assert here(broken, [config], store).present == 1


DAMAGED = ["", "{", "[]", "7", "{}", '{"config": {}}', '{"config": 3, "result": {}}', "\xff\x00"]
DAMAGED += ['{"config": {"number": 0, "seconds": 0.0}, "result": 7}']
DAMAGED += ['{"config": {"number": 0, "seconds": 0.0}, "result": {"x": NaN}}']


@pytest.mark.parametrize("text", DAMAGED)
@pytest.mark.parametrize("where", ["", "failed"])
def test_a_damaged_file_is_refused(text, where, run, log, store):
    path = store.folder / where / f"{key(TRIALS[0])}.json"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"{key(TRIALS[0])}.json must (be an entry|hold)"):
        here(run, TRIALS, store)
    assert not noted(log)
    assert path.read_text(encoding="latin-1") == text


def test_the_file_of_another_configuration_is_refused(run, store):
    here(run, TRIALS[:1], store)
    mine, other = (store.folder / f"{key(trial)}.json" for trial in TRIALS[:2])
    other.write_bytes(mine.read_bytes())
    with pytest.raises(ValueError, match=r"must be named by its own configuration, got .*0\.0"):
        here(run, TRIALS, store)
    with pytest.raises(ValueError, match="must be named"):
        list(store.entries())


def test_names_that_meet_are_told_apart(run, store, monkeypatch):
    monkeypatch.setattr(module, "_key", lambda plain: "0" * 16)
    here(run, TRIALS[:1], store)
    with pytest.raises(ValueError, match="must be named by its own configuration"):
        store.read(TRIALS[1])


def test_other_files_of_the_folder_are_left_alone(run, store):
    here(run, TRIALS[:1], store)
    for name in ("record.json", ".9e8b690ae3a21fa4.json.1.draft", "78b9bcfe16b4a9f7.json~"):
        (store.folder / name).write_text("half")
    assert len(list(store.entries())) == 1
    assert here(run, TRIALS[:4], store).done == 3


def test_a_write_that_is_stopped_leaves_no_trace(run, store, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            here(run, TRIALS, store)
    assert files(store) == [f"work/{key(TRIALS[0])}.safetensors"]
    assert here(run, TRIALS, store).done == 6
    assert len(files(store)) == 6


# What is run.


def test_only_what_is_missing_is_run(run, log, store):
    assert here(run, TRIALS[2:4], store).done == 2
    report = here(run, TRIALS, store)
    assert (report.present, report.done, report.complete) == (2, 4, True)
    assert numbers(log) == [2, 3, 0, 1, 4, 5]
    assert results(store, TRIALS) == [draw(t, store.checkpoint(t), log=log) for t in TRIALS]
    assert str(report) == "4 done, 2 there before, 0 failed, 0 lost"


def test_equal_configurations_are_run_once(run, log, store):
    assert here(run, [*TRIALS, *map(Trial, range(6))], store).done == 6
    assert numbers(log) == list(range(6))


def test_nothing_to_do_makes_nothing(run, store):
    assert sweep(run, iter([]), store, progress=False) == Report()
    assert not store.folder.exists()


def test_a_checkpoint_goes_when_the_result_is_there(run, store):
    here(run, TRIALS, store)
    assert files(store) == sorted(f"{key(trial)}.json" for trial in TRIALS)
    store.checkpoint(TRIALS[0]).write_text("of one that was killed before it could remove it")
    here(run, TRIALS, store)
    assert len(files(store)) == 6


def test_drafts_of_the_killed_are_removed(run, store):
    here(run, TRIALS[:1], store)
    for name in (f".{key(TRIALS[1])}.json.7.draft", f"work/.{key(TRIALS[1])}.safetensors.7.draft"):
        (store.folder / name).write_text("half")
    here(run, TRIALS, store)
    assert len(files(store)) == 6


def test_a_failure_is_kept_and_stops_nothing(run, log, store):
    def some_fail(trial, checkpoint):
        return (broken if trial.number % 2 else run)(trial, checkpoint)

    report = here(some_fail, TRIALS, store)
    assert (report.done, [trial.number for trial, _ in report.failed]) == (3, [1, 3, 5])
    assert not report.complete
    assert report.failed[0][1] == store.failure(TRIALS[1])
    assert "in broken" in store.failure(TRIALS[1])
    assert str(report).splitlines()[1] == (
        "Trial(number=1, seconds=0.0): ArithmeticError: number 1 does not add up"
    )
    again = here(run, TRIALS, store)
    assert (again.present, again.done, again.failed) == (3, 0, report.failed)
    assert numbers(log) == [0, 2, 4]
    assert here(run, TRIALS, store, retry=True).complete
    assert numbers(log) == [0, 2, 4, 1, 3, 5]
    assert store.failure(TRIALS[1]) is None
    assert len(files(store)) == 6


def test_a_failure_may_fail_again(store):
    here(broken, TRIALS[:2], store)
    assert len(here(broken, TRIALS[:2], store, retry=True).failed) == 2


@pytest.mark.parametrize("found", [{"x": float("nan")}, {"x": float("inf")}, {"x": {1}}, 7, None])
def test_what_json_does_not_know_is_a_failure(found, store):
    assert len(here(lambda *_: found, TRIALS[:1], store).failed) == 1
    assert list(store.entries()) == []


def test_a_run_that_exits_is_a_failure(run, store):
    def leave(trial, checkpoint):
        raise SystemExit(3)

    assert len(here(leave, TRIALS, store).failed) == 6
    with ThreadPoolExecutor(2) as pool:
        report = here(leave, TRIALS, store, retry=True, executor=pool, processes=None)
    assert len(report.failed) == 6


def test_a_checkpoint_that_leads_nowhere_goes(store):
    """Else it would stop every new try; one that the run has renewed stays."""

    def resume(trial, checkpoint):
        if checkpoint.exists():
            raise ValueError("what a checkpoint")
        return {}

    def advance(trial, checkpoint):
        checkpoint.with_name("draft").write_text("further")
        checkpoint.with_name("draft").replace(checkpoint)
        raise MemoryError

    here(advance, TRIALS[:1], store)
    here(advance, TRIALS[:1], store, retry=True)
    assert store.checkpoint(TRIALS[0]).exists()
    here(resume, TRIALS[:1], store, retry=True)
    assert not store.checkpoint(TRIALS[0]).exists()
    assert here(resume, TRIALS[:1], store, retry=True).complete


def test_it_is_quiet_where_nobody_looks(run, store, capfd):
    here(run, TRIALS[:2], store, progress=True)  # the output is no terminal
    here(run, TRIALS, store, progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": -1}, "processes must be >= 0, got -1"),
        ({"processes": 1.5}, "processes must be an integer, got 1.5"),
        ({"executor": object(), "processes": 0}, "processes must be None beside an executor"),
        ({"store": "folder"}, "store must be a Store, got 'folder'"),
    ],
)
def test_bad_arguments(options, message, run, store):
    options = {"store": store, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        sweep(run, TRIALS, options.pop("store"), **options)


# Executors.


def test_threads(run, log, store):
    trials = [Trial(number, 0.01) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        assert here(run, trials, store, executor=pool, processes=None).done == 20
        assert pool.submit(int).result() == 0  # it is left open
    assert sorted(numbers(log)) == list(range(20))


def test_a_folder_is_where_it_was_for_all(run, tmp_path, monkeypatch):
    """An executor may run in another folder than the one the store's path begins at."""

    class Elsewhere:
        def submit(self, function, *arguments):
            os.chdir(tmp_path / "other")
            function(*arguments)
            os.chdir(tmp_path)
            return done("done")

    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    assert here(run, TRIALS, Store("store"), executor=Elsewhere(), processes=None).complete
    assert len(list(Store(tmp_path / "store").entries())) == 6


def done(result):
    future = Future()
    (future.set_exception if isinstance(result, BaseException) else future.set_result)(result)
    return future


class Unwilling:
    """An executor that takes some calls, and loses them."""

    def __init__(self, calls):
        self.calls = calls

    def submit(self, *_):
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("closed")
        return done(OSError("lost on the way"))


def test_what_an_executor_loses_is_lost_and_can_be_run_again(run, store):
    report = here(run, TRIALS, store, executor=Unwilling(2), processes=None)
    reasons = [reason for _, reason in report.lost]
    assert reasons == 4 * ["RuntimeError: closed"] + 2 * ["OSError: lost on the way"]
    assert not report.complete
    assert str(report).splitlines()[0] == "0 done, 0 there before, 0 failed, 6 lost"
    assert not store.folder.exists()
    assert here(run, TRIALS, store).done == 6


def test_a_disk_that_is_full_loses_the_run(run, store, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", full)
        report = here(run, TRIALS, store)
    assert [reason for _, reason in report.lost] == 6 * ["OSError: No space left on device"]
    assert here(run, TRIALS, store).done == 6


def test_each_call_is_another(run, store):
    """Dask takes equal calls for one, and would say "busy" for ever."""
    calls = []

    class Calls:
        def submit(self, _, *arguments):
            calls.append(arguments)
            return done("busy" if len(calls) < 3 else "done")

    assert here(run, TRIALS[:1], store, executor=Calls(), processes=None).done == 1
    assert len(set(calls)) == 3


def test_an_interrupt_cancels_what_has_not_begun(run, store, monkeypatch):
    futures = []

    class Slow:
        def submit(self, *_):
            futures.append(Future())
            return futures[-1]

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        here(run, TRIALS, store, executor=Slow(), processes=None)
    assert [future.cancelled() for future in futures] == 6 * [True]


def test_a_pool_of_its_own_loses_a_worker_and_later_goes_on(log, store):
    """The system kills whom it likes, for want of memory among others."""
    run = partial(draw_or_be_killed, log=log)
    first = here(run, TRIALS, store, processes=1)
    assert first.lost
    assert all("BrokenProcessPool" in reason for _, reason in first.lost)
    assert (first.done + len(first.lost), first.failed) == (6, [])
    assert len(list(store.entries())) == first.done
    assert here(run, TRIALS, store).complete
    assert len({process for _, process in noted(log)} - {os.getpid()}) == 1


def test_an_interrupt_ends_the_pool_at_once(log, store):
    """Only the parent gets the signal, as in a notebook; its workers are at runs of an hour."""
    trials = [Trial(number, 3600.0) for number in range(8)]
    run = partial(draw, log=log)
    process = FORKS.Process(target=drive, args=(run, trials, store.folder, 2))
    process.start()
    wait_for(lambda: len(noted(log)) == 2)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 7
    wait_for(lambda: all(has_ended(worker) for _, worker in noted(log)))
    assert len(noted(log)) == 2  # and begin no other


# Several at once.


def test_two_sweeps_on_one_store_run_each_once(run, log, store):
    trials = [Trial(number, 0.03) for number in range(24)]
    sweeps = [FORKS.Process(target=drive, args=(run, trials, store.folder, 0)) for _ in range(2)]
    for process in sweeps:
        process.start()
    for process in sweeps:
        process.join()
    assert [process.exitcode for process in sweeps] == [0, 0]
    assert sorted(numbers(log)) == list(range(24))
    assert len({process for _, process in noted(log)}) == 2
    assert len(results(store, trials)) == 24


@pytest.fixture
def held(log, store):
    """A run that another process is at, until it is released."""
    run = partial(draw_once_released, log=log)
    process = FORKS.Process(target=drive, args=(run, TRIALS[:1], store.folder, 0))
    process.start()
    wait_for(lambda: noted(log))
    yield process
    process.kill()
    process.join()


def test_a_run_that_another_is_at_is_waited_for(held, run, log, store):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(here, run, TRIALS, store)
        wait_for(lambda: len(list(store.entries())) == 5)
        assert not waiting.done()
        log.with_name("release").touch()
        report = waiting.result(60)
    assert (report.done, report.complete) == (6, True)
    assert [process for number, process in noted(log) if number == 0] == 2 * [held.pid]


def test_a_run_whose_holder_dies_is_taken_over(held, run, log, store):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(here, run, TRIALS, store)
        wait_for(lambda: len(list(store.entries())) == 5)
        assert not waiting.done()
        held.kill()
        assert waiting.result(60).done == 6
    assert [process for number, process in noted(log) if number == 0] == [held.pid, os.getpid()]


# Acceptance.


def test_a_sweep_killed_ten_times_comes_to_its_end(run, log, store):
    """Only the parent is killed, at random moments: as it starts, or amid the runs."""
    trials = [Trial(number, 0.1) for number in range(40)]
    moments = random.Random(40)
    for attempt in range(10):
        before = len(noted(log))
        process = FORKS.Process(target=drive, args=(run, trials, store.folder, 2))
        process.start()
        if attempt % 2:
            wait_for(lambda: len(noted(log)) > before or not process.is_alive())  # noqa: B023
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    killed = {worker for _, worker in noted(log)}
    report = here(run, trials, store)
    assert (report.present + report.done, report.complete) == (40, True)
    assert [result["number"] for result in results(store, trials)] == list(range(40))
    assert results(store, trials) == [draw(t, log.with_name("x"), log=log) for t in trials]
    assert files(store) == sorted(f"{key(trial)}.json" for trial in trials)
    wait_for(lambda: all(map(has_ended, killed)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers of Dask."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as cluster:
        yield cluster


@pytest.mark.filterwarnings("ignore")  # of Dask itself
def test_a_cluster_that_loses_a_worker_has_the_results_of_one_process(
    cluster, log, store, tmp_path
):
    trials = [Trial(number, 0.05) for number in range(16)]
    run = partial(draw_or_be_killed, log=log)
    with cluster.get_client() as client, client.get_executor() as executor:
        report = here(run, trials, store, executor=executor, processes=None)
    assert (report.done, report.complete) == (16, True)
    assert numbers(log).count(5) == 2
    alone = Store(tmp_path / "alone")
    here(partial(draw, log=log), trials, alone)
    assert results(store, trials) == results(alone, trials)


@pytest.mark.filterwarnings("ignore")
def test_the_command_line_runs_on_a_cluster(cluster, tmp_path, monkeypatch, capsys):
    """Its workers live in another folder than the command; what runs here would fail."""
    configs = tuple(Config(data="digits", width=12, steps=3, seed=seed) for seed in range(2))
    monkeypatch.setattr(tables, "TABLES", {"small": tables.Table("Small nets", configs, configs)})
    monkeypatch.setattr(runs, "run", broken)
    monkeypatch.chdir(tmp_path)
    command = ["run", "small", "--device", "cpu", "--dask", cluster.scheduler_address]
    assert main(command) == 0
    assert capsys.readouterr().out == "2 done, 0 there before, 0 failed, 0 lost\n"
    assert all(Store(tmp_path / "results").holds(config) for config in configs)
