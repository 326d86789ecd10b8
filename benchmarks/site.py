"""How long a built page takes to be usable, loaded cold from the disk by headless Chromium.

Usable is: laid out, its scripts run, its formulas set. Build the book first.
"""

import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.timing import command_line, least

ROUNDS = 3
SITE = Path(__file__).parents[1] / "_build" / "html"

_READY = "async () => { await window.MathJax?.startup?.promise; return performance.now() / 1000 }"


def seconds(chromium: Browser, path: Path) -> float:
    """Return the seconds from the first byte asked for until a page is usable."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    page = context.new_page()
    page.goto(path.as_uri(), wait_until="load")
    found = float(page.evaluate(_READY))
    context.close()
    return found


def record(rounds: int) -> dict[str, Any]:
    """Return the figures."""
    paths = sorted((SITE / "book").rglob("*.html"))
    if not paths:
        raise SystemExit(f"no page under {SITE}: build the book first")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        pages = {
            str(path.relative_to(SITE)): lambda path=path: seconds(chromium, path) for path in paths
        }
        best = least(pages, rounds)
        chromium.close()
    size = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file())
    slowest = max(best, key=lambda name: best[name])
    return {
        "what": "seconds until a page is usable, cold, the fastest of the rounds",
        "pages": {name: round(value, 2) for name, value in best.items()},
        "slowest": slowest,
        "site, MB": round(size / 1e6, 1),
    }


if __name__ == "__main__":
    command_line(record, __doc__, rounds=ROUNDS)
