import math
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn.utils import prune

from heavytail import StableNoise, hidden_weights
from heavytail.experiments.data import Dataset
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.together import Noise, train_together
from heavytail.experiments.train import DivergenceError, train

LR = 0.05
OPTIONS = {"lr": LR, "steps": 11, "batch_size": 10, "progress": False}

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
    Noise(alpha=1.5, scale=0, seed=14),
)
EVERYONE = range(len(NOISES))

# In float64 members and those alone agreed to 5e-16 of the largest weight after 200 steps on the
# digits; in float32 to 1e-6 where a jump had not made the training chaotic.
CLOSE = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


def task(dtype=torch.float64, inputs=13, n=47):
    """Return a small task of odd sizes; 47 examples leave an odd last batch."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, inputs, generator=generator, dtype=dtype)
    y = (x @ torch.randn(inputs, 3, generator=generator, dtype=dtype)).argmax(1)
    return Dataset("odd", x, y, x, y, 3)


def network(data, i, width=37, **options):
    source = torch.Generator().manual_seed(20 + i)
    options |= {"generator": source, "dtype": data.x_train.dtype}
    return FullyConnected(data.inputs, data.classes, width=width, **options)


def company(data, members, form=None, **options):
    """Train these of NOISES, each always with the same start and batches."""
    models = [network(data, i, **(form or {})).eval() for i in members]
    options = OPTIONS | options
    noises, seeds = [NOISES[i] for i in members], [40 + i for i in members]
    found = train_together(models, data, noises=noises, seeds=seeds, **options)
    return list(zip(models, found, strict=True))


def alone(data, i, form=None, noise=None, seed=None):
    """Train one of them with an optimizer and a hook."""
    model, noise = network(data, i, **(form or {})), noise or NOISES[i]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    if noise is not None:
        StableNoise(optimizer, hidden_weights(model), **asdict(noise))
    options = {"seed": 40 + i if seed is None else seed, "evaluate_every": 11, "progress": False}
    return model, train(model, optimizer, data, steps=11, batch_size=10, **options)


def assert_close(run, other):
    (model, history), (twin, record) = run, other
    close = CLOSE[history.losses.dtype]
    assert model.training == twin.training
    torch.testing.assert_close(history.losses, record.losses, **close)
    for weight, same in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight, same, **close)
    assert (history.evaluated, history.train_accuracies) == (
        record.evaluated,
        record.train_accuracies,
    )


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ({}, torch.float64),
        ({"hidden_layers": 2}, torch.float64),
        ({"width": 200, "hidden_layers": 2}, torch.float64),  # its draws are in blocks
        ({"scaling": "mean_field"}, torch.float64),
        ({"width": 1}, torch.float64),
        ({}, torch.float32),
    ],
    ids=["plain", "deep", "wide", "mean_field", "narrow", "float32"],
)
def test_a_member_is_what_it_is_alone(form, dtype):
    data = task(dtype)
    for i, run in zip(EVERYONE, company(data, EVERYONE, form), strict=True):
        assert run[1].evaluated == (11,)
        assert_close(run, alone(data, i, form))


@pytest.mark.parametrize(
    "other",
    [{"noise": replace(NOISES[0], seed=1)}, {"noise": replace(NOISES[0], scale=0)}, {"seed": 1}],
)
def test_another_seed_is_another_run(other):
    """Negative control: the comparisons above can fail."""
    data = task()
    with pytest.raises(AssertionError, match="not close"):
        assert_close(company(data, [0])[0], alone(data, 0, **other))


def test_one_that_diverges_is_an_outcome_and_disturbs_no_other():
    data = task()
    wild = Noise(alpha=1.5, scale=1e300, seed=5)
    models = [network(data, i) for i in (0, 1, 2)]
    noises, seeds = [NOISES[0], wild, NOISES[2]], [40, 41, 42]
    found = train_together(models, data, noises=noises, seeds=seeds, **OPTIONS)
    with pytest.raises(DivergenceError, match="the loss was") as expected:
        alone(data, 1, noise=wild)
    assert isinstance(found[1], DivergenceError)
    assert (found[1].step, str(found[1])) == (expected.value.step, str(expected.value))
    assert found[1].__traceback__ is None
    assert not all(torch.isfinite(weight).all() for weight in models[1].parameters())
    for i in (0, 2):
        assert_close((models[i], found[i]), alone(data, i))


def test_noise_beyond_the_floats_is_seen_in_the_weights():
    data, wild = task(torch.float32), Noise(alpha=1.5, scale=1e42, kind="isotropic", seed=5)
    options = OPTIONS | {"steps": 1}
    (error,) = train_together([network(data, 1)], data, noises=[wild], seeds=[0], **options)
    assert isinstance(error, DivergenceError)
    assert "a weight was not finite at step 1" in str(error)


def test_no_steps():
    data = task()
    ((model, history),) = company(data, [0], steps=0)
    assert history.evaluated == history.train_accuracies == ()
    assert len(history.losses) == 0
    assert all(map(torch.equal, model.parameters(), network(data, 0).parameters()))


def test_what_is_global_is_left_alone():
    data, state, threads = task(), torch.get_rng_state(), torch.get_num_threads()
    with torch.device("meta"):  # nothing is made on the default device
        found = company(data, EVERYONE)
    assert torch.equal(found[0][1].losses, company(data, EVERYONE)[0][1].losses)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def masked(data):
    model = network(data, 0)
    prune.identity(model.head, "weight")
    return model


def frozen(data):
    model = network(data, 0)
    model.head.weight.requires_grad_(False)
    return model


DATA = task()
PAIR = [network(DATA, 0), network(DATA, 1).eval()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"models": [PAIR[0], network(DATA, 0, 36)]},
            "models must be of one shape, scaling, dtype",
        ),
        ({"models": [PAIR[0], network(task(torch.float32), 0)]}, "of one shape, scaling, dtype"),
        ({"models": [PAIR[0], network(DATA, 1, scaling="mean_field")]}, "of one shape, scaling"),
        ({"models": [PAIR[0]] * 2}, "models must not share weights"),
        ({"models": [PAIR[0], masked(DATA)]}, "models must have no masks"),
        ({"models": [PAIR[0], frozen(DATA)]}, "no weights that are frozen"),
        ({"models": [PAIR[0], torch.nn.Linear(13, 3)]}, "must hold FullyConnected .*, got Linear"),
        ({"noises": [None]}, "noises must be one for each of 2, got 1"),
        ({"noises": [None, Noise(alpha=2.5, scale=0.1, seed=0)]}, r"alpha must be in \(0, 2\]"),
        ({"seeds": [1, -1]}, "each of seeds must be"),
        ({"noises": [None, 7]}, "each of noises must be of type Noise, got 7"),
        ({"lr": math.nan}, r"lr must be in \[0, 1.79.*e\+308\], got nan"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_arguments_change_nothing(options, message):
    before = [weight.clone() for model in PAIR for weight in model.parameters()]
    options = (
        OPTIONS | {"models": PAIR, "data": DATA, "noises": [None] * 2, "seeds": [0, 1]} | options
    )
    with pytest.raises((TypeError, ValueError), match=message):
        train_together(**options)
    assert all(map(torch.equal, before, [w for model in PAIR for w in model.parameters()]))
    assert [model.training for model in PAIR] == [True, False]
