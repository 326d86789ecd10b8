import json
import os
import re
import subprocess

import pytest
import torch

import heavytail
from heavytail.experiments.provenance import commit, origin


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
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        git(package.parent, *words)
    return package


def git(folder, *words):
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *me, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    return done.stdout.strip()


def fresh():
    """Return the commit as a new process finds it."""
    return commit.__wrapped__()


def test_the_commit_tells_whether_files_have_changed(clone):
    head = git(clone, "rev-parse", "HEAD")
    assert fresh() == head
    (clone.parent / "notes").write_text("beside the package")
    (clone / "results.json").write_text("not part of it")
    assert fresh() == head
    (clone / "__init__.py").write_text("changed = True\n")
    assert fresh() == f"{head}+"


def test_the_commit_is_found_in_a_hook_too(clone, tmp_path, monkeypatch):
    """Git tells its hooks, among them the tests before a commit, about another repository."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert fresh() == git(clone, "rev-parse", "HEAD")


def test_asking_leaves_the_index_alone(clone):
    """Git would renew it, and a commit that is made meanwhile would find it locked."""
    index = clone.parent / ".git" / "index"
    os.utime(clone / "__init__.py", (1, 1))
    before = index.read_bytes()
    fresh()
    assert index.read_bytes() == before


def test_a_package_that_is_not_in_a_clone_of_its_own_has_no_commit(clone, monkeypatch):
    inside = clone / "site-packages" / "heavytail"
    inside.mkdir(parents=True)
    monkeypatch.setattr(heavytail, "__file__", str(inside / "__init__.py"))
    assert fresh() is None


def test_without_git_there_is_no_commit(clone, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert fresh() is None
