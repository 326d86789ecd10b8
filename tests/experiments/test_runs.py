import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

import heavytail
from heavytail import StableNoise, hidden_weights
from heavytail.experiments import data, runs
from heavytail.experiments.data import Dataset, load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.records import plain
from heavytail.experiments.results import ERROR, FRACTIONS, LEVELS, Config, Result, decode
from heavytail.experiments.runs import in_sweep, replay, run, seen
from heavytail.experiments.train import DivergenceError, score, spawn_seeds, train

SMALL = Config(
    data="digits", width=50, kind="isotropic", alpha=1.75, scale=0.02, lr=0.1, steps=30, seed=4
)
QUIET = replace(SMALL, kind="none", alpha=None, scale=0.0)


def network(config):
    """Return the start of a run on digits."""
    source = torch.Generator().manual_seed(spawn_seeds(config.seed, 4)[0])
    return FullyConnected(64, 10, width=config.width, generator=source)


@pytest.fixture(scope="module")
def hand():
    """Return start, trained network and its start with the noise, as the seeds have them."""
    _, noise_seed, batch_seed, _ = spawn_seeds(SMALL.seed, 4)
    start = network(SMALL)
    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=SMALL.lr)
    law = {"alpha": SMALL.alpha, "scale": SMALL.scale, "kind": SMALL.kind}
    StableNoise(optimizer, hidden_weights(model), **law, seed=noise_seed)
    options = {"steps": SMALL.steps, "batch_size": SMALL.batch_size, "seed": batch_seed}
    train(model, optimizer, load("digits"), **options, progress=False)
    return start, model, replay(SMALL, start, SMALL.steps)


def flat(model):
    return torch.cat([weight.detach().double().flatten() for weight in hidden_weights(model)])


@pytest.fixture(scope="module")
def result():
    return run(SMALL)


# What a result says.


def test_scores_and_ratio_are_those_of_a_network_trained_by_hand(result, hand):
    digits, model = load("digits"), copy.deepcopy(hand[1])
    assert result.test == score(model, digits.x_test, digits.y_test)
    assert result.train == score(model, digits.x_train, digits.y_train)
    assert (result.steps, result.diverged) == (30, None)
    assert result.step_seconds > 0
    report = heavytail.prune(model, error=ERROR)
    assert result.ratio == report.ratio == result.layers[0].ratio > 0
    assert result.pruned_test == score(model, digits.x_test, digits.y_test)
    assert result.pruned_train == score(model, digits.x_train, digits.y_train)


def test_the_curve_goes_from_the_network_to_a_constant(result, hand):
    digits = load("digits")
    assert tuple(point.fraction for point in result.curve) == FRACTIONS
    assert result.curve[0].test == result.test
    assert result.curve[0].error == 0
    assert result.curve[-1].test.loss == pytest.approx(math.log(10), rel=1e-6)
    assert result.curve[-1].test.accuracy == float((digits.y_test == 0).double().mean())
    assert result.curve[-1].error == 1
    errors = [point.error for point in result.curve]
    assert errors == sorted(errors)
    model = copy.deepcopy(hand[1])
    assert result.curve[4].error == heavytail.prune(model, keep=1 - 0.4).error
    assert result.curve[4].test == score(model, digits.x_test, digits.y_test)


def test_gradients_are_those_of_a_step():
    """One step, and a batch of all examples: G is -lr times the gradient, with noise or without."""
    digits = load("digits")
    one = replace(SMALL, steps=1, batch_size=len(digits.x_train))
    model = network(one)
    torch.nn.functional.cross_entropy(model(digits.x_train), digits.y_train).backward()
    weight = model.body[0].weight
    share = 0.1 * float(weight.grad.norm() / weight.detach().norm())
    silent = replace(one, kind="none", alpha=None, scale=0.0)
    for config in (one, silent, replace(one, kind="shared", scale=0.001)):
        assert run(config).gradient == pytest.approx(share, rel=1e-4)


def test_the_layers_are_what_their_norms_are(result, hand):
    (layer,) = result.layers
    start, model = (some.body[0].weight.detach() for some in hand[:2])
    norms = heavytail.column_norms(model)
    assert (layer.name, layer.columns) == ("body.0", 50)
    assert layer.norms == tuple(norms.quantile(norms.new_tensor(LEVELS)).tolist())
    assert layer.hill[:2] == (None, None)  # of 0 and of 1 norm
    assert layer.hill[3] == heavytail.hill(norms, 5).alpha
    estimate = heavytail.stable_mle((model.double() - start.double()).sum(1) / 8)
    assert layer.noise_index == (estimate.alpha, estimate.stderr)
    deep = run(replace(SMALL, hidden_layers=3, scale=0.005, width=5))
    assert [layer.name for layer in deep.layers] == ["body.0", "body.2", "body.4"]
    assert deep.ratio == pytest.approx(sum(layer.ratio for layer in deep.layers) / 3)
    assert deep.layers[0].noise_index is None  # of five columns
    assert deep.layers[0].hill == (None,) * 4


