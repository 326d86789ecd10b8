from dataclasses import replace

import pytest
import torch

from heavytail import StableNoise, hidden_weights
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import DivergenceError, _batches, accuracy, spawn_seeds, train


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def run(digits, *, lr=0.1, scale=0.0, seed=0, **options):
    model = FullyConnected(64, 10, width=50, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    StableNoise(optimizer, hidden_weights(model), alpha=1.75, scale=scale, seed=2)
    options = {"steps": 300, "batch_size": 100, "progress": False, **options}
    return model, train(model, optimizer, digits, seed=seed, **options)


def test_it_learns(digits):
    model, history = run(digits)
    assert history.steps == 300 == len(history.losses)
    assert history.evaluated == (100, 200, 300)
    assert float(history.losses[:10].mean()) > 1.5 > 0.5 > float(history.losses[-10:].mean())
    assert 0.90 < accuracy(model, digits.x_test, digits.y_test) < 0.99
    assert history.train_accuracies[-1] == accuracy(model, digits.x_train, digits.y_train)


def test_same_seeds_same_bits(digits):
    first, again = (run(digits, scale=0.01, steps=20) for _ in range(2))
    assert torch.equal(first[1].losses, again[1].losses)
    assert all(map(torch.equal, first[0].parameters(), again[0].parameters()))
    assert not torch.equal(run(digits, steps=20, seed=5)[1].losses, run(digits, steps=20)[1].losses)


def test_it_stops_at_an_accuracy(digits):
    _, history = run(digits, stop_accuracy=0.9, evaluate_every=10)
    assert history.steps < 300
    assert history.train_accuracies[-1] >= 0.9 > max(history.train_accuracies[:-1])
    assert history.evaluated[-1] == history.steps


def test_the_measured_model_has_the_last_noise(digits):
    model, history = run(digits, steps=5, scale=0.5)
    assert history.train_accuracies[-1] == accuracy(model, digits.x_train, digits.y_train)


def test_no_steps(digits):
    _, history = run(digits, steps=0)
    assert (history.steps, history.evaluated) == (0, ())


def test_divergence_is_an_error_that_names_the_step(digits):
    with pytest.raises(DivergenceError, match=r"diverged: the loss was (nan|inf) at step \d+") as e:
        run(digits, lr=1e6, evaluate_every=50)
    assert 1 < e.value.step <= 50


def test_noise_that_ruins_the_last_step_is_seen(digits):
    with pytest.raises(DivergenceError, match="a weight was not finite at step 1"):
        run(digits, steps=1, scale=1e40)


def test_an_epoch_visits_every_example_once():
    batches = _batches(10, 4, torch.Generator().manual_seed(0))
    epoch = [next(batches) for _ in range(3)]
    assert [len(batch) for batch in epoch] == [4, 4, 2]
    assert sorted(torch.cat(epoch).tolist()) == list(range(10))
    assert torch.cat([next(batches) for _ in range(3)]).tolist() != torch.cat(epoch).tolist()


def test_accuracy_counts(digits):
    def logits(x):
        return torch.nn.functional.one_hot(x[:, 0].long(), 3).float()

    class Echo(torch.nn.Module):
        forward = staticmethod(logits)

    x, y = torch.tensor([[0.0], [1.0], [2.0], [2.0]]), torch.tensor([0, 1, 2, 0])
    for batch_size in (1, 3, 4096):
        assert accuracy(Echo(), x, y, batch_size=batch_size) == 0.75
    with pytest.raises(ValueError, match="needs examples and a label each, got 0"):
        accuracy(Echo(), x[:0], y[:0])
    with pytest.raises(ValueError, match="got 4 and shape"):
        accuracy(Echo(), x, y[:1])


def test_accuracy_puts_each_module_back():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    model[1].eval()
    accuracy(model, torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    with pytest.raises(RuntimeError):
        accuracy(model, torch.ones(3, 5), torch.zeros(3, dtype=torch.int64))
    assert model.training


def test_spawned_seeds_differ_and_repeat():
    assert spawn_seeds(4, 3) == spawn_seeds(4, 3)
    seeds = [seed for root in range(20) for seed in spawn_seeds(root, 3)]
    assert len(set(seeds)) == 60
    assert spawn_seeds(4, 5)[:3] == spawn_seeds(4, 3)


def test_no_examples(digits):
    with pytest.raises(ValueError, match="training needs at least one example"):
        run(replace(digits, x_train=digits.x_train[:0], y_train=digits.y_train[:0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be >= 1"),
        ({"stop_accuracy": 95}, r"stop_accuracy must be in \[0, 1\], got 95"),
    ],
)
def test_bad_arguments(options, message, digits):
    with pytest.raises(ValueError, match=message):
        run(digits, **options)
