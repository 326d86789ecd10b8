"""The project itself: one environment in three files, what is published, names and imports."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path
from sysconfig import get_path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import heavytail

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PACKAGE = ROOT / "heavytail"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def locked():
    """Return the pins of the lock: name -> version."""
    pins = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert "+" not in version  # a local version can be installed from one index only
            pins[canonicalize_name(name)] = version
    return pins


# One environment.


def test_hard_dependencies_are_three():
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "scipy"}
    assert {"book", "experiments", "suite", "test"} == set(PROJECT["optional-dependencies"])


def test_the_lock_is_what_pyproject_asks_for_and_what_is_installed():
    """And whatever a locked package needs is locked too, so that nothing comes by itself.

    But for what torch needs on some platforms: the CUDA that PyPI's brings, and its CPU build not.
    """
    pins = locked()
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *chain(*extras)]:
        if not line.startswith("heavytail["):
            need = Requirement(line)
            assert need.specifier.contains(pins[canonicalize_name(need.name)]), line
    # sys.path may hold more: setuptools, once imported, puts its own bundled packages there.
    found = distributions(path=sorted({get_path("purelib"), get_path("platlib")}))
    here = {canonicalize_name(each.metadata["Name"]): each for each in found}
    for name, version in pins.items():
        assert here[name].version.split("+")[0] == version
        for need in map(Requirement, here[name].requires or []):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                cuda = name == "torch" and "platform" in str(need.marker)
                assert cuda or canonicalize_name(need.name) in pins, need


def test_conda_takes_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    (python,) = (line.split("=")[1] for line in packages if line.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


# What is published.


def test_versions_agree():
    """The changelog's first entry is this version; once it has a day, the citation has it too."""
    assert PROJECT["dynamic"] == ["version"]
    dynamic = PYPROJECT["tool"]["setuptools"]["dynamic"]
    assert dynamic == {"version": {"attr": "heavytail.__version__"}}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    day = str(citation.get("date-released", "unreleased"))
    assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", day)
    assert headings[0] == f"## {citation['version']} ({day})"
    assert citation["version"] == str(Version(heavytail.__version__)) == heavytail.__version__
    older = [re.fullmatch(r"## (\S+) \(\d{4}-\d\d-\d\d\)", heading)[1] for heading in headings[1:]]
    versions = [Version(v) for v in (heavytail.__version__, *older)]
    assert versions == sorted(set(versions), reverse=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the sdist, and from it alone the wheel; the names in each, and the wheel's metadata."""
    tree = tmp_path_factory.mktemp("tree")
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, tree)
    junk = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("heavytail", "tests", "tools", "benchmarks", "book"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=junk)
    stem = f"heavytail-{heavytail.__version__}"
    build("sdist", tree)
    with tarfile.open(tree / "dist" / f"{stem}.tar.gz") as sdist:
        sdist.extractall(tree / "unpacked", filter="data")
        sources = {m.name.removeprefix(f"{stem}/") for m in sdist.getmembers() if m.isfile()}
    build("wheel", tree / "unpacked" / stem)
    (file,) = (tree / "unpacked" / stem / "dist").glob(f"{stem}-py3-none-any.whl")
    with zipfile.ZipFile(file) as wheel:
        metadata = wheel.read(f"{stem}.dist-info/METADATA").decode()
        return sources, set(wheel.namelist()), metadata