def test_the_noise_is_the_trainings_and_the_prediction_is_of_other_noise(result, hand):
    start, model, noisy = hand
    size = float(flat(start).norm())
    parts = [result.noise.norm * size, result.gradient * size]
    expected = [float((flat(noisy) - flat(a)).norm()) for a in (start, model)]
    assert parts == pytest.approx(expected, rel=1e-9)
    noise = noisy.body[0].weight.double() - start.body[0].weight.double()
    assert (result.noise.span, result.noise.gain) == seen(noise, load("digits").x_train)
    assert 0 < result.noise.span < 1  # some pixels are never inked
    assert result.noise.replayed == heavytail.prune(copy.deepcopy(noisy), error=ERROR).ratio
    law = {"alpha": 1.75, "scale": 0.02, "kind": "isotropic", "lr": 0.1, "steps": 30}
    source = torch.Generator().manual_seed(spawn_seeds(4, 4)[3])
    prediction = heavytail.predict_pruning(start, **law, error=ERROR, draws=200, generator=source)
    expected = [prediction.quantile(p) for p in (0.05, 0.5, 0.95)]
    assert result.noise.predicted == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", heavytail.noise.KINDS)
def test_the_index_of_the_noise_is_found_in_the_weights(kind):
    """Noise much stronger than the gradients, on 400 columns."""
    config = replace(SMALL, width=400, kind=kind, scale=0.3, steps=10, lr=0.01)
    (layer,) = run(config).layers
    alpha, stderr = layer.noise_index
    assert abs(alpha - 1.75) < 4 * stderr < 0.5
    other = run(replace(config, alpha=1.2, scale=0.6)).layers[0].noise_index
    assert abs(other[0] - 1.75) > 4 * other[1]


def test_the_band_holds_where_gradients_move_nothing_and_not_where_they_rule():
    """With lr = 1e-9 and the noise of lr 0.1 the run is start and noise alone."""
    still = run(replace(SMALL, lr=1e-9, scale=0.02 * 1e8 ** (1 / 1.75)))
    assert still.gradient < 1e-6
    assert still.ratio == still.noise.replayed
    assert still.inside
    loud = run(replace(SMALL, lr=1.0, scale=0.0005, steps=400))
    assert loud.gradient > 1
    assert not loud.inside


def test_noise_that_is_none():
    """Not to the least of the weights' digits: all that is measured is as without noise."""
    quiet = run(QUIET)
    assert quiet.gradient > 0
    for scale in (0.0, 1e-30):
        found = run(replace(SMALL, scale=scale))
        assert replace(found, step_seconds=None) == replace(quiet, step_seconds=None)
    assert quiet.noise is quiet.layers[0].noise_index is None


@pytest.mark.parametrize("change", [{"lr": 1e7}, {"scale": 1e38}])
def test_divergence_is_a_result(change):
    config = replace(SMALL, **change)
    found = run(config)
    assert 1 <= found.diverged == found.steps <= 30
    assert found == Result(diverged=found.diverged, steps=found.steps, device="cpu")
    assert decode(plain({"config": config, "result": found})) == (config, found)


def test_outputs_that_are_no_numbers_are_divergence(monkeypatch):
    """Of finite weights, on test examples that are too large for them."""
    digits = load("digits")
    large = replace(digits, x_test=digits.x_test * 1e38)
    monkeypatch.setattr(runs, "loaded", lambda *_: large)
    assert run(SMALL) == Result(diverged=30, steps=30, device="cpu")


def test_it_stops_at_an_accuracy():
    found = run(replace(SMALL, stop_accuracy=0.5, steps=500, scale=0.001))
    assert found.steps < 500
    assert found.steps % 10 == 0
    assert found.train.accuracy >= 0.5
    assert found.noise.norm < run(replace(SMALL, steps=500, scale=0.001)).noise.norm


# The noise by itself.


@pytest.mark.parametrize("kind", heavytail.noise.KINDS)
def test_replay_is_a_training_without_gradients(kind):
    """Examples that are all zero have no gradients: what is left is the start and the noise."""
    config = Config(data="digits", alpha=1.5, scale=0.1, kind=kind, lr=0.1, seed=5)
    law = {"alpha": 1.5, "scale": 0.1, "kind": kind, "seed": spawn_seeds(5, 4)[1]}
    x, y = torch.zeros(40, 8), torch.zeros(40).long()
    start = FullyConnected(8, 3, width=30, hidden_layers=2)
    found = replay(config, start, 20)
    optimizer = torch.optim.SGD(start.parameters(), lr=0.1)
    StableNoise(optimizer, hidden_weights(start), **law)
    task = Dataset("zeros", x, y, x[:5], y[:5], 3)
    train(start, optimizer, task, steps=20, batch_size=7, seed=1, progress=False)
    assert all(map(torch.equal, found.parameters(), start.parameters()))
    with pytest.raises(ValueError, match="steps must be >= 0, got -5"):
        replay(config, start, -5)


