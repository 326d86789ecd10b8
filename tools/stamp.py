"""Write the repository's public address where the book needs it: ``python -m tools.stamp``.

The address stands once, as ``Repository`` in ``[project.urls]`` of pyproject.toml. From it come
the launch and repository buttons (``_config.yml``) and the install cell of every page. While it
is unset, there are no buttons, and the install cell only says that there is nothing to install
from.
"""

import re
import tomllib
from pathlib import Path

import nbformat

from tools.notebooks import pages

ROOT = Path(__file__).parents[1]

_CONFIG_REGION = re.compile(
    r"(?<=# begin: stamped from pyproject.toml\n).*?(?=# end: stamped)", re.DOTALL
)
_INSTALL_CELL = re.compile(
    r"^# On Colab, install the package[^\n]*\n.*?(?=\n\n# %%|\Z)", re.DOTALL | re.MULTILINE
)


def repository() -> str | None:
    """Return the address in pyproject.toml, None while it is unset."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address: str | None = project.get("urls", {}).get("Repository")
    return address.rstrip("/") if address else None


def install_cell(address: str | None) -> str:
    """Return the code of every page's first cell."""
    if address is None:
        action = '    print("No public address yet: install heavytail by hand.")'
    else:
        action = (
            "    import subprocess\n\n"
            f'    repository = "git+{address}"  # fmt: skip\n'
            '    package = f"heavytail[experiments] @ {repository}"\n'
            '    pip = [sys.executable, "-m", "pip", "install", "-q", package]\n'
            "    subprocess.run(pip, check=True)"
        )
    return (
        "# On Colab, install the package; elsewhere, do nothing.\n"
        "import sys\n\n"
        'if "google.colab" in sys.modules:\n'
        f"{action}"
    )


def config_region(address: str | None) -> str:
    """Return the lines of _config.yml that name the address."""
    if address is None:
        return ""
    return (
        f"repository:\n  url: {address}\n  branch: main\n"
        "launch_buttons:\n  colab_url: https://colab.research.google.com\n"
    )


def stamped(path: Path, address: str | None) -> str:
    """Return the text of a page, a notebook or _config.yml with the address in its place.

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
        place, content = _INSTALL_CELL, install_cell(address)
    else:
        place, content = _CONFIG_REGION, config_region(address)
    result, found = place.subn(lambda _: content, text)
    if found != 1:
        raise ValueError(f"{path} must have one place for the address, found {found}")
    return result


def targets() -> list[Path]:
    """Return all files that carry the address."""
    notebooks = [page.with_suffix(".ipynb") for page in pages()]
    return [ROOT / "_config.yml", *pages(), *(n for n in notebooks if n.exists())]


def main() -> None:
    """Stamp all files."""
    for path in targets():
        path.write_text(stamped(path, repository()))


if __name__ == "__main__":
    main()