def build(kind, tree):
    """Build in a folder, by the backend that pyproject names."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)


def test_what_is_published_holds_the_package_and_its_papers(built):
    """No notebook, nothing of the book, and no half of the tests, which setuptools would add."""
    sources, wheel, metadata = built
    papers = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    by_setuptools = {"PKG-INFO", "setup.cfg"}
    made = {name for name in sources if name.startswith("heavytail.egg-info/")}
    files = [*MODULES.values(), PACKAGE / "py.typed"]
    package = {str(path.relative_to(ROOT)) for path in files}
    assert sources - made == package | papers | {"pyproject.toml", "MANIFEST.in"} | by_setuptools
    info = f"heavytail-{heavytail.__version__}.dist-info"
    by_setuptools = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "top_level.txt")}
    assert wheel == package | by_setuptools | {f"{info}/licenses/LICENSE"}
    lines = metadata.splitlines()
    assert f"Version: {heavytail.__version__}" in lines
    assert "License-Expression: MIT" in lines
    needs = {Requirement(line.split(": ")[1]) for line in lines if line.startswith("Requires-Dist")}
    assert {n for n in needs if n.marker is None} == set(map(Requirement, PROJECT["dependencies"]))


# The workflows.


WORKFLOWS = {
    path.name: yaml.load(path.read_text(), yaml.BaseLoader)  # else "on" is the truth
    for path in sorted((ROOT / ".github" / "workflows").iterdir())
}


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def test_workflows_start_when_they_should():
    assert list(WORKFLOWS) == ["book.yml", "release.yml", "test.yml"]
    assert WORKFLOWS["book.yml"]["on"] == {"push": {"branches": ["main"]}}
    assert WORKFLOWS["release.yml"]["on"] == {"push": {"tags": ["v*"]}}
    assert set(WORKFLOWS["test.yml"]["on"]) == {"workflow_call", "pull_request", "schedule"}
    runs = {s["run"]: s.get("if") for s in steps_of(WORKFLOWS["test.yml"]) if "run" in s}
    weekly = "github.event_name == 'schedule'"
    assert runs == {"bash .ci/run": None, "make long": weekly, "make versions": None}
    assert WORKFLOWS["test.yml"]["jobs"]["versions"]["if"] == weekly
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_call_what_is_there_and_cannot_move(name):
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for step in steps_of(WORKFLOWS[name]):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
        elif step["run"].startswith("make "):
            assert set(step["run"].split()[1:]) <= set(targets.split())
    called = [job["uses"] for job in WORKFLOWS[name]["jobs"].values() if "uses" in job]
    assert set(called) <= {"./.github/workflows/test.yml"}


def test_nothing_is_published_untested_and_only_what_publishes_may_write():
    order = {("build", "test"), ("publish", "build"), ("test", None)}
    writing = set()
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}
        jobs = workflow["jobs"]
        if name != "test.yml":
            assert {(job, content.get("needs")) for job, content in jobs.items()} == order
            assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
        for job, content in jobs.items():
            rights = content.get("permissions", {})
            writing |= {(name, job, right) for right in rights if rights[right] == "write"}
    assert writing == {
        ("book.yml", "publish", "pages"),
        ("book.yml", "publish", "id-token"),
        ("release.yml", "publish", "contents"),
    }


@pytest.mark.parametrize(
    ("tag", "heading", "accepted"),
    [
        ("v1.2.3", "## 1.2.3 (2026-05-04)", True),
        ("v1.2.4", "## 1.2.3 (2026-05-04)", False),
        ("1.2.3", "## 1.2.3 (2026-05-04)", False),
        ("v1.2.3", "## 1.2.3 (unreleased)", False),
        ("v1.2.3", "## 1.2.2 (2026-05-04)", False),
    ],
)
def test_a_release_is_what_its_tag_says(tag, heading, accepted, tmp_path):
    runs = [step.get("run", "") for step in steps_of(WORKFLOWS["release.yml"])]
    (check,) = (run for run in runs if "__version__" in run)
    (tmp_path / "heavytail").mkdir()
    (tmp_path / "heavytail" / "__init__.py").write_text('x = 1\n__version__ = "1.2.3"\n')
    changes = f"# Changelog\n\n{heading}\n\n- New.\n\n## 1.0.0 (2025-01-01)\n\n- Old.\n"
    (tmp_path / "CHANGELOG.md").write_text(changes)
    run = subprocess.run(
        ["bash", "-e", "-c", check],
        cwd=tmp_path,
        env={**os.environ, "GITHUB_REF_NAME": tag},
        check=False,
    )
    assert (run.returncode == 0) == accepted
    if accepted:
        assert (tmp_path / "notes.md").read_text().strip() == "- New."


# Names and imports.


# What the book and other people's code rely on: what may be passed by place, in its order, and what
# by name only.
PARAMETERS = {
    "symmetric_stable": ("alpha size", "scale generator device dtype"),
    "positive_stable": ("alpha size", "generator device dtype"),
    "stable": ("alpha beta size", "loc scale parameterization generator device dtype"),
    "tail_constant": ("alpha", ""),
    "Stable": ("alpha beta loc scale parameterization", ""),
    "noise_vectors": ("kind alpha n d", "generator device dtype"),
    "StableNoise": ("optimizer params", "alpha scale kind seed"),
    "hidden_weights": ("model", "exclude"),
    "hill": ("x k", ""),
    "log_moment": ("x block", ""),
    "stable_mle": ("x", ""),
    "MeanField": ("x y h loss", ""),
    "simulate": ("problem n", "T steps alpha sigma kind seed"),
    "chaos_error": ("problem widths", "T steps alpha sigma kind seeds reference"),
    "euler_error": ("problem steps", "T n alpha sigma kind seeds reference"),
    "column_norms": ("weight", ""),
    "relative_error": ("weight kept", ""),
    "prune": ("model", "keep error layers unit scope"),
    "compact": ("model", ""),
    "pruning_error_law": ("alpha keep n", "columns"),
    "required_width": ("alpha keep error delta", "columns"),
    "predict_pruning": ("model", "alpha scale kind lr steps error generator"),
    "plan_scale": ("model", "alpha kind lr steps error ratio"),
}


OTHERS = """
    Certificate ColumnLaw FunctionReport HillCurve LambdaNoise LayerReport Prediction PruneReport
    PruningErrorLaw Rates TailEstimate Trajectory certificate compression_bound fokker_planck
    function_error hill_curve kept_columns linear_gap_scale noise_tail_constant quantize refit
