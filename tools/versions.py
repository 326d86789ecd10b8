"""Run the tests of the package on the newest and on the oldest versions of what it needs.

    python -m tools.versions [newest-3.11 ...]

Each line of ``SETS`` gets an environment of its own in ``.versions/`` from whatever pip finds: the
newest of everything, or the lower bounds of ``pyproject.toml``. A table says at the end which held.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = ROOT / ".versions"
SETS = {  # the interpreter, and whether the direct needs are held at their lower bounds
    "newest-3.13": ("python3.13", False),
    "newest-3.11": ("python3.11", False),
    "oldest-3.11": ("python3.11", True),
}
SHOWN = ("torch", "numpy", "scipy")
# All but what is about the book and the repository.
SUITE = [f"tests/{folder}" for folder in ("laws", "limit", "compression", "experiments")]
SUITE += [f"tests/test_{module}.py" for module in ("layers", "noise", "plots")]


def lower_bounds() -> str:
    """Return the lower bounds of the direct needs, as constraints of pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needs = [*project["dependencies"], *extras["experiments"], *extras["suite"]]
    found = (re.match(r"([\w.-]+)>=([\w.]+)", need) for need in needs)
    return "\n".join(f"{bound[1]}=={bound[2]}" for bound in found if bound)


def holds(name: str) -> tuple[bool, str]:
    """Make the environment of a set and run the tests there; return the outcome and the versions.

    Tests of draws and fits are of the same seeds everywhere: a failure is one of the versions.
    """
    interpreter, oldest = SETS[name]
    folder, constraints = PLACE / name, PLACE / f"{name}.txt"
    constraints.write_text(lower_bounds() if oldest else "")
    if subprocess.run([shutil.which(interpreter) or "false", "-m", "venv", folder]).returncode:
        return False, f"no {interpreter} on the path that makes an environment"
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", str(constraints), "-e", ".[suite]"], cwd=ROOT, check=True)
    say = f"from importlib.metadata import version as v; print(*(n + ' ' + v(n) for n in {SHOWN}))"
    versions = subprocess.run([python, "-c", say], capture_output=True, text=True, check=True)
    suite = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *SUITE]
    return subprocess.run(suite, cwd=ROOT).returncode == 0, versions.stdout.strip()


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    outcomes = {name: holds(name) for name in sys.argv[1:] or SETS}
    for name, (held, versions) in outcomes.items():
        print(f"{name:12} {'held' if held else 'FAILED':6} {versions}")
    sys.exit(not all(held for held, _ in outcomes.values()))
