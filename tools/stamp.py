"""Write the repository's public address where the book needs it: ``python -m tools.stamp``.

The address stands once, as ``Repository`` in ``[project.urls]`` of pyproject.toml. From it come
the launch buttons (``_config.yml``), the install cell of every page, what README.md says of where
to read and to clone, and an entry of CITATION.cff. While it is unset, there are no buttons and no
entry, and the cell and README.md only say that there is no address.
"""

import re
import tomllib
from pathlib import Path

import nbformat

from tools.notebooks import pages

ROOT = Path(__file__).parents[1]

_REGION = re.compile(
    r"(?<=begin: stamped from pyproject.toml)( -->)?\n.*?(?=^(?:#|<!--) end: stamped)",
    re.DOTALL | re.MULTILINE,
)
_INSTALL_CELL = re.compile(
    r"^# On Colab, install the package[^\n]*\n.*?(?=\n\n# %%|\Z)", re.DOTALL | re.MULTILINE
)


def repository() -> str | None:
    """Return the address in pyproject.toml, None while it is unset."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address: str | None = project.get("urls", {}).get("Repository")
    return address.rstrip("/").removesuffix(".git") if address else None


_INSTALL = """\
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
"""
_NOWHERE = '    print("No public address yet: install heavytail by hand.")'
_CLONE = """\
    import os
    import subprocess
    from pathlib import Path

    address = "ADDRESS"  # fmt: skip
    clone = Path.home() / "heavytail"
    if not clone.exists():
        git = ["git", "clone", "-q", "--depth", "1", address, clone]
        subprocess.run(git, check=True)
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"{clone}[experiments]"], check=True)
    os.chdir(clone / "book")
    sys.path.insert(0, str(clone / "book"))"""


def install_cell(address: str | None) -> str:
    """Return the code of every page's first cell.

    A page reads ``helpers.py`` and ``results/``, so that a package alone is not enough: on Colab it
    gets a clone, and the folder that it has elsewhere.
    """
    return _INSTALL + (_CLONE.replace("ADDRESS", address) if address else _NOWHERE)


def regions(address: str | None) -> dict[str, str]:
    """Return what other files say of the address, by their names.

    The HTML is published where GitHub publishes that of a repository there; elsewhere, none is.
    """
    if address is None:
        nothing = "This repository has no public address yet.\n"
        return {"README.md": nothing, "CITATION.cff": "", "_config.yml": ""}
    parts = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", address)
    published = f"The book: <https://{parts[1]}.github.io/{parts[2]}/>. " if parts else ""
    return {
        "README.md": f"{published}Its repository: `git clone {address}`.\n",
        "CITATION.cff": f"repository-code: {address}\n",
        "_config.yml": f"repository:\n  url: {address}\n  branch: main\n"
        "launch_buttons:\n  colab_url: https://colab.research.google.com\n",
    }


def stamped(path: Path, address: str | None) -> str:
    """Return the text of a page, a notebook or another target with the address in its place.

    Raises:
        ValueError: if the file has no such place, or more than one.
    """
    text = path.read_text()
    if path.suffix == ".ipynb":
        notebook = nbformat.reads(text, as_version=4)
        cells = [c for c in notebook.cells if c.source.startswith("# On Colab, install")]
        if len(cells) != 1:
            raise ValueError(f"{path} must have one install cell, found {len(cells)}")
        cells[0].source = install_cell(address)
        return str(nbformat.writes(notebook)) + "\n"
    if path.suffix == ".py":
        result, found = _INSTALL_CELL.subn(lambda _: install_cell(address), text)
    else:
        region = regions(address)[path.name]
        result, found = _REGION.subn(lambda begin: f"{begin[1] or ''}\n{region}", text)
    if found != 1:
        raise ValueError(f"{path} must have one place for the address, found {found}")
    return result


def targets() -> list[Path]:
    """Return all files that carry the address."""
    notebooks = [page.with_suffix(".ipynb") for page in pages()]
    return [
        *(ROOT / name for name in regions(None)),
        *pages(),
        *(n for n in notebooks if n.exists()),
    ]


def main() -> None:
    """Stamp all files."""
    address = repository()
    for path in targets():
        path.write_text(stamped(path, address))


if __name__ == "__main__":
    main()
