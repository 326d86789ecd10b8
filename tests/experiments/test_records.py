import json
import math
import os
import re
import subprocess
from dataclasses import dataclass, make_dataclass

import numpy as np
import pytest
import torch

import heavytail
from heavytail.experiments import records
from heavytail.experiments.records import Store, commit, key, origin, plain


@dataclass(frozen=True)
class Trial:
    number: int
    seconds: float = 0.0


TRIALS = [Trial(number) for number in range(4)]
DONE = {"result": {"x": 1.5}, "seconds": 0.1}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "new" / "runs.json", what="trials", command="try them")


def entry(store, trial):
    """Return the entry of a run, None if there is none."""
    return store.find([trial])[0]


# Plain values and names.


def test_plain_values():
    value = {"a": (np.float64(0.1), np.arange(2)), 1: torch.tensor([True, False]), "none": None}
    assert plain(value) == {"a": [0.1, [0, 1]], "1": [True, False], "none": None}
    assert plain([Trial(2), math.pi], digits=3) == [{"number": 2, "seconds": 0.0}, 3.14]
    back = [float(word) for word in json.loads(json.dumps(plain([math.nan, math.inf, -np.inf])))]
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf]
    with pytest.raises(TypeError, match=r"a run must hold plain values, got \{1\}"):
        plain({"x": [{1}]})


def test_a_name_is_a_hash_of_what_the_configuration_says():
    assert key(Trial(3)) == key(Trial(3, 0.0)) == "339e14c131e503ba"
    turned = make_dataclass("Turned", [("seconds", float), ("number", int)])
    assert key(turned(2.0, 3)) == key(Trial(3, 2.0))
    assert len({key(trial) for trial in TRIALS}) == 4
    with pytest.raises(TypeError, match="must be a dataclass, got 3"):
        key(3)


def test_a_field_with_a_default_renames_nothing(store):
    store.write(Trial(3), DONE)
    fields = [("number", int), ("seconds", float, 0.0), ("kinds", tuple, ("a", "b"))]
    later = make_dataclass("Trial", fields)
    assert key(later(3)) == key(Trial(3))
    assert entry(store, later(3)) == {"config": {"number": 3, "seconds": 0.0}, **DONE}
    assert entry(store, later(3, kinds=("b",))) is None


# The file.


def test_a_run_is_a_line_of_a_document(store):
    assert (records.read(store.path), store.find(TRIALS[:1])) == ([], [None])
    assert not store.path.parent.exists()
    for trial in TRIALS[:3]:
        store.write(trial, DONE)
    assert store.find(TRIALS[1::2]) == [{"config": {"number": 1, "seconds": 0.0}, **DONE}, None]
    text = store.path.read_text()
    assert text.count("\n") == 7  # a change of one run is seen as one
    content = json.loads(text)
    assert (content["what"], content["command"]) == ("trials", "try them")
    assert content["runs"] == records.read(store.path) == store.find(TRIALS[:3])


def test_entries_come_in_the_order_that_is_wanted(store):
    other = make_dataclass("Other", [("width", int)])(7)
    for config in (other, *TRIALS[:2]):
        store.write(config, DONE)
    assert store.find([other, TRIALS[1], TRIALS[2]]) == [*records.read(store.path)[::2], None]
    store.write(TRIALS[2], DONE, map(key, TRIALS[::-1]))
    assert [e["config"].get("number") for e in records.read(store.path)] == [2, 1, 0, None]


def test_a_write_that_is_stopped_leaves_the_file(store, monkeypatch):
    store.write(TRIALS[0], DONE)
    before = store.path.read_text()
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.write(TRIALS[1], DONE)
    assert store.path.read_text() == before
    assert not entry(store, TRIALS[1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:30],
        lambda line: line.replace('"result"', '"resul"'),
        lambda line: line.replace('{"x":1.5}', "7"),
        lambda line: "\x00\xff" + line,
    ],
)
def test_a_damaged_entry_is_named_and_passed_over(damage, store):
    for trial in TRIALS:
        store.write(trial, DONE)
    lines = store.path.read_text().splitlines()
    lines[4] = damage(lines[4])  # of number 1
    store.path.write_text("\n".join(lines), encoding="latin-1")
    named = r"runs.json: a damaged entry is passed over: .*number"
    with pytest.warns(UserWarning, match=named):
        assert [found is not None for found in store.find(TRIALS)] == [True, False, True, True]
    with pytest.warns(UserWarning, match=named):
        store.write(TRIALS[1], DONE)
    assert len(records.read(store.path)) == 4


def test_an_entry_that_cannot_be_decoded_is_named_and_passed_over(store):
    for trial in TRIALS:
        store.write(trial, {"result": {"x": 1.0, "n": 1} if trial.number == 1 else {"x": 2.0}})
    with pytest.warns(UserWarning, match=r"runs.json: a damaged entry .*'number': 1.*KeyError"):
        found = records.read(store.path, lambda entry: {"x": float}[list(entry["result"])[-1]])
    assert found == [float] * 3
    assert len(records.read(store.path)) == 4


@pytest.mark.parametrize("text", ["", "[]", '{"what": 1}', '{"runs": 1}', "# A title\n"])
def test_what_is_no_record_is_refused_and_left(text, store):
    store.path.parent.mkdir()
    store.path.write_text(text)
    for use in (lambda: records.read(store.path), lambda: store.write(TRIALS[0], DONE)):
        with pytest.raises(ValueError, match=r"runs.json must be a record of runs, got"):
            use()
    assert store.path.read_text() == text


# The origin.


def test_a_record_says_when_on_what_and_with_which_versions():
    found = origin("pytest", "a_package_that_is_not_there")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found["machine"]
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["heavytail"] == heavytail.__version__
    assert found["versions"]["pytest"] is not None
    assert found["versions"]["a_package_that_is_not_there"] is None
    json.dumps(found)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository that holds a package of our name, and no other."""
    package = tmp_path / "clone" / "heavytail"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(heavytail, "__file__", str(package / "__init__.py"))
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for words in (["init", "-q"], ["add", "."], [*me, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=package.parent, check=True, env=own)
    return package


def fresh():
    """Return the commit as a new process finds it."""
    return commit.__wrapped__()


def test_the_commit_tells_whether_files_have_changed(clone, tmp_path, monkeypatch):
    """In a hook of git too, which tells of another repository; and the index is left alone."""
    index = clone.parent / ".git" / "index"
    os.utime(clone / "__init__.py", (1, 1))
    before = index.read_bytes()
    (clone.parent / "notes").write_text("beside the package")
    (clone / "results.json").write_text("not part of it")
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", str(tmp_path / "none"))
        head = fresh()
    assert re.fullmatch("[0-9a-f]{40}", head)
    assert index.read_bytes() == before
    (clone / "__init__.py").write_text("changed = True\n")
    assert fresh() == f"{head}+"


def test_without_a_clone_of_its_own_or_git_there_is_no_commit(clone, monkeypatch):
    inside = clone / "site-packages" / "heavytail"
    inside.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(heavytail, "__file__", str(inside / "__init__.py"))
        assert fresh() is None
    monkeypatch.setenv("PATH", "")
    assert fresh() is None
