import math
from dataclasses import replace
from itertools import product

import pytest
import torch

import heavytail
from heavytail.experiments import tables
from heavytail.experiments.runs import Config, Noise, Result
from heavytail.experiments.tables import (
    COLUMNS,
    CONTROLS,
    SCALES,
    SIZES,
    TABLES,
    Estimate,
    Row,
    Shape,
    cells,
    cost,
    gaussian_scale,
    plan,
    rows,
    shapes,
)
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


# The scales of the noise.


def test_the_scales_are_those_of_the_plan():
    """Of the cheapest shape; the medians of other draws move them by a few percent."""
    shape = Shape("ecg5000", "shared", 1.9)
    assert plan(shape, draws=50) == pytest.approx(SCALES[shape], rel=0.06)
    assert plan(shape, draws=50) != pytest.approx(SCALES[replace(shape, alpha=1.75)], rel=0.06)


@pytest.mark.long
@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_all_scales_are_those_of_the_plan(shape):
    assert plan(shape) == pytest.approx(SCALES[shape], rel=0.06)


def test_each_shape_has_a_weak_and_a_strong_scale():
    assert list(SCALES) == shapes()
    assert all(0 < weak < strong for weak, strong in SCALES.values())


@pytest.mark.parametrize(
    "control",
    [pytest.param(c, marks=[pytest.mark.long] * (c == ("mnist", "isotropic"))) for c in CONTROLS],
    ids=" ".join,
)
def test_the_controls_are_those_of_the_scales(control):
    shape, found = Shape(*control, 1.75), CONTROLS[control]
    expected = [gaussian_scale(shape, scale) for scale in SCALES[shape][: len(found)]]
    assert found == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("kind", heavytail.noise.KINDS)
def test_controls_have_noise_of_the_same_median_norm(kind, generator):
    """All the noise of a run is (lr K)^{1/alpha} sigma xi; medians of 40,000 draws."""
    (heavy, _), (light, _) = SCALES[Shape("ecg5000", kind, 1.75)], CONTROLS["ecg5000", kind]

    def median(alpha, scale):
        xi = heavytail.noise_vectors(kind, alpha, 40_000, 140, generator=generator)
        return float(xi.norm(dim=1).median()) * scale * (0.01 * 2000) ** (1 / alpha)

    assert median(2.0, light) == pytest.approx(median(1.75, heavy), rel=0.03)
    assert median(2.0, heavy) != pytest.approx(median(1.75, heavy), rel=0.03)


# Which runs.


def everything():
    return list(product(TABLES, SIZES))


@pytest.mark.parametrize(("name", "size"), everything())
def test_runs_of_a_table_are_distinct(name, size):
    configs = TABLES[name].configs(size)
    assert len(set(configs)) == len(configs) > 0


def test_tables_have_titles_of_their_own():
    assert len({table.title for table in TABLES.values()}) == len(TABLES)
    assert all(name == name.strip().lower() for name in TABLES)


def test_sizes():
    with pytest.raises(ValueError, match=r"size must be one of \['paper', 'quick'\], got 'huge'"):
        TABLES["official"].configs("huge")


@pytest.mark.parametrize("name", TABLES)
def test_each_setting_of_a_table_has_the_same_seeds(name):
    for size, least in zip(SIZES, (2, 3), strict=True):
        found = rows(configs := TABLES[name].configs(size), [])
        seeds = len(configs) // len(found)
        assert seeds >= least
        expected = [replace(row.config, seed=seed) for row in found for seed in range(seeds)]
        assert list(configs) == expected


@pytest.mark.parametrize("name", TABLES)
def test_quick_runs_are_small_and_have_the_noise_of_the_large(name):
    """sigma (lr K)^{1/alpha} is kept, up to the three digits of sigma."""
    table = TABLES[name]
    noises = {
        (c.kind, c.alpha, c.hidden_layers): c.scale * (c.lr * c.steps) ** (1 / (c.alpha or 1))
        for c in reversed(table.paper)  # of each kind and index, the first counts
    }
    for c in table.quick:
        assert c.steps * 10 == max(large.steps for large in table.paper)
        noise = c.scale * (c.lr * c.steps) ** (1 / (c.alpha or 1))
        assert noise == pytest.approx(noises[c.kind, c.alpha, c.hidden_layers], rel=0.005)
    assert {c.alpha for c in table.quick} <= {None, 1.75, 2.0}
    assert {c.kind for c in table.quick} == {c.kind for c in table.paper}


def test_the_table_with_images_centred_has_shared_noise_alone():
    assert {c.kind for c in TABLES["mnist-centred"].paper} == {"none", "shared"}
    assert {c.data for c in TABLES["mnist-centred"].paper} == {"mnist-centred"}
    (scale,) = {c.scale for c in TABLES["mnist-centred"].paper} - {0.0}
    assert scale == SCALES[Shape("mnist", "shared", 1.75)][0]


# Means.


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


# Costs.


def test_a_cost_is_asked_for_once_for_each_form_of_a_step():
    asked = []

    def seconds(config):
        asked.append(config)
        return 0.5

    same = [replace(NOISY, seed=seed, scale=0.01 * (1 + seed), steps=10) for seed in range(3)]
    same += [replace(NOISY, alpha=1.9, steps=100)]
    assert cost(same, seconds) == 0.5 * 130
    assert asked == same[:1]
    others = [PLAIN, replace(NOISY, width=3), replace(NOISY, kind="isotropic")]
    others += [replace(NOISY, stop_accuracy=0.9), replace(NOISY, hidden_layers=2)]
    cost([*same, *others, *others], seconds)
    assert asked == [same[0], same[0], *others]


def test_no_cost():
    assert cost([], lambda config: 1.0) == 0


def test_a_plan_draws_what_it_draws(monkeypatch):
    """Same shape, same scales: nothing is taken from torch's own generator."""
    monkeypatch.setitem(tables._INPUTS, "ecg5000", (5, 2))
    state = torch.get_rng_state()
    shape = Shape("ecg5000", "independent", 1.8, width=50)
    assert plan(shape, draws=10) == plan(shape, draws=10)
    assert torch.equal(state, torch.get_rng_state())
