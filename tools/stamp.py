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


def book(address: str) -> str | None:
    """Return the address of the published HTML of a repository on GitHub, None elsewhere."""
    parts = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", address)
    return f"https://{parts[1]}.github.io/{parts[2]}/" if parts else None


def install_cell(address: str | None) -> str:
    """Return the code of every page's first cell.

    A page reads ``results/``, so that a package alone is not enough: on Colab it gets a clone, and
    the folder that it has elsewhere.
    """
    if address is None:
        action = '    print("No public address yet: install heavytail by hand.")'
    else:
        action = (
            "    import os\n"
            "    import subprocess\n"
            "    from pathlib import Path\n\n"
            f'    address = "{address}"  # fmt: skip\n'
            '    clone = Path.home() / "heavytail"\n'
            "    if not clone.exists():\n"
            '        git = ["git", "clone", "-q", "--depth", "1", address, clone]\n'
            "        subprocess.run(git, check=True)\n"
            '    pip = [sys.executable, "-m", "pip", "install", "-q"]\n'
            '    subprocess.run([*pip, f"{clone}[experiments]"], check=True)\n'
            '    os.chdir(clone / "book")'
        )
    return (
        "# On Colab, install the package; elsewhere, do nothing.\n"
        "import sys\n\n"
        'if "google.colab" in sys.modules:\n'
        f"{action}"
    )


def readme_region(address: str | None) -> str:
    """Return the line of README.md that says where the book and its source are."""
    if address is None:
        return "This repository has no public address yet.\n"
    published = f"The book: <{book(address)}>. " if book(address) else ""
    return f"{published}Its repository: `git clone {address}`.\n"


def citation_region(address: str | None) -> str:
    """Return the line of CITATION.cff that names the address."""
    return f"repository-code: {address}\n" if address else ""


def config_region(address: str | None) -> str:
    """Return the lines of _config.yml that name the address."""
    if address is None:
        return ""
    return (
        f"repository:\n  url: {address}\n  branch: main\n"
        "launch_buttons:\n  colab_url: https://colab.research.google.com\n"
    )


_REGIONS = {
    "README.md": readme_region,
    "CITATION.cff": citation_region,
    "_config.yml": config_region,
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
        region = _REGIONS[path.name](address)
        result, found = _REGION.subn(lambda begin: f"{begin[1] or ''}\n{region}", text)
    if found != 1:
        raise ValueError(f"{path} must have one place for the address, found {found}")
    return result


def targets() -> list[Path]:
    """Return all files that carry the address."""
    notebooks = [page.with_suffix(".ipynb") for page in pages()]
    return [*(ROOT / name for name in _REGIONS), *pages(), *(n for n in notebooks if n.exists())]


def main() -> None:
    """Stamp all files."""
    for path in targets():
        path.write_text(stamped(path, repository()))


if __name__ == "__main__":
    main()
