"""What came of a table: a row for each setting, over the seeds of its runs."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median, stdev

from heavytail.experiments.results import Config, Result
from heavytail.noise import NUMERALS


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and its standard error, nan of a single one."""

    mean: float
    stderr: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Return that of some numbers, at least one."""
        spread = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(mean(values), spread)

    def text(self, digits: int, factor: float = 1.0) -> str:
        """Return mean and standard error with so many digits behind the point."""
        spread = "" if math.isnan(self.stderr) else f" ± {factor * self.stderr:.{digits}f}"
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed only.

    Attributes:
        config: of the first.
        results: of all of them that are there.
    """

    config: Config
    results: tuple[Result, ...]

    @property
    def finished(self) -> tuple[Result, ...]:
        """Those that did not diverge."""
        return tuple(result for result in self.results if result.diverged is None)

    def estimate(self, measure: Callable[[Result], float]) -> Estimate | None:
        """Return the mean of a measure over the finished runs, None if there are none."""
        values = [measure(result) for result in self.finished]
        return Estimate.of(values) if values else None

    def curve(self) -> tuple[list[float], list[float]]:
        """Return the fractions of columns removed, and the mean test accuracy at each.

        Raises:
            ValueError: if no run is there, or one of them has no curve.
        """
        curves = [result.curve for result in self.finished if result.curve is not None]
        if not curves or len(curves) < len(self.finished):
            raise ValueError(f"every run must have a curve, got {len(curves)}")
        fractions = [point.fraction for point in curves[0]]
        points = zip(*curves, strict=True)
        return fractions, [mean(point.test.accuracy for point in same) for same in points]


def rows(configs: Iterable[Config], results: Iterable[tuple[Config, Result]]) -> list[Row]:
    """Return a row for each setting of a table, in its order, empty where nothing is recorded.

    Args:
        configs: of the table.
        results: of a store or a record, in any order; others than the table's are left out.
    """
    known = dict(results)
    found: dict[Config, list[Result]] = defaultdict(list)
    for config in configs:
        setting = replace(config, seed=0)
        found[setting] += [known[config]] if config in known else []
    return [Row(setting, tuple(some)) for setting, some in found.items()]


COLUMNS = (
    "setting",
    "noise",
    "α",
    "σ",
    "runs",
    "ratio",
    "predicted",
    "test accuracy, %",
    "after pruning, %",
)


def cells(row: Row) -> list[str]:
    """Return a row as text, in the order of ``COLUMNS``; "not yet" where there are no runs."""
    config = row.config
    setting = f"{config.data}, {config.network.replace('_', ' ')}, {config.width:,}"
    if config.hidden_layers > 1:
        setting += f" × {config.hidden_layers}"
    head = [setting, *_noise(config)]
    diverged = len(row.results) - len(row.finished)
    runs = f"{len(row.results)}" + (f", {diverged} diverged" if diverged else "")
    if not row.finished:
        return [*head, runs, *["not yet" if not row.results else "–"] * 4]
    ratio = row.estimate(lambda r: r.ratio or 0.0)
    whole = row.estimate(lambda r: math.nan if r.test is None else r.test.accuracy)
    cut = row.estimate(lambda r: math.nan if r.pruned_test is None else r.pruned_test.accuracy)
    assert ratio is not None
    assert whole is not None
    assert cut is not None
    return [*head, runs, ratio.text(3), _predicted(row, 3), whole.text(2, 100), cut.text(2, 100)]


COMPARED = (
    "noise",
    "α",
    "σ",
    "ratio",
    "predicted, 5–95 %",
    "accuracy, %",
    "after pruning, %",
    "without noise, %",
)


def compared(row: Row, plain: Row) -> list[str]:
    """Return a row as text beside runs without noise, in the order of ``COMPARED``.

    Ratios, and accuracies after pruning, are medians with the least and the greatest: a few seeds
    of a heavy-tailed law have no useful mean. The last is the accuracy of the runs without noise,
    pruned to the same fractions as those of the row.

    Args:
        row: of the table.
        plain: without noise, of the same seeds.

    Raises:
        ValueError: if the seeds that finished are not the same.
    """
    head = _noise(row.config)
    if not row.results:
        return [*head, *["not yet"] * 5]
    seeds = [i for i, result in enumerate(row.results) if result.diverged is None]
    if not seeds:
        return [*head, "diverged", _predicted(row, 2), *["–"] * 3]
    if len(row.results) != len(plain.results):
        raise ValueError(
            f"both rows must have the same seeds, got {len(row.results)} and {len(plain.results)}"
        )
    ratios, cut, others = [], [], []
    for i in seeds:
        result = row.results[i]
        assert result.ratio is not None
        assert result.pruned_test is not None
        ratios.append(result.ratio)
        cut.append(result.pruned_test.accuracy)
        others.append(plain.results[i].accuracy_without(result.ratio))
    whole = row.estimate(lambda r: math.nan if r.test is None else r.test.accuracy)
    assert whole is not None
    lost = len(row.results) - len(seeds)
    return [
        *head,
        spread(ratios, 2) + (f", {lost} diverged" if lost else ""),
        _predicted(row, 2),
        whole.text(2, 100),
        spread(cut, 1, 100),
        spread(others, 1, 100),
    ]


def spread(values: Sequence[float], digits: int, factor: float = 1.0) -> str:
    """Return the median, the least and the greatest, with so many digits behind the point."""
    found = (median(values), min(values), max(values))
    middle, low, high = (f"{factor * value:.{digits}f}" for value in found)
    return f"{middle} [{low}, {high}]"


def _noise(config: Config) -> list[str]:
    alpha = "–" if config.alpha is None else f"{config.alpha:g}"
    return [NUMERALS.get(config.kind, "none"), alpha, f"{config.scale:g}"]


def _predicted(row: Row, digits: int) -> str:
    """Return the predicted median and band of the ratio, means over the runs."""
    bands = [result.noise.predicted for result in row.finished if result.noise is not None]
    if not bands:
        return "–"
    low, middle, high = (f"{mean(band[i] for band in bands):.{digits}f}" for i in range(3))
    return f"{middle} [{low}, {high}]"