def test_seen_is_what_its_formula_says(generator):
    noise, x = torch.randn(30, 7, generator=generator), torch.randn(4, 7, generator=generator)
    span, gain = seen(noise, x)
    inside = torch.linalg.lstsq(x.T, noise.T).solution
    assert span == pytest.approx(float((x.T @ inside).norm() / noise.norm()), rel=1e-5)
    expected = (noise @ x.T).norm() * 7**0.5 / (noise.norm() * x.norm())
    assert gain == pytest.approx(float(expected), rel=1e-5)
    line = torch.tensor([[1.0, 2.0, 2.0, 0.0], [-2.0, -4.0, -4.0, 0.0]])
    assert seen(line, line) == pytest.approx((1, 2))  # along the only direction: sqrt(d)
    assert seen(torch.tensor([[0.0, 0.0, 0.0, 3.0]]), line) == (0, 0)


# The same, and not the same.


def test_the_number_of_threads_is_put_back(monkeypatch):
    found = []
    monkeypatch.setattr(runs, "train", lambda *_, **__: found.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        with pytest.raises(AttributeError):  # of a history that is None
            run(SMALL)
        assert [*found, torch.get_num_threads()] == [1, 2]
    finally:
        torch.set_num_threads(1)


def test_runs_that_differ_in_their_noise_share_start_and_batches(monkeypatch):
    seen_by = []

    def spy(model, optimizer, task, *, seed, **options):
        seen_by.append((model.body[0].weight.tolist(), seed))
        raise DivergenceError(1, "enough was seen")

    monkeypatch.setattr(runs, "train", spy)
    other = replace(SMALL, kind="shared", scale=0.01, alpha=1.9)
    for config in (SMALL, QUIET, other, replace(SMALL, seed=5)):
        run(config)
    first, *same, apart = seen_by
    assert same == [first, first]
    assert apart[0] != first[0]
    assert apart[1] != first[1]


def test_a_run_that_was_stopped_goes_on(result, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", partial(train, checkpoint_every=7))
    measured, taken = runs._measured, []
    monkeypatch.setattr(runs, "_measured", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(SMALL, tmp_path / "state")
    monkeypatch.setattr(runs, "_measured", measured)
    loss = torch.nn.functional.cross_entropy

    def counted(logits, *arguments, **options):
        taken.append(logits.requires_grad)  # true of steps, not of measurements
        return loss(logits, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", counted)
    found = run(SMALL, tmp_path / "state")
    assert replace(found, step_seconds=None) == replace(result, step_seconds=None)
    assert sum(taken) == 2  # from step 28 on


def test_a_run_in_a_sweep_has_six_digits(result, tmp_path):
    found = in_sweep(SMALL, tmp_path / "state")
    assert {**found, "step_seconds": 0} == {**plain(result, digits=6), "step_seconds": 0}


@pytest.mark.parametrize(("kind", "device"), [("none", "meta"), ("shared", "meta")])
def test_torchs_defaults_change_nothing(kind, device):
    law = {} if kind == "none" else {"alpha": 1.75, "scale": 0.01}
    config = Config(data="digits", width=20, steps=10, kind=kind, **law)
    expected = replace(run(config), step_seconds=None)
    runs.loaded.cache_clear()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device(device)
    try:
        assert replace(run(config), step_seconds=None) == expected
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


# Images.

VGG = Config(
    data="cifar10",
    network="vgg11",
    width=10,
    kind="shared",
    alpha=1.75,
    scale=1e-6,
    steps=2,
    batch_size=10,
)


def test_a_convolutional_network(monkeypatch):
    """On forty random images of colours, in place of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, 32, 32, generator=generator)
    y = torch.randint(10, (40,), generator=generator)
    task = Dataset("cifar10", x[:30], y[:30], x[30:], y[30:], 10)
    monkeypatch.setattr(data, "load", {"cifar10": task}.get)
    monkeypatch.setattr(runs, "loaded", runs.loaded.__wrapped__)
    monkeypatch.setattr(runs, "_DRAWS", 20)
    found = run(VGG)
    assert [layer.columns for layer in found.layers] == [10, 20, 40, 40, 80, 80, 80, 80]
    assert found.curve[0].test == found.test
    assert found.curve[-1].test.loss == pytest.approx(math.log(10), rel=1e-6)
    assert (found.noise.span, found.noise.gain) == (None, None)
    assert found.gradient > 0
    first, *others = (layer.noise_index for layer in found.layers)
    assert first is None  # the first convolution gets no noise, but gradients
    assert all(index is not None for index in others)
    # The prediction counts its columns too; with hardly any noise, all is the start.
    assert found.noise.predicted == pytest.approx([found.noise.replayed] * 3, abs=0.5 / 430)


def test_a_convolutional_network_needs_images():
    with pytest.raises(ValueError, match="vgg11 needs images with channels, got digits of shape"):
        run(replace(SMALL, network="vgg11"))
