import json
from dataclasses import asdict, replace

import pytest
import torch

from heavytail import StableNoise, hidden_weights
from heavytail.experiments.data import Dataset
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.prediction import Setting, compare, read, record, replay, study
from heavytail.experiments.train import train

SMALL = Setting(
    "random", "shared", 0.05, seed=3, lr=0.1, steps=40, batch_size=10, width=60, hidden_layers=1
)


def dataset(size=1.0):
    generator = torch.Generator().manual_seed(0)
    x = size * torch.randn(60, 8, generator=generator)
    y = torch.randint(3, (60,), generator=generator)
    return Dataset("random", x[:40], y[:40], x[40:], y[40:], 3)


@pytest.mark.parametrize("kind", ["shared", "independent", "isotropic"])
def test_replay_is_a_training_without_gradients(kind):
    """Examples that are all zero have no gradients: what is left is the start and the noise."""
    law = {"alpha": 1.5, "scale": 0.1, "kind": kind, "seed": 5}
    start = FullyConnected(8, 3, width=30, hidden_layers=2)
    found = replay(start, lr=0.1, steps=20, **law)
    optimizer = torch.optim.SGD(start.parameters(), lr=0.1)
    noise = StableNoise(optimizer, hidden_weights(start), **law)
    train(start, optimizer, dataset(size=0.0), steps=20, batch_size=7, seed=1, progress=False)
    noise.remove()
    assert all(map(torch.equal, found.parameters(), start.parameters()))


def test_a_gradient_that_moves_nothing_changes_no_ratio():
    outcome = compare(SMALL, dataset(size=1e-4))
    assert outcome.gradient_share < 1e-3
    assert outcome.ratio == outcome.replayed
    assert outcome.predicted[0] <= outcome.predicted[1] <= outcome.predicted[2]
    assert outcome.inside


def test_the_share_of_the_gradients_is_that_of_a_step():
    """One step without noise moves by lr times the gradient."""
    data = dataset()
    outcome = compare(replace(SMALL, scale=0.0, steps=1, batch_size=40), data)
    moved = compare(replace(SMALL, scale=0.0, steps=1, batch_size=40, lr=0.2), data)
    assert moved.gradient_share == pytest.approx(2 * outcome.gradient_share, rel=1e-4)
    assert outcome.gradient_share > 0


def test_large_gradients_leave_the_band():
    """Negative control: where the gradients rule, start plus noise predicts nothing."""
    outcome = compare(replace(SMALL, scale=0.001, lr=1.0, steps=400), dataset(size=2.0))
    assert outcome.gradient_share > 1
    assert not outcome.inside


def test_a_record_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("heavytail.experiments.prediction.load", lambda name: dataset())
    path = tmp_path / "record.json"
    settings = [replace(SMALL, seed=seed) for seed in range(3)]
    record(path, settings[:2])
    before = json.loads(path.read_text())
    record(path, settings)
    after = json.loads(path.read_text())
    assert after["runs"][:2] == before["runs"]
    assert [run["setting"] for run in after["runs"]] == [asdict(setting) for setting in settings]
    assert {"date", "machine", "versions"} <= set(after["runs"][2])
    assert [setting for setting, _ in read(path)] == settings
    assert list(tmp_path.iterdir()) == [path]


def test_the_study_has_a_seed_of_its_own_for_each_run():
    settings = study()
    assert len({setting.seed for setting in settings}) == len(settings)
    trusted = [s for s in settings if s == replace(s, data="ecg5000", lr=0.01, steps=2000)]
    assert len([s for s in trusted if s.hidden_layers == 1]) == 45
