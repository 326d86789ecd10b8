import hashlib
import random
import signal
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch

from heavytail import LambdaNoise, StableNoise, hidden_weights
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import (
    DivergenceError,
    _batches,
    accuracy,
    score,
    spawn_seeds,
    train,
)


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


def test_same_seeds_same_bits(digits):
    first, again = (run(digits, scale=0.01, steps=20) for _ in range(2))
    assert equal(first, again)
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
    with pytest.raises(DivergenceError, match="a weight was not finite at step 1"):
        run(digits, steps=1, scale=1e40)


def test_an_epoch_visits_every_example_once():
    batches = _batches(10, 4, torch.Generator().manual_seed(0))
    epoch = [next(batches) for _ in range(3)]
    assert [len(batch) for batch in epoch] == [4, 4, 2]
    assert sorted(torch.cat(epoch).tolist()) == list(range(10))
    assert torch.cat([next(batches) for _ in range(3)]).tolist() != torch.cat(epoch).tolist()


def test_a_score_counts_and_averages():
    logits = torch.tensor([[0.0, 3.0], [2.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    y = torch.tensor([1, 0, 0, 1])
    losses = (logits.logsumexp(1) - logits[range(4), y]).tolist()
    for batch_size in (1, 3, 4096):
        found = score(torch.nn.Identity(), logits, y, batch_size=batch_size)
        assert found.accuracy == 0.5 == accuracy(torch.nn.Identity(), logits, y)
        assert found.loss == pytest.approx(sum(losses) / 4, rel=1e-6)  # float32 logits


def test_a_score_puts_each_module_back():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    model[1].eval()
    accuracy(model, torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    with pytest.raises(RuntimeError):
        accuracy(model, torch.ones(3, 5), torch.zeros(3, dtype=torch.int64))
    assert model.training


def test_spawned_seeds_differ_and_repeat():
    seeds = [seed for root in range(20) for seed in spawn_seeds(root, 3)]
    assert len(set(seeds)) == 60
    assert spawn_seeds(4, 5)[:3] == spawn_seeds(4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be >= 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be >= 1"),
        ({"stop_accuracy": 95}, r"stop_accuracy must be in \[0, 1\], got 95"),
        ({"seed": -1}, "seed must be"),
        ({"resumable": {"model": None}}, "resumable must have other names"),
    ],
)
def test_bad_arguments(options, message, digits):
    with pytest.raises(ValueError, match=message):
        run(digits, **options)


def test_no_examples(digits):
    x, y = digits.x_train, digits.y_train
    with pytest.raises(ValueError, match="training needs at least one example"):
        run(replace(digits, x_train=x[:0], y_train=y[:0]))
    for some in (x[:0], y[:0]), (x[:4], y[:1]):
        with pytest.raises(ValueError, match="needs examples and a label each, got"):
            score(torch.nn.Identity(), *some)


# Checkpoints.


def parts(method="SGD", width=50, layers=2, dtype=torch.float32):
    """Return a fresh model, its optimizer and its noise, as another process would make them."""
    options = {"width": width, "hidden_layers": layers, "dtype": dtype}
    model = FullyConnected(64, 10, generator=torch.Generator().manual_seed(1), **options)
    options = {"lr": 0.05, "momentum": 0.9} if method == "SGD" else {"lr": 0.01, "amsgrad": True}
    optimizer = getattr(torch.optim, method)(model.parameters(), **options)
    law = {"alpha": 1.75, "scale": 0.01, "kind": "isotropic", "seed": 2}
    return model, optimizer, StableNoise(optimizer, hidden_weights(model), **law)


OPTIONS = {"steps": 60, "batch_size": 100, "seed": 0, "evaluate_every": 20}
OPTIONS |= {"checkpoint_every": 7, "progress": False}


def go_on(digits, checkpoint=None, *, form=None, **options):
    """Train a fresh model, from a checkpoint if it is there."""
    model, optimizer, noise = parts(**(form or {}))
    options = OPTIONS | {"resumable": {"noise": noise}} | options
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
    form = {"method": method}
    whole = go_on(digits, form=form)
    for steps, resumed in ((10, 0), (33, 7), (60, 28)):
        found = go_on(digits, tmp_path / "folder" / "state", form=form, steps=steps)
        assert found[1].resumed == resumed
    assert equal(found, whole)
    assert not equal(found, go_on(digits, form=form, seed=1))
    # Negative control: the noise is part of the state.
    go_on(digits, tmp_path / "other", form=form, resumable=None, steps=33)
    assert not equal(go_on(digits, tmp_path / "other", form=form, resumable=None), whole)


def test_neither_the_end_nor_the_last_measurement_of_a_shorter_training_leaves_a_trace(
    digits, tmp_path
):
    go_on(digits, tmp_path / "state", steps=45, evaluate_every=30)
    longer = go_on(digits, tmp_path / "state", steps=90, evaluate_every=30)
    assert equal(longer, go_on(digits, steps=90, evaluate_every=30))


def test_a_training_that_ends_at_its_checkpoint_is_measured_there(digits, tmp_path):
    go_on(digits, tmp_path / "state", steps=60, checkpoint_every=50)
    found = go_on(digits, tmp_path / "state", steps=50)
    assert equal(found, go_on(digits, steps=50))
    assert found[1].evaluated == (20, 40, 50)


def test_schedules_go_on(digits, tmp_path):
    def scheduled(checkpoint, steps):
        model, optimizer, noise = parts()
        cooling = LambdaNoise(noise, scale=lambda k: 0.9**k)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        optimizer.register_step_post_hook(lambda *_: (cooling.step(), rate.step()))
        resumable = {"noise": noise, "cooling": cooling, "rate": rate}
        options = OPTIONS | {"steps": steps, "checkpoint": checkpoint, "resumable": resumable}
        return model, train(model, optimizer, digits, **options)

    scheduled(tmp_path / "state", 10)
    assert equal(scheduled(tmp_path / "state", 20), scheduled(None, 20))


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


LONG = {"steps": 2000, "form": {"width": 20, "layers": 1}, "evaluate_every": 500}


FORKS = get_context("forkserver")
FORKS.set_forkserver_preload([__name__, "sklearn.datasets"])  # imports once, not three times


def kill_me_later(checkpoint):
    """Train until killed, in a process of its own: a checkpoint at each step."""
    go_on(load("digits"), checkpoint, **LONG, checkpoint_every=1)


def test_a_training_killed_at_random_moments_goes_on(digits, tmp_path):
    path, moments = tmp_path / "state", random.Random(1)
    for _ in range(3):
        before = path.stat().st_mtime_ns if path.exists() else None
        process = FORKS.Process(target=kill_me_later, args=(path,))
        process.start()
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    found = go_on(digits, path, **LONG, checkpoint_every=400)
    assert 3 <= found[1].resumed < 1600
    assert equal(found, go_on(digits, **LONG))
    assert list(tmp_path.iterdir()) == [path]  # the next draft took the place of those left behind


class Stubborn:
    """A part that a checkpoint holds, and that takes none."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        raise RuntimeError("no")


class Opaque(Stubborn):
    """A part whose state is code."""

    def state_dict(self):
        return {"what": Stubborn()}


def states(*some):
    return [repr(part.state_dict()) for part in some]


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ({}, {"seed": 1}, "with the seed 1, got 0"),
        ({}, {"batch_size": 99}, "batch_size 99, got 100"),
        ({}, {"resumable": {}}, "parts"),
        ({}, {"steps": 20}, "steps must be >= those of the checkpoint, 28, got 20"),
        ({"width": 51}, {}, "weights"),
        ({"layers": 1}, {}, "weights"),
        ({"dtype": torch.float64}, {}, "weights .*float64.* got .*float32"),
        ({"method": "Adam"}, {}, "optimizer Adam, got SGD"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_and_changes_nothing(
    form, options, message, digits, tmp_path
):
    path = tmp_path / "state"
    go_on(digits, path, steps=30)
    written = path.read_bytes()
    model, optimizer, noise = parts(**form)
    before = states(model, optimizer, noise)
    options = OPTIONS | {"resumable": {"noise": noise}, "checkpoint": path} | options
    with pytest.raises(ValueError, match=message):
        train(model, optimizer, digits.to(dtype=model.head.weight.dtype), **options)
    assert states(model, optimizer, noise) == before
    assert path.read_bytes() == written


def test_a_part_that_refuses_leaves_the_others_as_they_were(digits, tmp_path):
    options = OPTIONS | {"checkpoint": tmp_path / "state"}
    model, optimizer, noise = parts()
    resumable = {"noise": noise, "stubborn": Stubborn()}
    train(model, optimizer, digits, resumable=resumable, **options)
    model, optimizer, noise = parts()
    before, resumable = states(model, optimizer, noise), {"noise": noise, "stubborn": Stubborn()}
    with pytest.raises(ValueError, match="state must fit the stubborn: no"):
        train(model, optimizer, digits, resumable=resumable, **options)
    assert states(model, optimizer, noise) == before


def test_a_state_that_could_not_be_read_again_is_not_written(digits, tmp_path):
    with pytest.raises(TypeError, match="must hold tensors, numbers and strings"):
        go_on(digits, tmp_path / "state", resumable={"opaque": Opaque()})
    assert not list(tmp_path.iterdir())


def test_damage_is_found(digits, tmp_path):
    """Any bit, and any end: the digest is of all bytes."""
    path = tmp_path / "state"
    go_on(digits, path, steps=30)
    whole = path.read_bytes()
    bits = [random.Random(0).randrange(8 * len(whole)) for _ in range(30)]
    flipped = [
        whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :]
        for bit in [0, 8 * len(whole) - 1, *bits]
    ]
    cut = [whole[:n] for n in (0, 31, 32, 33, len(whole) // 2, len(whole) - 1)] + [whole + b"x"]
    foreign = b"cos\nsystem\n(S'exit 1'\ntR."  # a pickle that would run a command
    dressed = hashlib.sha256(foreign).digest() + foreign
    for content in (*flipped, *cut, foreign, dressed):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"state must be a whole checkpoint, got"):
            go_on(digits, path)
    path.write_bytes(whole)
    assert go_on(digits, path)[1].resumed == 28


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_halfway_leaves_the_earlier_file(failure, digits, tmp_path, monkeypatch):
    path = tmp_path / "state"
    go_on(digits, path, steps=10)
    before = path.read_bytes()

    def half(draft, content):
        draft.write_text("half")
        raise failure

    monkeypatch.setattr(type(path), "write_bytes", half)
    with pytest.raises(type(failure)):
        go_on(digits, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
