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
from importlib.metadata import distributions
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


def locked():
    """Return the pins of the lock: name -> version."""
    pins = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    return pins


def installed():
    """Return the distributions of this environment; sys.path may name more of them.

    setuptools, once imported, puts its own bundled packages on the path.
    """
    return distributions(path=sorted({get_path("purelib"), get_path("platlib")}))


def wanted():
    """Return what pyproject asks for, in the package and all extras."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    return [Requirement(line) for line in lines if not line.startswith("heavytail[")]


# One environment.


def test_hard_dependencies_are_three():
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "scipy"}
    assert {"book", "test", "experiments"} == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
def test_the_lock_satisfies_pyproject(requirement):
    pins = locked()
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_the_lock_is_what_is_installed():
    versions = {canonicalize_name(d.metadata["Name"]): d.version for d in installed()}
    for name, version in locked().items():
        assert versions[name].split("+")[0] == version


def unlocked(name, requires, pins):
    """Return what a locked package needs here and the lock does not name.

    PyPI's torch brings CUDA on Linux, by needs that name the platform. The lock serves torch's CPU
    build too, which has none of them, and leaves them to the build.
    """
    missing = []
    for need in map(Requirement, requires):
        marker = str(need.marker or "")
        if name == "torch" and re.search(r"\b(platform_system|sys_platform) *==", marker):
            continue
        here = need.marker is None or need.marker.evaluate({"extra": ""})
        if here and canonicalize_name(need.name) not in pins:
            missing.append(str(need))
    return missing


def test_the_lock_is_closed():
    """Whatever a locked package needs is locked too, so that nothing comes by itself."""
    pins = locked()
    for distribution in installed():
        name = canonicalize_name(distribution.metadata["Name"])
        if name in pins:
            assert unlocked(name, distribution.requires or [], pins) == []


def test_the_lock_is_open_only_where_torch_brings_cuda():
    here = f'sys_platform == "{sys.platform}"'
    cuda = ['nvidia-cudnn-cu13==9.1; platform_system == "Linux"', f"triton==3.7; {here}"]
    assert unlocked("torch", cuda, {}) == []
    assert unlocked("torch", ["filelock", 'sympy; python_version >= "3"'], {"filelock": "1"}) == [
        'sympy; python_version >= "3"'
    ]
    assert unlocked("numpy", [f"triton==3.7; {here}"], {}) == [f"triton==3.7; {here}"]


def test_the_lock_names_plain_versions():
    """A local version as 2.13.0+cpu can be installed from one index only."""
    assert not [version for version in locked().values() if "+" in version]


def test_conda_takes_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    (python,) = (line.split("=")[1] for line in packages if line.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


# What is published.


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    dynamic = PYPROJECT["tool"]["setuptools"]["dynamic"]
    assert dynamic == {"version": {"attr": "heavytail.__version__"}}
    assert str(Version(heavytail.__version__)) == heavytail.__version__


def test_versions_agree():
    """The changelog's first entry is this version; once it has a day, the citation has it too."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    day = str(citation.get("date-released", "unreleased"))
    assert headings[0] == f"## {citation['version']} ({day})"
    assert citation["version"] == heavytail.__version__
    assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", day)
    older = [re.fullmatch(r"## (\S+) \(\d{4}-\d\d-\d\d\)", heading) for heading in headings[1:]]
    assert all(older)
    versions = [Version(v) for v in (heavytail.__version__, *(entry[1] for entry in older))]
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


def package_files():
    files = [*(ROOT / "heavytail").rglob("*.py"), ROOT / "heavytail" / "py.typed"]
    return {str(path.relative_to(ROOT)) for path in files}


def test_the_sdist_holds_the_package_and_its_papers(built):
    """No notebook, nothing of the book, and no half of the tests, which setuptools would add."""
    sources = {name for name in built[0] if not name.startswith("heavytail.egg-info/")}
    papers = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    assert sources == package_files() | papers | {
        *("pyproject.toml", "MANIFEST.in"),
        *("PKG-INFO", "setup.cfg"),  # by setuptools
    }


def test_the_wheel_holds_the_package_and_its_licence(built):
    info = f"heavytail-{heavytail.__version__}.dist-info"
    by_setuptools = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "top_level.txt")}
    assert built[1] == package_files() | by_setuptools | {f"{info}/licenses/LICENSE"}


def test_the_wheel_says_what_pyproject_says(built):
    lines = built[2].splitlines()
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


