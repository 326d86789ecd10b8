from dataclasses import replace
from itertools import product

import pytest

from heavytail.experiments.results import Config
from heavytail.experiments.scales import SCALES, Shape
from heavytail.experiments.summary import rows
from heavytail.experiments.tables import SIZES, TABLES, cost

NOISY = Config(data="ecg5000", kind="shared", alpha=1.75, scale=0.003)
PLAIN = Config(data="ecg5000")
GRIDS = [name for name in TABLES if name != "prediction"]  # all seeds at each setting


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


def test_each_prediction_has_a_start_and_noise_of_its_own():
    configs = TABLES["prediction"].paper
    assert [config.seed for config in configs] == list(range(len(configs)))
    trusted = [c for c in configs if c == replace(c, data="ecg5000", lr=0.01, steps=2000)]
    assert len([c for c in trusted if c.hidden_layers == 1]) == 45
    quick = TABLES["prediction"].quick
    assert {(c.data, c.kind, c.hidden_layers) for c in quick} == {
        (c.data, c.kind, c.hidden_layers) for c in configs
    }
    for small, large in ((c, configs[c.seed]) for c in quick):
        assert small == replace(large, width=200, steps=large.steps // 10, scale=small.scale)
        assert small.scale == pytest.approx(large.scale * 10 ** (1 / 1.75), rel=0.005)
    assert max(c.lr for c in quick if c.data == "mnist") == 0.1  # the gradients count there


@pytest.mark.parametrize("name", GRIDS)
def test_each_setting_of_a_table_has_the_same_seeds(name):
    for size, least in zip(SIZES, (2, 3), strict=True):
        found = rows(configs := TABLES[name].configs(size), [])
        seeds = len(configs) // len(found)
        assert seeds >= least
        expected = [replace(row.config, seed=seed) for row in found for seed in range(seeds)]
        assert list(configs) == expected


@pytest.mark.parametrize("name", GRIDS)
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
