from dataclasses import replace
from pathlib import Path

import pytest
import torch

import heavytail
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.records import key, read
from heavytail.experiments.results import ERROR, Config, decode
from heavytail.experiments.summary import rows
from heavytail.experiments.tables import CONTROLS, SCALES, STEPS, TABLES, Shape, official

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
    shape = Shape("ecg5000", kind)

    def medians(alpha, scales):
        xi = heavytail.noise_vectors(kind, alpha, 40_000, 140, generator=generator)
        size = float(xi.norm(dim=1).median()) * (0.01 * 2000) ** (1 / alpha)
        return [size * scale for scale in scales]

    heavy = medians(1.75, SCALES[shape])
    assert medians(2.0, CONTROLS[shape]) == pytest.approx(heavy, rel=0.03)
    assert medians(2.0, SCALES[shape]) != pytest.approx(heavy, rel=0.03)
