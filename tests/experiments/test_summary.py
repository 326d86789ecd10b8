import math
from dataclasses import replace

import pytest

from heavytail.experiments.results import Config, Noise, Pruned, Result
from heavytail.experiments.summary import (
    COLUMNS,
    COMPARED,
    Estimate,
    Row,
    cells,
    compared,
    rows,
    spread,
)
from heavytail.experiments.tables import TABLES
from heavytail.experiments.train import Score

NOISY = Config(data="ecg5000", kind="shared", alpha=1.75, scale=0.003)
PLAIN = Config(data="ecg5000")


def result(ratio=0.25, predicted=(0.125, 0.25, 0.5), test=0.75, pruned=0.5):
    """Return what came of a run, as far as a table shows it."""
    noise = Noise(replayed=0.25, predicted=predicted, norm=1.0, span=None, gain=None)
    return Result(
        diverged=None,
        steps=10,
        ratio=ratio,
        test=Score(1.0, test),
        pruned_test=Score(1.0, pruned),
        noise=noise if predicted else None,
    )


def test_a_mean_and_its_standard_error():
    found = Estimate.of([1.0, 2.0, 6.0])
    assert (found.mean, found.stderr) == (3.0, pytest.approx((7 / 3) ** 0.5))
    assert found.text(2) == "3.00 ± 1.53"
    assert found.text(0, 100) == "300 ± 153"
    assert math.isnan(Estimate.of([2.0]).stderr)
    assert Estimate.of([2.0]).text(1) == "2.0"


def test_rows_have_their_runs_in_the_order_of_the_table():
    configs = [replace(c, seed=seed) for c in (NOISY, PLAIN) for seed in range(3)]
    found = [(replace(NOISY, seed=2), result(0.5)), (replace(NOISY, seed=0), result(0.125))]
    found += [(replace(NOISY, seed=7), result(0.75)), (replace(NOISY, width=5), result())]
    noisy, plain = rows(configs, iter(found))
    assert (noisy.config, plain.config) == (NOISY, PLAIN)
    assert [some.ratio for some in noisy.results] == [0.125, 0.5]
    assert plain.results == ()
    assert plain.estimate(lambda some: some.ratio) is None


def test_rows_of_settings_that_alternate():
    configs = [replace(c, seed=seed) for seed in range(2) for c in (NOISY, PLAIN)]
    found = rows(configs, [(c, result(0.5 + c.seed)) for c in configs])
    assert [row.config for row in found] == [NOISY, PLAIN]
    assert [[some.ratio for some in row.results] for row in found] == [[0.5, 1.5]] * 2


def test_runs_that_diverged_are_counted_apart():
    row = Row(NOISY, (result(0.5), Result(diverged=3, steps=3)))
    assert row.finished == (result(0.5),)
    assert row.estimate(lambda some: some.ratio).mean == 0.5


def texts(row):
    return dict(zip(COLUMNS, cells(row), strict=True))


def test_the_cells_of_a_row():
    some = result(0.25), result(0.75, (0.375, 0.5, 0.75), 0.25, 0.5)
    assert texts(Row(replace(NOISY, width=10_000), some)) == {
        "setting": "ecg5000, fully connected, 10,000",
        "noise": "I",
        "α": "1.75",
        "σ": "0.003",
        "runs": "2",
        "ratio": "0.500 ± 0.250",
        "predicted": "0.375 [0.250, 0.625]",
        "test accuracy, %": "50.00 ± 25.00",
        "after pruning, %": "50.00 ± 0.00",
    }


def test_the_cells_of_a_row_without_noise():
    row = texts(Row(replace(PLAIN, hidden_layers=3), (result(predicted=None),)))
    assert row["setting"] == "ecg5000, fully connected, 2,000 × 3"
    assert [row[name] for name in ("noise", "α", "σ")] == ["none", "–", "0"]
    assert (row["ratio"], row["predicted"]) == ("0.250", "–")


def test_the_cells_of_a_row_without_runs():
    assert cells(Row(NOISY, ()))[4:] == ["0", *["not yet"] * 4]
    diverged = Result(diverged=3, steps=3)
    assert cells(Row(NOISY, (diverged,)))[4:] == ["1, 1 diverged", *["–"] * 4]
    assert texts(Row(NOISY, (result(), diverged)))["runs"] == "2, 1 diverged"


@pytest.mark.parametrize("name", TABLES)
def test_every_setting_has_its_cells(name):
    assert all(len(cells(row)) == len(COLUMNS) for row in rows(TABLES[name].paper, []))


# Beside runs without noise.


def with_curve(*scores, **options):
    """Return a result whose accuracy falls from one score to the next, at equal distances."""
    points = (Pruned(i / (len(scores) - 1), 0.0, Score(0.0, s)) for i, s in enumerate(scores))
    return replace(result(**options), curve=tuple(points))


def test_a_median_with_its_extremes():
    assert spread([3.0, 1.0, 9.0, 2.0], 1) == "2.5 [1.0, 9.0]"
    assert spread([0.5], 0, 100) == "50 [50, 50]"


def test_a_row_beside_its_seeds_without_noise():
    """The same seed, at the fraction of the run: 1 - 1/4 of the way from 0.9 to 0.5, and so on."""
    noisy = Row(
        NOISY, tuple(with_curve(1, 0, ratio=r, pruned=p) for r, p in ((0.25, 0.75), (1, 0)))
    )
    plain = Row(PLAIN, (with_curve(0.9, 0.5), with_curve(0.75, 0.25)))
    assert dict(zip(COMPARED, compared(noisy, plain), strict=True)) == {
        "noise": "I",
        "α": "1.75",
        "σ": "0.003",
        "ratio": "0.62 [0.25, 1.00]",
        "predicted, 5–95 %": "0.25 [0.12, 0.50]",
        "accuracy, %": "75.00 ± 0.00",
        "after pruning, %": "37.5 [0.0, 75.0]",
        "without noise, %": "52.5 [25.0, 80.0]",
    }


def test_seeds_that_diverged_are_left_out_of_both_rows():
    noisy = Row(NOISY, (Result(diverged=3, steps=3), with_curve(1, 0, ratio=0.5)))
    plain = Row(PLAIN, (with_curve(0.9, 0.5), with_curve(0.75, 0.25)))
    found = dict(zip(COMPARED, compared(noisy, plain), strict=True))
    assert found["ratio"] == "0.50 [0.50, 0.50], 1 diverged"
    assert found["without noise, %"] == "50.0 [50.0, 50.0]"
    lost = compared(replace(noisy, results=noisy.results[:1]), plain)
    assert lost[3:] == ["diverged", *["–"] * 4]
    assert compared(Row(NOISY, ()), plain)[3:] == ["not yet"] * 5


def test_rows_of_other_seeds_are_not_compared():
    noisy = Row(NOISY, (with_curve(1, 0), with_curve(1, 0)))
    with pytest.raises(ValueError, match="both rows must have the same seeds, got 2 and 1"):
        compared(noisy, Row(PLAIN, (with_curve(1, 0),)))


def test_the_curve_of_a_row_is_a_mean():
    row = Row(PLAIN, (with_curve(1, 0.5, 0), with_curve(0.5, 0.5, 0.5)))
    assert row.curve() == ([0, 0.5, 1], [0.75, 0.5, 0.25])
    with pytest.raises(ValueError, match="every run must have a curve, got 1"):
        Row(PLAIN, (with_curve(1, 0), result())).curve()
