import math
from itertools import pairwise

import pytest
import torch
from torch.nn.utils import prune

from heavytail import StableNoise, hidden_weights
from heavytail.experiments import ensemble
from heavytail.experiments.data import Dataset, load
from heavytail.experiments.ensemble import Noise, train_together
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import DivergenceError, train

LR = 0.05

# Each kind, heavy and Gaussian tails, and no noise at all.
NOISES = (
    Noise(alpha=1.75, scale=0.003, kind="shared", seed=7),
    Noise(alpha=1.1, scale=0.003, kind="independent", seed=8),
    Noise(alpha=1.9, scale=0.003, kind="isotropic", seed=9),
    None,
    Noise(alpha=0.9, scale=0.003, kind="shared", seed=10),
    Noise(alpha=2, scale=0.01, kind="independent", seed=11),
    Noise(alpha=2, scale=0.01, kind="isotropic", seed=12),
    Noise(alpha=0.6, scale=1e-4, kind="isotropic", seed=13),
)


def task(inputs=13, n=47, classes=3, dtype=torch.float32):
    """Return a small task of odd sizes; 47 examples leave an odd last batch."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, inputs, generator=generator, dtype=dtype)
    y = (x @ torch.randn(inputs, classes, generator=generator, dtype=dtype)).argmax(1)
    return Dataset("odd", x, y, x, y, classes)


def network(data, start, width=37, hidden_layers=1):
    return FullyConnected(
        data.inputs,
        data.classes,
        width=width,
        hidden_layers=hidden_layers,
        generator=torch.Generator().manual_seed(start),
        dtype=data.x_train.dtype,
    )


def together(data, members, *, threads=1, width=37, hidden_layers=1, lr=LR, **options):
    """Train these of NOISES, each always with the same start and batches."""
    models = [network(data, 20 + i, width, hidden_layers) for i in members]
    options = {"steps": 11, "batch_size": 10, "progress": False, **options}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        histories = train_together(
            models,
            data,
            lr=lr,
            noises=[NOISES[i] for i in members],
            seeds=[40 + i for i in members],
            **options,
        )
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    return models, histories


def alone(data, i, noise, *, width=37, hidden_layers=1, lr=LR, seed=None, **options):
    """Do the same for one member with an optimizer and a hook."""
    model = network(data, 20 + i, width, hidden_layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if noise is not None:
        StableNoise(
            optimizer,
            hidden_weights(model),
            alpha=noise.alpha,
            scale=noise.scale,
            kind=noise.kind,
            seed=noise.seed,
        )
    options = {"steps": 11, "batch_size": 10, "progress": False, **options}
    seed = 40 + i if seed is None else seed
    return model, train(
        model, optimizer, data, seed=seed, evaluate_every=options["steps"], **options
    )


def same(first, second):
    """Whether two runs, each a model and a history, are equal to the bit."""
    return (
        all(map(torch.equal, first[0].parameters(), second[0].parameters()))
        and torch.equal(first[1].losses, second[1].losses)
        and first[1].train_accuracies == second[1].train_accuracies
        and first[1].evaluated == second[1].evaluated
    )


# The bits of a member depend on nothing but its own arguments.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("inputs", "width", "hidden_layers", "batch_size"),
    [
        (13, 37, 1, 10),
        (13, 37, 2, 10),
        (1, 1, 1, 1),
        (5, 5, 3, 7),
        (64, 200, 1, 33),
        (9, 191, 2, 20),
    ],
)
def test_company_changes_no_bit(inputs, width, hidden_layers, batch_size, dtype):
    """Alone, first, last, in the middle; in twos and in all; on one thread and on two."""
    data = task(inputs, dtype=dtype)
    options = {"width": width, "hidden_layers": hidden_layers, "batch_size": batch_size}
    everyone = range(len(NOISES))
    runs = {i: [] for i in everyone}
    for members in ([i] for i in everyone):
        for model, history in zip(*together(data, members, **options), strict=True):
            runs[members[0]].append((model, history))
    companies = [everyone, everyone[::-1], everyone[3:], *map(list, pairwise(everyone))]
    for members in companies:
        for threads in (1, 2):
            found = zip(*together(data, members, threads=threads, **options), strict=True)
            for i, run in zip(members, found, strict=True):
                runs[i].append(run)
    for first, *others in runs.values():
        assert len(others) >= 6
        assert all(same(first, other) for other in others)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_grouping_changes_no_bit(threads, monkeypatch):
    data, everyone = task(), range(len(NOISES))
    want = list(zip(*together(data, everyone), strict=True))
    for options in ({"batched": False}, {"batched": True}, {"most": 3}):
        monkeypatch.setattr(ensemble, "_GROUP", options.pop("most", 16))
        found = list(zip(*together(data, everyone, threads=threads, **options), strict=True))
        assert all(map(same, want, found))
    monkeypatch.setattr(ensemble, "_STACKED", 0)
    assert all(map(same, want, zip(*together(data, everyone), strict=True)))


@pytest.mark.parametrize("ahead", [1, 2000, 1 << 20])
def test_drawing_ahead_changes_no_bit(ahead, monkeypatch):
    data, everyone = task(), range(len(NOISES))
    want = list(zip(*together(data, everyone, hidden_layers=2), strict=True))
    monkeypatch.setattr(ensemble, "_AHEAD", ahead)
    found = zip(*together(data, everyone, hidden_layers=2), strict=True)
    assert all(map(same, want, found))


# The same run as one by one.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("width", "hidden_layers"), [(37, 1), (37, 2), (200, 2)], ids=["one", "two", "wide"]
)
@pytest.mark.parametrize("i", range(len(NOISES)))
def test_it_is_training_with_the_noise_attached(i, width, hidden_layers, dtype):
    """Losses and weights of the same seeds; the draws of a layer of 200 x 200 are in blocks."""
    data = load("digits").to(dtype=dtype)
    options = {"width": width, "hidden_layers": hidden_layers, "steps": 17, "batch_size": 100}
    model, history = alone(data, i, NOISES[i], **options)
    (mine, *_), (found, *_) = together(data, [i, 3], **options)
    close = (
        {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
    )
    torch.testing.assert_close(found.losses, history.losses, **close)
    for weight, other in zip(mine.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, **close)
    assert found.evaluated == history.evaluated == (17,)
    assert found.train_accuracies[0] == pytest.approx(history.train_accuracies[0], abs=0.01)


@pytest.mark.parametrize("i", range(len(NOISES)))
def test_it_is_so_to_the_bit_on_one_thread(i):
    data = load("digits")
    options = {"width": 50, "steps": 31, "batch_size": 100}
    models, histories = together(data, [3, i], threads=2, **options)
    assert same((models[1], histories[1]), alone(data, i, NOISES[i], **options))


def test_another_seed_is_another_run():
    """What the comparisons above must be able to see."""
    data = task()
    models, histories = together(data, [0])
    run = models[0], histories[0]
    assert same(run, alone(data, 0, NOISES[0]))
    other = Noise(alpha=1.75, scale=0.003, kind="shared", seed=1)
    assert not same(run, alone(data, 0, other))
    assert not same(run, alone(data, 0, NOISES[0], seed=1))
    assert not same(run, alone(data, 0, None))


def test_no_scale_is_no_noise():
    data = task()
    models = [network(data, 0), network(data, 0)]
    nothing = Noise(alpha=1.5, scale=0, seed=1)
    options = {"lr": LR, "seeds": [1, 1], "steps": 5, "batch_size": 10, "progress": False}
    runs = zip(models, train_together(models, data, noises=[None, nothing], **options), strict=True)
    assert same(*runs)


@pytest.mark.parametrize("hidden_layers", [1, 2])
def test_batched_products_agree(hidden_layers, monkeypatch):
    """What other devices do, tried on this one."""
    data, everyone = task(dtype=torch.float64), range(len(NOISES))
    models, histories = together(data, everyone, hidden_layers=hidden_layers)
    monkeypatch.setattr(ensemble, "_on_cpu", lambda tensor: False)
    others, found = together(data, everyone, hidden_layers=hidden_layers)
    for model, other in zip(models, others, strict=True):
        for weight, same_weight in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(weight, same_weight, rtol=1e-9, atol=1e-12)
    for history, other_history in zip(histories, found, strict=True):
        torch.testing.assert_close(history.losses, other_history.losses, rtol=1e-9, atol=1e-12)


# What one member does is no other's business.


def test_one_that_diverges_is_an_outcome():
    data = task()
    wild = Noise(alpha=1.5, scale=1e37, seed=5)
    models = [network(data, 20), network(data, 1), network(data, 22)]
    histories = train_together(
        models,
        data,
        lr=LR,
        noises=[NOISES[0], wild, NOISES[2]],
        seeds=[40, 0, 42],
        steps=11,
        batch_size=10,
        progress=False,
    )
    with pytest.raises(DivergenceError) as expected:
        alone(data, 1, wild)
    error = histories[1]
    assert isinstance(error, DivergenceError)
    assert 1 < error.step < 11
    assert error.__traceback__ is None
    assert "training diverged: the loss was" in str(error)
    assert "training diverged: the loss was" in str(expected.value)
    assert not all(torch.isfinite(weight).all() for weight in models[1].parameters())
    for k in (0, 2):
        assert same((models[k], histories[k]), alone(data, k, NOISES[k]))


def test_noise_beyond_the_floats_is_seen_in_the_weights():
    data = task()
    wild = Noise(alpha=1.5, scale=1e42, kind="isotropic", seed=5)
    options = {"lr": LR, "seeds": [0], "steps": 1, "batch_size": 10, "progress": False}
    (error,) = train_together([network(data, 1)], data, noises=[wild], **options)
    assert isinstance(error, DivergenceError)
    assert error.step == 1
    assert "a weight was not finite" in str(error)


def test_an_error_inside_leaves_models_and_threads():
    """A label that is no class is found in the first epoch."""
    data = task()
    data.y_train[:] = 5
    model = network(data, 0)
    before = [weight.detach().clone() for weight in model.parameters()]
    options = {"lr": LR, "steps": 9, "batch_size": 10, "progress": False}
    with pytest.raises(IndexError, match="out of bounds"):
        train_together([model], data, noises=[None], seeds=[0], **options)
    assert all(map(torch.equal, model.parameters(), before))
    assert torch.get_num_threads() == 1


def test_the_global_generator_is_untouched():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    together(task(), range(len(NOISES)), threads=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_steps():
    data = task()
    (model,), (history,) = together(data, [0], steps=0)
    assert (history.steps, history.evaluated, history.train_accuracies) == (0, (), ())
    assert all(map(torch.equal, model.parameters(), network(data, 20).parameters()))


def test_it_learns():
    data = load("digits")
    _, histories = together(data, range(4), steps=200, batch_size=100, width=50, lr=0.1)
    assert all(history.train_accuracies[0] > 0.9 for history in histories)
    assert all(math.isfinite(history.losses.sum()) for history in histories)


# Bad input.


def other_dtype(data):
    return network(Dataset("", data.x_train.double(), *([data.y_train] * 3), 3), 0)


def frozen(data):
    model = network(data, 0)
    model.head.weight.requires_grad_(False)
    return model


def of_the_theory(data):
    return FullyConnected(data.inputs, data.classes, width=37, scaling="mean_field")


def masked(data):
    model = network(data, 0)
    prune.identity(model.head, "weight")
    return model


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda data: [network(data, 0), network(data, 0, 36)], "models must be of one shape"),
        (lambda data: [network(data, 0), network(data, 0, 37, 2)], "models must be of one shape"),
        (lambda data: [network(data, 0)] * 2, "models must not share weights"),
        (lambda data: [network(data, 0), masked(data)], "no masks or biases, got .*weight_orig"),
        (lambda data: [network(data, 0), frozen(data)], "got frozen ones: .*head"),
        (lambda data: [network(data, 0), of_the_theory(data)], "scaling, got mean_field"),
        (lambda data: [network(data, 0), other_dtype(data)], "dtype, device and inputs of the"),
        (lambda data: [network(task(12), 0), network(task(12), 1)], "inputs of the data.* 13"),
    ],
)
def test_bad_models(models, message):
    data = task()
    options = {"lr": LR, "noises": [None] * 2, "seeds": [0] * 2, "steps": 1, "batch_size": 10}
    with pytest.raises(ValueError, match=message):
        train_together(models(data), data, **options)


def test_no_models_and_no_examples():
    options = {"lr": LR, "steps": 1, "batch_size": 10}
    with pytest.raises(ValueError, match="needs models and examples, got 0 and 47"):
        train_together([], task(), noises=[], seeds=[], **options)
    with pytest.raises(ValueError, match="needs models and examples, got 1 and 0"):
        train_together([network(task(), 0)], task(n=0), noises=[None], seeds=[0], **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noises": [None]}, ValueError, "noises must be one for each of 2, got 1"),
        ({"seeds": [1, 2, 3]}, ValueError, "seeds must be one for each of 2, got 3"),
        ({"seeds": [1, -1]}, ValueError, "each of seeds must be >= 0, got -1"),
        ({"noises": [None, 0.1]}, TypeError, "noises must hold Noise or None, got 0.1"),
        ({"lr": -1}, ValueError, "lr must be >= 0, got -1"),
        ({"steps": -1}, ValueError, "steps must be >= 0, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
    ],
)
def test_bad_arguments(options, error, message):
    data = task()
    options = {
        **{"lr": LR, "noises": [None] * 2, "seeds": [0, 1], "steps": 1, "batch_size": 10},
        **options,
    }
    with pytest.raises(error, match=message):
        train_together([network(data, 0), network(data, 1)], data, **options)


def test_another_network():
    options = {"lr": LR, "noises": [None], "seeds": [0], "steps": 1, "batch_size": 10}
    with pytest.raises(TypeError, match="must hold FullyConnected networks, got Linear"):
        train_together([torch.nn.Linear(13, 3)], task(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 2.5}, r"alpha must be in \(0, 2\], got 2.5"),
        ({"scale": -1}, "scale must be >= 0, got -1"),
        ({"kind": "II"}, "kind must be one of .* got 'II'"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_bad_noise(options, message):
    with pytest.raises(ValueError, match=message):
        Noise(**{"alpha": 1.5, "scale": 0.1, "seed": 0, **options})
