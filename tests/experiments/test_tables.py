import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import heavytail
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.records import key, read
from heavytail.experiments.results import ERROR, Config, Noise, Result, decode
from heavytail.experiments.tables import (
    COLUMNS,
    CONTROLS,
    SCALES,
    STEPS,
    TABLES,
    Row,
    Shape,
    cells,
    official,
    rows,
)
from heavytail.experiments.train import Score

BOOK = Path(__file__).parents[2] / "book" / "results"
GRIDS = [name for name in TABLES if name != "prediction"]  # the same seeds at each setting


@pytest.mark.parametrize("name", TABLES)
def test_runs_of_a_table_are_distinct_and_the_records_of_the_book_are_of_them(name):
    table, record = TABLES[name], BOOK / f"{name}.json"
    for configs in (table.paper, table.quick):
        assert len(set(map(key, configs))) == len(configs) > 0
    assert {config for config, _ in map(decode, read(record))} <= set(table.paper)


def test_each_prediction_has_a_start_and_noise_of_its_own():
    configs = TABLES["prediction"].paper
    assert [config.seed for config in configs] == list(range(len(configs)))


@pytest.mark.parametrize("name", GRIDS)
def test_each_setting_of_a_table_has_the_same_seeds(name):
    table = TABLES[name]
    for configs, least in ((table.quick, 2), (table.paper, 3)):
        found = rows(configs, [])
        seeds = len(configs) // len(found)
        assert seeds >= least
        expected = [replace(row.config, seed=seed) for row in found for seed in range(seeds)]
        assert list(configs) == expected


@pytest.mark.parametrize("name", TABLES)
def test_quick_runs_are_small_and_have_the_noise_of_the_large(name):
    """sigma (lr K)^{1/alpha} is kept, up to the three digits of sigma."""

    def form(c):
        return c.data, c.kind, c.alpha, c.hidden_layers

    table = TABLES[name]
    first = {form(c): c for c in reversed(table.paper)}  # of each form, the first counts
    for small in table.quick:
        large = first[form(small)]
        assert (10 * small.steps, small.lr) == (large.steps, large.lr)
        assert small.width == max(16, large.width // 10)
        factor = 10 ** (1 / (small.alpha or 1))
        assert small.scale == pytest.approx(large.scale * factor, rel=0.005)
    assert {c.alpha for c in table.quick} <= {None, 1.75, 2.0}
    assert {c.kind for c in table.quick} == {c.kind for c in table.paper}


def test_the_laws_of_the_official_code():
    """Its type III and its Gaussian type I are smaller by sqrt(2) than ours."""
    assert official("none", None, 0.0) == Config(data="ecg5000")
    assert official("shared", 1.75, 0.01, 7).scale == 0.01
    for kind, alpha in (("isotropic", 1.75), ("shared", 2.0)):
        assert official(kind, alpha, 0.01).scale == pytest.approx(0.01 * 0.5**0.5, rel=5e-3)


# The scales.

_INPUTS = {"digits": (64, 10), "ecg5000": (140, 2), "mnist": (784, 10)}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def plan(shape, draws):
    """Return the scales halfway from the floor to the ceiling, and nine tenths of the way."""
    form = {"width": shape.width, "hidden_layers": shape.hidden_layers}
    model = FullyConnected(*_INPUTS[shape.data], **form, generator=seeded(0))
    law = {"alpha": shape.alpha, "kind": shape.kind, "lr": 0.01, "steps": STEPS[shape.data]}
    law |= {"error": ERROR, "draws": draws}
    floor, ceiling = (
        heavytail.predict_pruning(model, scale=scale, generator=seeded(1), **law).quantile(0.5)
        for scale in (0.0, 1e6)
    )
    ratios = (floor + way * (ceiling - floor) for way in (0.5, 0.9))
    return [heavytail.plan_scale(model, ratio=r, generator=seeded(1), **law) for r in ratios]


CHEAP = Shape("digits", "shared")


@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=[pytest.mark.long] * (s != CHEAP)) for s in SCALES], ids=str
)
def test_the_scales_are_those_of_the_plan(shape):
    """The medians of other draws move them by a few percent; another network by more."""
    found = plan(shape, 50 if shape == CHEAP else 200)
    assert found == pytest.approx(SCALES[shape], rel=0.06)
    other = Shape("ecg5000", "shared", hidden_layers=3)
    assert found != pytest.approx(SCALES[other], rel=0.06) or shape == other


@pytest.mark.parametrize("kind", heavytail.noise.KINDS)
def test_controls_have_noise_of_the_same_median_norm(kind, generator):
    """All the noise of a run is (lr K)^{1/alpha} sigma xi; medians of 40,000 draws."""
    shape, control = Shape("ecg5000", kind), Shape("ecg5000", kind, 2.0)

    def medians(alpha, scales):
        xi = heavytail.noise_vectors(kind, alpha, 40_000, 140, generator=generator)
        size = float(xi.norm(dim=1).median()) * (0.01 * 2000) ** (1 / alpha)
        return [size * scale for scale in scales]

    heavy = medians(1.75, SCALES[shape])
    assert medians(2.0, CONTROLS[control]) == pytest.approx(heavy, rel=0.03)
    assert medians(2.0, SCALES[shape]) != pytest.approx(heavy, rel=0.03)


# Rows.

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
    wild = Row(PLAIN, (*row.results, result(math.inf))).estimate(lambda some: some.ratio)
    assert wild.text(1) == "inf"


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
