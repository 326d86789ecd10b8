import json
from dataclasses import replace

import pytest
import torch

from heavytail.experiments.rates import Study, read, record, studies

CHAOS = Study("chaos", "tanh", 1.5, (8, 16), 64, seeds=3, first_seed=7, size=2)
EULER = Study("euler", "relu", 1.5, (2, 4), 8, seeds=3, first_seed=10, size=5)


def test_what_is_read_is_what_was_run(tmp_path):
    path = tmp_path / "rates.json"
    record(path, [CHAOS])
    first = json.loads(path.read_text())["studies"]
    line = replace(CHAOS, h="line", reference="limit", signs=None)
    record(path, [CHAOS, EULER, line])
    found = json.loads(path.read_text())["studies"]
    assert found[0] == first[0]  # not run again
    assert {"date", "machine", "versions", "seconds"} <= set(found[1])
    for study, rates in read(path):
        again = study.run()
        torch.testing.assert_close(rates.errors, again.errors, rtol=1e-3, atol=0.0)
        torch.testing.assert_close(rates.sup.errors, again.sup.errors, rtol=1e-3, atol=0.0)
        assert rates.slope == pytest.approx(again.slope, abs=1e-2)
    assert [study for study, _ in read(path)] == [CHAOS, EULER, line]
    assert list(tmp_path.iterdir()) == [path]


def test_each_study_has_seeds_of_its_own():
    seeds = [
        seed
        for study in studies()
        for seed in range(study.first_seed, study.first_seed + study.seeds)
    ]
    assert len(set(seeds)) == len(seeds)
