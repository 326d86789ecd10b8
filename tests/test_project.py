"""The project itself: one environment in three files, the public names, the import directions."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from sysconfig import get_path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import heavytail

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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


def test_the_lock_is_closed():
    """Whatever a locked package needs is locked too, so that nothing comes by itself."""
    pins = locked()
    for distribution in installed():
        name = canonicalize_name(distribution.metadata["Name"])
        for line in distribution.requires or [] if name in pins else []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert canonicalize_name(need.name) in pins, f"{name} needs {need}"


def test_the_lock_names_plain_versions():
    """A local version as 2.13.0+cpu can be installed from one index only."""
    assert not [version for version in locked().values() if "+" in version]


def test_conda_takes_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    (python,) = (line.split("=")[1] for line in packages if line.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert heavytail.__version__ == PROJECT["version"] == citation["version"]
    assert f"## {heavytail.__version__}" in (ROOT / "CHANGELOG.md").read_text()


# Names and imports.


def test_public_names():
    """The names that the book and other people's code rely on."""
    fixed = {
        "Stable",
        "StableNoise",
        "MeanField",
        "chaos_error",
        "euler_error",
        "simulate",
        "hill",
        "log_moment",
        "stable_mle",
        "column_norms",
        "hidden_weights",
        "noise_vectors",
        "plan_scale",
        "predict_pruning",
        "positive_stable",
        "prune",
        "relative_error",
        "stable",
        "symmetric_stable",
        "tail_constant",
    }
    assert fixed <= set(heavytail.__all__)
    assert heavytail.__all__ == sorted(heavytail.__all__)
    for name in heavytail.__all__:
        assert getattr(heavytail, name).__doc__


def test_importing_the_package_is_light():
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import heavytail; print(*set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"matplotlib", "sklearn", "torchvision", "tqdm", "pooch", "heavytail.experiments"}
    assert not heavy & set(run.stdout.split())


# Each module may import those to its left, and the private ones that all stand on.
LAYERS = [
    "_checks",
    "_layers",
    "_draws",
    "_contour",
    "_integrals",
    "stable",
    "tails",
    "noise",
    "meanfield",
    "coupling",
    "fokker_planck",
    "compress",
    "_channels",
    "compaction",
    "factorization",
    "prediction",
    "width",
    "generalization",
    "plots",
    "experiments",
]
FORBIDDEN = {("compress", "stable"), ("compress", "noise"), ("noise", "compress")}


def imported_by(path):
    """Yield the first part, after heavytail, of every module that a file imports."""
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
        place = path.relative_to(package).parts[0].removesuffix(".py")
        assert place in LAYERS, f"{path} is in no layer"
        for name in set(imported_by(path)) & set(LAYERS):
            assert LAYERS.index(name) <= LAYERS.index(place), f"{place} imports {name}"
            assert (place, name) not in FORBIDDEN, f"{place} imports {name}"


def test_the_package_has_a_test_for_each_module():
    for path in (ROOT / "heavytail").rglob("*.py"):
        if path.name.startswith("_") or path.name == "plots.py":  # plots: seen in the pages
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
