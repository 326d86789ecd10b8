"""What a record says of where and when it was made."""

import datetime
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

import heavytail


def origin(*peers: str) -> dict[str, Any]:
    """Return date, machine and versions, those of imported peers among them."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "heavytail": heavytail.__version__,
    }
    for peer in peers:
        versions[peer] = getattr(sys.modules.get(peer), "__version__", None)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": processor(),
        "versions": versions,
        "commit": commit(),
    }


@cache  # the first call counts: what has been imported does not change with the files
def commit() -> str | None:
    """Return the commit of the package's working tree, "+" behind it if files have changed since.

    None if the package is not run from a clone of its own.
    """
    folder = Path(heavytail.__file__).parent

    def git(*arguments: str) -> str:
        # No lock: the index is its owner's. Within a hook of git, GIT_DIR names another folder.
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not that of some folder above
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """Return the processor's name and the vector instructions that torch uses."""
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in names if "model name" in line), "unknown")
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"
