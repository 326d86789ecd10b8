import math
from dataclasses import replace

import pytest

from heavytail.experiments.results import Config, Noise, Result
from heavytail.experiments.summary import COLUMNS, Row, cells, rows
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
    row = Row(PLAIN, tuple(map(result, (1.0, 2.0, 6.0))))
    found = row.estimate(lambda some: some.ratio)
    assert (found.mean, found.stderr) == (3.0, pytest.approx((7 / 3) ** 0.5))
    assert found.text(2) == "3.00 ± 1.53"
    assert row.text(lambda some: some.ratio, 0, 100) == "300 ± 153"
    single = Row(PLAIN, row.results[1:2]).estimate(lambda some: some.ratio)
    assert math.isnan(single.stderr)
    assert single.text(1) == "2.0"


def test_rows_have_their_runs_in_the_order_of_the_table():
    configs = [replace(c, seed=seed) for seed in range(3) for c in (NOISY, PLAIN)]
    found = [(replace(NOISY, seed=2), result(0.5)), (replace(NOISY, seed=0), result(0.125))]
    found += [(replace(NOISY, seed=7), result(0.75)), (replace(NOISY, width=5), result())]
    noisy, plain = rows(configs, iter(found))
    assert (noisy.config, plain.config) == (NOISY, PLAIN)
    assert [some.ratio for some in noisy.results] == [0.125, 0.5]
    assert plain.results == ()
    assert plain.estimate(lambda some: some.ratio) is None


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