def test_there_are_three_workflows_and_they_start_when_they_should():
    assert list(WORKFLOWS) == ["book.yml", "release.yml", "test.yml"]
    assert WORKFLOWS["book.yml"]["on"] == {"push": {"branches": ["main"]}}
    assert WORKFLOWS["release.yml"]["on"] == {"push": {"tags": ["v*"]}}
    assert set(WORKFLOWS["test.yml"]["on"]) == {"workflow_call", "pull_request", "schedule"}
    runs = {
        step["run"]: step.get("if") for step in steps_of(WORKFLOWS["test.yml"]) if "run" in step
    }
    assert runs == {"bash .ci/run": None, "make long": "github.event_name == 'schedule'"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_call_what_is_there(name):
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for step in steps_of(WORKFLOWS[name]):
        words = step.get("run", "").split()
        if words[:1] == ["make"]:
            assert set(words[1:]) <= set(targets.split())
        elif words[:1] == ["bash"]:
            assert (ROOT / words[1]).exists()
    for job in WORKFLOWS[name]["jobs"].values():
        if "uses" in job:
            called = WORKFLOWS[Path(job["uses"]).name]
            assert job["uses"].startswith("./.github/workflows/")
            assert "workflow_call" in called["on"]


def test_nothing_is_published_untested():
    for name, job in (("book.yml", "publish"), ("release.yml", "release")):
        jobs = WORKFLOWS[name]["jobs"]
        assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
        assert jobs[job]["needs"] == "test"
    runs = [step.get("run", "") for step in steps_of(WORKFLOWS["book.yml"])]
    assert "make book" in runs
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_only_what_publishes_may_write():
    writing = set()
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}
        for job, content in workflow["jobs"].items():
            rights = content.get("permissions", {})
            writing |= {(name, job, right) for right in rights if rights[right] == "write"}
    assert writing == {
        ("book.yml", "publish", "pages"),
        ("book.yml", "publish", "id-token"),
        ("release.yml", "release", "contents"),
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


# All of them: a name that goes, or comes, does so here too.
NAMES = [
    "Certificate",
    "ColumnLaw",
    "HillCurve",
    "LambdaNoise",
    "LayerReport",
    "MeanField",
    "Prediction",
    "PruneReport",
    "PruningErrorLaw",
    "Rates",
    "Stable",
    "StableNoise",
    "TailEstimate",
    "Trajectory",
    "certificate",
    "chaos_error",
    "column_norms",
    "compact",
    "compression_bound",
    "euler_error",
    "fokker_planck",
    "hidden_weights",
    "hill",
    "hill_curve",
    "kept_columns",
    "linear_gap_scale",
    "log_moment",
    "noise_tail_constant",
    "noise_vectors",
    "plan_scale",
    "positive_stable",
    "predict_pruning",
    "prune",
    "pruning_error_law",
    "quantize",
    "relative_error",
    "required_width",
    "simulate",
    "stable",
    "stable_mle",
    "symmetric_stable",
    "tail_constant",
]

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


def test_public_names():
    assert heavytail.__all__ == NAMES == sorted(NAMES)
    for name in NAMES:
        assert getattr(heavytail, name).__doc__


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_public_names(name):
    """Those that have come since are options."""
    found = inspect.signature(getattr(heavytail, name)).parameters.values()
    by_place = [each.name for each in found if each.kind is each.POSITIONAL_OR_KEYWORD]
    by_name = {each.name for each in found if each.kind is each.KEYWORD_ONLY}
    places, names = (words.split() for words in PARAMETERS[name])
    assert by_place[: len(places)] == places
    assert by_name >= set(names)
    others = [each for each in found if each.name not in {*places, *names}]
    assert all(each.default is not each.empty for each in others)


def test_importing_the_package_is_light():
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import heavytail; print(*set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "IPython",
        "matplotlib",
        "sklearn",
        "torchvision",
        "tqdm",
        "pooch",
        "heavytail.experiments",
    }
    assert not heavy & set(run.stdout.split())


# Each room may import those above it, and its own.
ROOMS = ["_check", "layers", "laws", "noise", "limit", "compression", "plots", "experiments"]


def imported_by(path):
    """Yield the room of every module of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports relatively"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("heavytail"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("heavytail."))


def test_imports_run_downwards():
    package = ROOT / "heavytail"
    for path in package.rglob("*.py"):
        if path == package / "__init__.py":
            continue
        room = path.relative_to(package).parts[0].removesuffix(".py")
        assert room in ROOMS, f"{path} is in no room"
        for other in set(imported_by(path)) & set(ROOMS):
            assert ROOMS.index(other) <= ROOMS.index(room), f"{room} imports {other}"


def test_the_package_has_a_test_for_each_module():
    for path in (ROOT / "heavytail").rglob("*.py"):
        if path.name.startswith("_"):
            continue
        relative = path.relative_to(ROOT / "heavytail")
        assert (ROOT / "tests" / relative.parent / f"test_{relative.name}").exists()


def test_no_pickle_is_written_or_read():
    for path in [*(ROOT / "heavytail").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        text = path.read_text()
        assert not re.search(r"torch\.(save|load)\(|import pickle|allow_pickle=True", text), path


def test_the_readme_gives_the_two_commands():
    first_screen = (ROOT / "README.md").read_text()[:2500]
    for command in ("make book", "make test"):
        assert command in first_screen
