"""What came of a table: a row for each setting, over the seeds of its runs."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from heavytail.experiments.results import Config, Result
from heavytail.noise import NUMERALS


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and its standard error, nan of a single one."""

    mean: float
    stderr: float

    def text(self, digits: int, factor: float = 1.0) -> str:
        """Return both with so many digits behind the point."""
        spread = "" if math.isnan(self.stderr) else f" ± {factor * self.stderr:.{digits}f}"
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed only."""

    config: Config  #: of all of them, with seed 0
    results: tuple[Result, ...]  #: of those that are there, in the order of their seeds

    @property
    def finished(self) -> tuple[Result, ...]:
        """Those that did not diverge."""
        return tuple(result for result in self.results if result.diverged is None)

    def estimate(self, measure: Callable[[Any], float]) -> Estimate | None:
        """Return the mean of a measure over the finished runs, None if there are none."""
        values = [measure(result) for result in self.finished]
        spread = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Estimate(mean(values), spread) if values else None

    def text(self, measure: Callable[[Any], float], digits: int, factor: float = 1.0) -> str:
        """Return that mean and its standard error; "–" if no run finished, or none is there."""
        found = self.estimate(measure)
        return found.text(digits, factor) if found else self._nothing()

    def noise(self) -> list[str]:
        """Return kind, alpha and sigma."""
        alpha = "–" if self.config.alpha is None else f"{self.config.alpha:g}"
        return [NUMERALS.get(self.config.kind, "none"), alpha, f"{self.config.scale:g}"]

    def predicted(self, digits: int) -> str:
        """Return the predicted median and band of the ratio, means over the runs."""
        bands = [result.noise.predicted for result in self.finished if result.noise is not None]
        if not bands:
            return self._nothing()
        low, middle, high = (f"{mean(band):.{digits}f}" for band in zip(*bands, strict=True))
        return f"{middle} [{low}, {high}]"

    def _nothing(self) -> str:
        return "–" if self.results else "not yet"


def rows(configs: Iterable[Config], results: Iterable[tuple[Config, Result]]) -> list[Row]:
    """Return a row for each setting of a table, in its order, empty where nothing is recorded.

    Of a store's results, in any order, those of other configurations are left out.
    """
    known = dict(results)
    found: dict[Config, list[Result]] = defaultdict(list)
    for config in configs:
        found[replace(config, seed=0)] += [known[config]] if config in known else []
    return [Row(setting, tuple(some)) for setting, some in found.items()]


COLUMNS = (
    *("setting", "noise", "α", "σ", "runs", "ratio", "predicted"),
    *("test accuracy, %", "after pruning, %"),
)


def cells(row: Row) -> list[str]:
    """Return a row as text, in the order of ``COLUMNS``; "not yet" where there are no runs."""
    config, diverged = row.config, len(row.results) - len(row.finished)
    setting = f"{config.data}, {config.network.replace('_', ' ')}, {config.width:,}"
    if config.hidden_layers > 1:
        setting += f" × {config.hidden_layers}"
    return [
        setting,
        *row.noise(),
        f"{len(row.results)}" + (f", {diverged} diverged" if diverged else ""),
        row.text(lambda result: result.ratio, 3),
        row.predicted(3),
        row.text(lambda result: result.test.accuracy, 2, 100),
        row.text(lambda result: result.pruned_test.accuracy, 2, 100),
    ]
