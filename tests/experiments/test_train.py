import hashlib
import io
import math
import os
import random
import signal
from multiprocessing import get_context

import pytest
import torch

from heavytail import LambdaNoise, StableNoise, hidden_weights
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import (
    DivergenceError,
    _batches,
    _measured,
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


def equal(first, second):
    """Tell whether two trainings have the same bits."""
    (model, history), (other, again) = first, second
    return (
        all(map(torch.equal, model.parameters(), other.parameters()))
        and torch.equal(history.losses, again.losses)
        and history.evaluated == again.evaluated
        and history.train_accuracies == again.train_accuracies
    )


def test_it_learns(digits):
    model, history = run(digits)
    assert history.steps == 300 == len(history.losses)
    assert history.evaluated == (100, 200, 300)
    assert float(history.losses[:10].mean()) > 1.5 > 0.5 > float(history.losses[-10:].mean())
    assert 0.90 < accuracy(model, digits.x_test, digits.y_test) < 0.99


def test_same_seeds_same_bits(digits):
    first, again, other = (run(digits, scale=0.01, steps=20, seed=seed) for seed in (0, 0, 5))
    assert equal(first, again)
    assert not torch.equal(other[1].losses, first[1].losses)


def test_it_stops_at_an_accuracy(digits):
    _, history = run(digits, stop_accuracy=0.9, evaluate_every=10)
    assert history.steps < 300
    assert history.train_accuracies[-1] >= 0.9 > max(history.train_accuracies[:-1])
    assert history.evaluated[-1] == history.steps


def test_the_measured_model_has_the_last_noise(digits):
    model, history = run(digits, steps=5, scale=0.5)
    assert history.train_accuracies == (accuracy(model, digits.x_train, digits.y_train),)
    _, history = run(digits, steps=0)
    assert (history.steps, history.evaluated) == (0, ())


def test_divergence_is_an_error_that_names_the_step(digits):
    with pytest.raises(DivergenceError, match=r"diverged: the loss was (nan|inf) at step \d+") as e:
        run(digits, lr=1e6, evaluate_every=50)
    assert 1 < e.value.step <= 50
    with pytest.raises(DivergenceError, match="the loss was nan at step 2"):
        _measured(torch.tensor([1, math.nan, math.inf]), torch.nn.Identity(), *[torch.ones(1)] * 2)
    with pytest.raises(DivergenceError, match="a weight was not finite at step 1"):
        run(digits, steps=1, scale=1e40)


def test_an_epoch_visits_every_example_once():
    batches = _batches(torch.empty(10, 2), 4, 0)
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


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(0, 2), [], r"x must hold >= 1 examples, got shape \(0, 2\)"),
        (torch.ones(4, 2), [1], r"y must be 4 int64 in \[0, 2\), got shape \(1,\)"),
        (torch.ones(4, 2), [1, 0, 0, 1.0], "y must be 4 int64 .*, got tensor"),
        (torch.ones(4, 2), [1, 0, 0, -100], r"y .*, \[-100\]"),  # cross_entropy leaves it out
    ],
)
def test_a_score_needs_examples_and_a_label_each(x, y, message):
    with pytest.raises((TypeError, ValueError), match=message):
        score(torch.nn.Identity(), x, torch.tensor(y))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_an_output_that_is_not_a_number_is_no_score(wrong):
    logits, y = torch.tensor([[0.0, 3.0], [wrong, 0.0]]), torch.tensor([1, 0])
    assert int(logits[1].argmax()) == 0  # it would count as right
    with pytest.raises(FloatingPointError, match="the loss was nan"):
        accuracy(torch.nn.Identity(), logits, y)
    with pytest.raises(DivergenceError, match="the loss was nan at step 3"):
        _measured(torch.ones(3), torch.nn.Identity(), logits, y)


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
        ({"resumable": {"model": torch.nn.Identity()}}, "resumable must hold .* by other names"),
        ({"resumable": {"noise": None}}, "resumable must hold states .*, got noise=None"),
        ({"checkpoint": ""}, "checkpoint must be a file, got the folder"),
        ({"progress": torch.ones(2)}, "progress must be True or False"),
    ],
)
def test_bad_arguments(options, message, digits):
    with pytest.raises((TypeError, ValueError), match=message):
        run(digits, **options)


# Checkpoints.

OPTIONS = {"steps": 60, "batch_size": 100, "seed": 0, "evaluate_every": 20}
OPTIONS |= {"checkpoint_every": 7, "progress": False}


def parts(method="SGD", width=50, layers=2, dtype=torch.float32, lr=0.05, buffer=torch.float32):
    """Return a fresh model, its optimizer and what else has a state, as another process would."""
    options = {"width": width, "hidden_layers": layers, "dtype": dtype}
    model = FullyConnected(64, 10, generator=torch.Generator().manual_seed(1), **options)
    model.register_buffer("some", torch.zeros(2, device="cpu", dtype=buffer))
    options = {"lr": lr, "momentum": 0.9} if method == "SGD" else {"lr": 0.01, "amsgrad": True}
    optimizer = getattr(torch.optim, method)(model.parameters(), **options)
    law = {"alpha": 1.75, "scale": 0.01, "kind": "isotropic", "seed": 2}
    noise = StableNoise(optimizer, hidden_weights(model), **law)
    cooling = LambdaNoise(noise, scale=lambda k: 0.99**k)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    optimizer.register_step_post_hook(lambda *_: (cooling.step(), rate.step()))
    return model, optimizer, {"noise": noise, "cooling": cooling, "rate": rate}


