from dataclasses import replace
from pathlib import Path

import pytest
import torch

from book.rates import STUDIES, Study, problem, read, run
from heavytail.experiments.records import Store
from heavytail.experiments.sweep import sweep
from heavytail.limit.coupling import chaos_error, euler_error

CHAOS = Study("chaos", "tanh", 1.5, (8, 16), 64, seeds=3, first_seed=7, size=2)
EULER = Study("euler", "relu", 1.5, (2, 4), 8, seeds=3, first_seed=10, size=5)


def test_what_is_read_is_what_was_run(tmp_path):
    studies = [CHAOS, EULER, replace(CHAOS, h="line", reference="limit")]
    store = Store(tmp_path / "rates.json")
    assert sweep(run, studies, store, processes=0, progress=False).done == 3
    assert [study for study, _ in read(store.path)] == studies
    for study, rates in read(store.path):
        again = study.fit()
        torch.testing.assert_close(rates.errors, again.errors, rtol=1e-3, atol=0.0)
        torch.testing.assert_close(rates.sup.errors, again.sup.errors, rtol=1e-3, atol=0.0)
        assert rates.slope == pytest.approx(again.slope, abs=1e-2)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("kind", ["shared", "isotropic"])
def test_a_study_runs_what_it_says(kind, coupled):
    other = {"sigma": 0.3, "kind": kind, "signs": "alternating"}
    options = {"T": 1.0, "alpha": 1.5, "sigma": 0.3, "kind": kind}
    of = problem("tanh", "alternating")
    study = replace(CHAOS, coupled=coupled, **other)
    wanted = chaos_error(
        of, [8, 16], steps=2, **options, seeds=[7, 8, 9], reference=64, coupled=coupled
    )
    assert torch.equal(study.fit().errors, wanted.errors)
    study = replace(EULER, h="tanh", **other)
    wanted = euler_error(of, [2, 4], n=5, **options, seeds=[10, 11, 12], reference=8)
    assert torch.equal(study.fit().errors, wanted.errors)
    with pytest.raises(ValueError, match="must be of 'chaos', or coupled and of 'euler'"):
        replace(study, coupled=False).fit()


def test_each_study_has_seeds_of_its_own():
    seeds = [range(study.first_seed, study.first_seed + study.seeds) for study in STUDIES]
    assert len({seed for some in seeds for seed in some}) == sum(map(len, seeds))


def test_the_record_is_that_of_the_studies():
    recorded = read(Path(__file__).parents[1] / "book" / "results" / "rates.json")
    assert {study for study, _ in recorded} == set(STUDIES)
    for study, rates in recorded:
        assert rates.errors.shape == (study.seeds, len(study.x))