"""


def test_public_names():
    """All of them: a name that goes, or comes, does so here too."""
    assert heavytail.__all__ == sorted([*PARAMETERS, *OTHERS.split()])
    assert all(getattr(heavytail, name).__doc__ for name in heavytail.__all__)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_public_names(name):
    """Any others are options."""
    found = inspect.signature(getattr(heavytail, name)).parameters
    places, names = (words.split() for words in PARAMETERS[name])
    assert list(found)[: len(places)] == places
    assert all(found[each].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for each in places)
    assert all(found[each].kind is inspect.Parameter.KEYWORD_ONLY for each in names)
    others = found.keys() - {*places, *names}
    assert all(found[each].default is not inspect.Parameter.empty for each in others)


def test_importing_the_package_is_light():
    code = "import sys, torch, heavytail; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"IPython", "matplotlib", "sklearn", "torchvision", "pooch", "heavytail.experiments"}
    assert not heavy & set(run.stdout.split())


# Each room may import those above it, and its own.
ROOMS = ["_check", "layers", "laws", "noise", "limit", "compression", "plots", "experiments"]


def imported_by(module):
    """Return the modules of ours that one imports."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("heavytail.") and name in MODULES} - {module}


def test_imports_run_downwards():
    for module in MODULES.keys() - {"heavytail"}:
        room = module.split(".")[1]
        assert room in ROOMS, f"{module} is in no room"
        for other in imported_by(module):
            assert ROOMS.index(other.split(".")[1]) <= ROOMS.index(room), (
                f"{module} imports {other}"
            )


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({module: imported_by(module) for module in MODULES}).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_the_house_is_small():
    def lines(*paths):
        return [len(path.read_text().splitlines()) for path in paths]

    assert max(lines(*MODULES.values())) <= 400
    assert sum(lines(*MODULES.values())) <= 7170  # and 7,150 is what it is to be
    around = ("tests", "tools", "benchmarks")
    assert sum(sum(lines(*(ROOT / folder).rglob("*.py"))) for folder in around) <= 11000


def test_the_package_has_a_test_for_each_module():
    """But the density, whose integrals are tested by the distribution that they serve."""
    for path in MODULES.values():
        if not path.name.startswith("_") and path.name != "density.py":
            relative = path.relative_to(PACKAGE).with_name(f"test_{path.name}")
            assert (ROOT / "tests" / relative).exists()


def test_no_code_is_loaded_from_a_file():
    for folder in ("heavytail", "tools", "book", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            assert not re.search(r"import pickle|allow_pickle=True|weights_only=False", text), path
            # The second only names a line of the official script.
            saving = (PACKAGE / "experiments" / "train.py", ROOT / "benchmarks" / "official.py")
            assert "torch.save(" not in text or path in saving, path
            loads = re.findall(r"torch\.load\(.*?\)\n", text, re.DOTALL)
            assert all("weights_only=True" in call for call in loads), path


def test_the_readme_gives_the_two_commands():
    first_screen = (ROOT / "README.md").read_text()[:2500]
    for command in ("make book", "make test"):
        assert command in first_screen