def go_on(digits, checkpoint=None, *, form=None, **options):
    """Train a fresh model, from a checkpoint if it is there."""
    model, optimizer, resumable = parts(**(form or {}))
    options = OPTIONS | {"resumable": resumable} | options
    return model, train(model, optimizer, digits, checkpoint=checkpoint, **options)


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


@pytest.mark.parametrize(
    ("first", "options"),
    [
        # Neither the end nor the last measurement of a shorter training leaves a trace.
        ({"steps": 45}, {"steps": 90, "evaluate_every": 30}),
        # One that ends at its checkpoint is measured there; so is one at both.
        ({"steps": 60}, {"steps": 50, "checkpoint_every": 50}),
        ({"steps": 60}, {"steps": 55, "checkpoint_every": 20}),
    ],
)
def test_the_measurements_are_those_of_one_without_a_break(first, options, digits, tmp_path):
    go_on(digits, tmp_path / "state", **options | first)
    found = go_on(digits, tmp_path / "state", **options)
    assert found[1].resumed > 0
    assert equal(found, go_on(digits, **options))


def test_nothing_is_made_on_the_default_device(digits, tmp_path):
    with torch.device("meta"):
        go_on(digits, tmp_path / "state", steps=30)
        found = go_on(digits, tmp_path / "state")
    assert found[1].resumed == 28
    assert equal(found, go_on(digits))


def test_divergence_before_a_checkpoint_is_found_after_it(digits, tmp_path):
    """What is not finite by then is in the checkpoint too, and the step is told as without it."""
    path, steps = tmp_path / "state", []
    options = {"evaluate_every": 40, "steps": 40, "checkpoint_every": 30, "form": {"lr": 1e6}}
    for _ in range(2):
        with pytest.raises(DivergenceError) as error:
            go_on(digits, path, **options)
        steps.append(error.value.step)
    assert path.exists()
    assert steps[0] == steps[1] < 30


def kill_me(checkpoint):
    """Train, and be killed while the third checkpoint is written."""
    signals = iter([0, 0])
    os.fsync = lambda _: os.kill(os.getpid(), next(signals, signal.SIGKILL))
    go_on(load("digits"), checkpoint)


def test_a_training_killed_while_it_writes_goes_on(digits, tmp_path):
    path = tmp_path / "state"
    process = get_context("spawn").Process(target=kill_me, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # a draft is left behind
    found = go_on(digits, path)
    assert found[1].resumed == 14
    assert equal(found, go_on(digits))
    assert list(tmp_path.iterdir()) == [path]  # the next draft took its place


class Stubborn:
    """A part that a checkpoint holds, and that takes none."""

    def __init__(self, state=None):
        self.state = {"what": state}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        raise RuntimeError("no")


OTHERS = dict.fromkeys(("noise", "cooling", "rate"), Stubborn())


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
        ({"buffer": torch.float64}, {}, "weights .*float64.* got .*float32"),
        ({"method": "Adam"}, {}, "optimizer Adam, got SGD"),
        ({}, {"resumable": OTHERS}, "state must fit the noise: no"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_and_changes_nothing(
    form, options, message, digits, tmp_path
):
    path = tmp_path / "state"
    go_on(digits, path, steps=30)
    written = path.read_bytes()
    model, optimizer, resumable = parts(**form)
    some = (model, optimizer, *resumable.values())
    before = [repr(part.state_dict()) for part in some]
    model.eval()
    options = OPTIONS | {"resumable": resumable, "checkpoint": path} | options
    with pytest.raises(ValueError, match=message):
        train(model, optimizer, digits.to(dtype=model.head.weight.dtype), **options)
    assert [repr(part.state_dict()) for part in some] == before
    assert not model.training
    assert path.read_bytes() == written


def test_a_state_that_could_not_be_read_again_is_not_written(digits, tmp_path):
    with pytest.raises(TypeError, match="must hold tensors, numbers and strings"):
        go_on(digits, tmp_path / "state", resumable={"opaque": Stubborn(Stubborn())})
    assert not list(tmp_path.iterdir())


def test_damage_is_found(digits, tmp_path):
    """Any bit, and any end: the digest is of all bytes."""
    path = tmp_path / "state"
    go_on(digits, path, steps=30)
    whole = path.read_bytes()
    flipped = [
        whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :]
        for bit in [0, 8 * len(whole) - 1, *random.Random(0).sample(range(8 * len(whole)), 30)]
    ]
    cut = [whole[:n] for n in (0, 31, 32, 33, len(whole) // 2, len(whole) - 1)] + [whole + b"x"]
    foreign = b"cos\nsystem\n(S'exit 1'\ntR."  # a pickle that would run a command
    buffer = io.BytesIO()
    torch.save({"model": {}}, buffer)  # of no training
    dressed = [hashlib.sha256(some).digest() + some for some in (foreign, buffer.getvalue())]
    for content in (*flipped, *cut, foreign, *dressed):
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
