import random
import signal
import time
from dataclasses import replace

import pytest
import torch

from heavytail import LambdaNoise, StableNoise, hidden_weights
from heavytail.experiments import checkpoint
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import DivergenceError, _batches, accuracy, spawn_seeds, train
from tests.experiments.sweep_runs import FORKS, wait_for


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


# Checkpoints.


def parts(method="SGD", width=50, layers=2):
    """Return a fresh model, its optimizer and its noise, as a new process would make them."""
    generator = torch.Generator().manual_seed(1)
    model = FullyConnected(64, 10, width=width, hidden_layers=layers, generator=generator)
    options = {"lr": 0.05, "momentum": 0.9} if method == "SGD" else {"lr": 0.01, "amsgrad": True}
    optimizer = getattr(torch.optim, method)(model.parameters(), **options)
    noise = StableNoise(
        optimizer, hidden_weights(model), alpha=1.75, scale=0.01, kind="isotropic", seed=2
    )
    return model, optimizer, noise


def go_on(digits, checkpoint=None, *, method="SGD", width=50, layers=2, **options):
    """Train a fresh model, from a checkpoint if it is there."""
    model, optimizer, noise = parts(method, width, layers)
    options = {"steps": 60, "batch_size": 100, "seed": 0, "evaluate_every": 20, **options}
    options = {"resumable": {"noise": noise}, "checkpoint_every": 7, "progress": False, **options}
    return model, train(model, optimizer, digits, checkpoint=checkpoint, **options)


def equal(first, second):
    """Tell whether two trainings have the same bits."""
    (model, history), (other, again) = first, second
    return (
        all(map(torch.equal, model.parameters(), other.parameters()))
        and torch.equal(history.losses, again.losses)
        and history.evaluated == again.evaluated
        and history.train_accuracies == again.train_accuracies
    )


@pytest.mark.parametrize("method", ["SGD", "Adam"])
def test_a_training_in_pieces_has_the_bits_of_one_without_a_break(method, digits, tmp_path):
    whole = go_on(digits, method=method)
    for steps, resumed in ((10, 0), (33, 7), (60, 28)):
        found = go_on(digits, tmp_path / "state", method=method, steps=steps)
        assert found[1].resumed == resumed
    assert equal(found, whole)
    assert not equal(found, go_on(digits, method=method, seed=1))


def test_a_break_is_not_seen_by_what_goes_on_for_longer(digits, tmp_path):
    """Neither the end of the shorter training nor its last measurement leaves a trace."""
    go_on(digits, tmp_path / "state", steps=45, evaluate_every=30)
    longer = go_on(digits, tmp_path / "state", steps=90, evaluate_every=30)
    assert equal(longer, go_on(digits, steps=90, evaluate_every=30))


def test_a_training_that_ends_at_its_checkpoint_is_measured_there(digits, tmp_path):
    go_on(digits, tmp_path / "state", steps=60, checkpoint_every=50)
    found = go_on(digits, tmp_path / "state", steps=50)
    assert equal(found, go_on(digits, steps=50))
    assert found[1].evaluated == (20, 40, 50)


def test_a_schedule_goes_on(digits, tmp_path):
    def scheduled(checkpoint, steps):
        model, optimizer, noise = parts()
        cooling = LambdaNoise(noise, scale=lambda k: 0.9**k)
        optimizer.register_step_post_hook(lambda *_: cooling.step())
        resumable = {"noise": noise, "cooling": cooling}
        options = {"batch_size": 50, "seed": 3, "progress": False, "checkpoint_every": 4}
        return model, train(
            model,
            optimizer,
            digits,
            steps=steps,
            checkpoint=checkpoint,
            resumable=resumable,
            **options,
        )

    scheduled(tmp_path / "state", 10)
    assert equal(scheduled(tmp_path / "state", 20), scheduled(None, 20))


def test_noise_that_is_not_in_the_checkpoint_begins_anew(digits, tmp_path):
    """Negative control: the noise is part of the state."""
    go_on(digits, tmp_path / "state", resumable=None, steps=33)
    assert not equal(go_on(digits, tmp_path / "state", resumable=None), go_on(digits))


def test_divergence_before_a_checkpoint_is_found_after_it(digits, tmp_path):
    """What is not finite by then is in the checkpoint too, and the step is told as without it."""
    options = {"batch_size": 10, "evaluate_every": 40, "steps": 40, "checkpoint_every": 30}

    def diverge():
        model, optimizer, _ = parts()
        optimizer.param_groups[0]["lr"] = 1e6
        with pytest.raises(DivergenceError) as error:
            train(model, optimizer, digits, seed=0, checkpoint=path, progress=False, **options)
        return error.value.step

    path = tmp_path / "state"
    assert diverge() == diverge() < 30
    assert path.exists()


LONG = {"steps": 2000, "width": 20, "layers": 1, "evaluate_every": 500}


def kill_me_later(checkpoint):
    """Train until killed, in a process of its own: a checkpoint at each step."""
    go_on(load("digits"), checkpoint, **LONG, checkpoint_every=1)


def test_a_training_killed_at_random_moments_goes_on(digits, tmp_path):
    path, moments = tmp_path / "state", random.Random(1)
    for _ in range(3):
        before = path.stat().st_mtime_ns if path.exists() else None
        process = FORKS.Process(target=kill_me_later, args=(path,))
        process.start()
        wait_for(lambda: path.exists() and path.stat().st_mtime_ns != before)  # noqa: B023
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    model, history = go_on(digits, path, **LONG, checkpoint_every=1000)
    assert 3 <= history.resumed < 2000
    assert equal((model, history), go_on(digits, **LONG))
    assert list(tmp_path.iterdir()) == [path]


def test_the_checkpoint_of_another_training_is_refused(digits, tmp_path):
    path = tmp_path / "state"
    go_on(digits, path, steps=30)
    before = path.read_bytes()
    others = [{"seed": 1}, {"batch_size": 99}, {"resumable": {}}, {"steps": 20}, {"width": 51}]
    others += [{"layers": 1}, {"method": "Adam"}]
    for options in others:
        with pytest.raises(ValueError, match="checkpoint"):
            go_on(digits, path, **options)
    with pytest.raises(ValueError, match="checkpoint must be of this training"):
        go_on(replace(digits, name="other"), path)
    assert path.read_bytes() == before


def test_what_is_no_checkpoint_of_a_training_is_refused(digits, tmp_path):
    checkpoint.save(tmp_path / "state", {"x": 1})
    with pytest.raises(ValueError, match=r"must be of this training, .* got None"):
        go_on(digits, tmp_path / "state")
    (tmp_path / "state").write_text("half a file")
    with pytest.raises(ValueError, match="must be a checkpoint"):
        go_on(digits, tmp_path / "state")


def test_names_of_what_is_resumed_do_not_hide_the_model(digits):
    with pytest.raises(ValueError, match="resumable must have other names"):
        go_on(digits, resumable={"model": parts()[2]})
