"""How much memory a statement takes beyond what is there before it."""

import subprocess
import sys

_CODE = """
import re, torch
torch.set_num_threads(1)
{setup}
def kibibytes(name):
    status = open("/proc/self/status").read()
    return int(re.search(name + r":\\s+(\\d+) kB", status).group(1))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = kibibytes("VmRSS")
{statement}
print((kibibytes("VmHWM") - before) / 1024)
"""


def extra_mebibytes(setup: str, statement: str) -> float:
    """Return the peak of resident memory during a statement, less what its setup holds.

    Runs in a process of its own, on one thread. Linux only.
    """
    code = _CODE.format(setup=setup, statement=statement)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)
