from functools import partial

import pytest
import torch

from heavytail import StableNoise, compact, hidden_weights, prune
from heavytail.experiments.data import Dataset
from heavytail.experiments.models import VGG11, FullyConnected, mean_field
from heavytail.experiments.train import train


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def test_layers_have_the_stated_sizes_and_no_biases():
    model = FullyConnected(5, 3, width=7, hidden_layers=2)
    assert [tuple(p.shape) for p in model.parameters()] == [(7, 5), (7, 7), (3, 7)]
    assert model(torch.ones(4, 5)).shape == (4, 3)
    assert hidden_weights(model) == [model.body[0].weight, model.body[2].weight]


@pytest.mark.parametrize("scaling", ["standard", "mean_field"])
def test_the_start_is_uniform_as_in_nn_linear_but_for_the_mean_field_head(scaling):
    """At any width theta of the mean-field scaling has the same law, and so has A."""
    options = {"scaling": scaling, "generator": seeded(), "dtype": torch.float64}
    model = FullyConnected(16, 10, width=10_000, **options)
    for weight, bound in (
        (model.body[0].weight, 1 / 4),
        (model.head.weight, {"standard": 1 / 100, "mean_field": 1}[scaling]),
    ):
        assert 0.999 * bound < float(weight.detach().abs().max()) <= bound
        # The variance of n squares of uniforms: 4 of its standard errors, (4/5 / n)^{1/2} each.
        error = 4 * (0.8 / weight.numel()) ** 0.5
        assert float(weight.detach().var()) == pytest.approx(bound**2 / 3, rel=error)


def path(model, *, lr, scale, kind, steps=20):
    """Return the model's weights after some steps on random data, with noise."""
    x = torch.randn(30, 5, generator=seeded(3), dtype=torch.float64)
    y = torch.randint(3, (30,), generator=seeded(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    StableNoise(optimizer, hidden_weights(model), alpha=1.5, scale=scale, kind=kind, seed=2)
    data = Dataset("random", x, y, x, y, 3)
    train(model, optimizer, data, steps=steps, batch_size=30, seed=3, progress=False)
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", ["shared", "independent", "isotropic"])
def test_both_scalings_give_the_same_path(kind):
    n, lr, scale = 40, 0.3, 0.05
    model = FullyConnected(5, 3, width=n, generator=seeded(), dtype=torch.float64)
    twin, other = mean_field(model), mean_field(model)
    x = torch.randn(4, 5, generator=seeded(5), dtype=torch.float64)
    assert torch.allclose(twin(x), model(x), rtol=1e-13)
    start = model.body[0].weight.detach().clone()
    standard = path(model, lr=lr, scale=scale, kind=kind)
    scaled = path(twin, lr=n * lr, scale=n ** (1 / 2 - 1 / 1.5) * scale, kind=kind)
    assert float((standard[0] - start).abs().max()) > 0.1  # it has moved
    for mine, theirs in zip(scaled, standard, strict=True):
        assert torch.allclose(mine / n**0.5, theirs, rtol=1e-9, atol=1e-12)
    assert torch.allclose(twin(x), model(x), rtol=1e-9)
    # Negative control: sqrt(n) times the scale, with the optimizer's lr already n times.
    naive = path(other, lr=n * lr, scale=n**0.5 * scale, kind=kind)
    assert not torch.allclose(naive[0] / n**0.5, standard[0], rtol=0.1)


def masked():
    model = FullyConnected(5, 3, width=7)
    prune(model, keep=0.5)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (masked(), "got standard, 1, masked"),
        (FullyConnected(5, 3, width=7, hidden_layers=2), "got standard, 2, not masked"),
        (FullyConnected(5, 3, width=7, scaling="mean_field"), "got mean_field, 1, not masked"),
    ],
)
def test_mean_field_is_refused_where_it_means_nothing(model, message):
    with pytest.raises(ValueError, match=message):
        mean_field(model)


FILTERS = [128, 256, 512, 512, 1024, 1024, 1024, 1024]


def filters(model):
    return [len(weight) for weight in hidden_weights(model)]


def size(channels, numbers, outputs):
    """Return the number of weights of a VGG-11 with so many filters a layer."""
    pairs = zip([channels, *numbers], numbers, strict=False)
    return 9 * sum(m * n for m, n in pairs) + numbers[-1] * outputs


def vgg(**options):
    return VGG11(4, width=1 / 16, generator=seeded(), **options)


def test_vgg11_has_the_stated_layers_and_no_biases():
    with torch.device("meta"):  # 37 million weights, and none is looked at
        model = VGG11(10)
    assert filters(model) == FILTERS
    assert (
        sum(weight.numel() for weight in model.parameters()) == size(3, FILTERS, 10) == 36_877_696
    )
    assert hidden_weights(model) == list(model.parameters())[:-1]
    assert {tuple(weight.shape[2:]) for weight in hidden_weights(model)} == {(3, 3)}
    names = [type(layer).__name__ for layer in model.body]
    plan = "".join({"Conv2d": "c", "ReLU": "r", "MaxPool2d": "M"}.get(name, "-") for name in names)
    assert plan == "crM" + "crM" + "crcrM" * 3 + "--"
    small = VGG11(3, channels=1, width=0.012)
    assert filters(small) == [2, 3, 6, 6, 12, 12, 12, 12]  # 1.536, 3.072, 6.144, 12.288
    assert sum(weight.numel() for weight in small.parameters()) == size(1, filters(small), 3)
    assert filters(VGG11(3, width=1e-9)) == [1] * 8
    assert small(torch.zeros(2, 1, 32, 64)).shape == (2, 3)


def test_the_start_of_vgg11():
    model = VGG11(300, width=1 / 4, generator=seeded())
    for weight in hidden_weights(model):
        scaled = weight.detach() / (2 / (9 * len(weight))) ** 0.5
        error = 5 / scaled.numel() ** 0.5
        assert float(scaled.mean()) == pytest.approx(0, abs=error)
        assert float(scaled.square().mean()) == pytest.approx(1, abs=1.5 * error)
        assert float((scaled.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=error / 2)
    bound = 256**-0.5
    assert 0.99 * bound < float(model.head.weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("network", [partial(VGG11, 4), partial(FullyConnected, 3, 4)])
def test_all_randomness_is_the_generators(network):
    state = torch.get_rng_state()
    first, again, other = (network(width=1, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not any(map(torch.equal, first.parameters(), other.parameters()))


def test_a_pruned_vgg11_becomes_smaller():
    model, x = vgg(dtype=torch.float64), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    report = prune(model, error=0.1**0.5)
    assert report.protected == ("head",)
    assert all(0 < layer.error <= 0.1**0.5 for layer in report.layers)
    small = compact(model, multiple_of=1)
    kept = [layer.kept for layer in report.layers]
    assert filters(small) == kept
    assert all(few < many for few, many in zip(kept, filters(vgg()), strict=True))
    assert sum(weight.numel() for weight in small.parameters()) == size(3, kept, 4)
    assert torch.allclose(small(x), model(x), rtol=1e-11, atol=1e-14)
    assert list(small.state_dict()) == list(vgg().state_dict())  # no biases, no masks


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (FullyConnected, {"inputs": 0}, "inputs must be >= 1, got 0"),
        (FullyConnected, {"hidden_layers": 2.5}, "hidden_layers must be an integer, got 2.5"),
        (FullyConnected, {"scaling": "ntk"}, "scaling must be one of"),
        (FullyConnected, {"scaling": "mean_field", "hidden_layers": 2}, "got hidden_layers=2"),
        (VGG11, {"channels": 0}, "channels must be >= 1, got 0"),
        (VGG11, {"width": 0}, r"width must be in \(0, 1e5\], got 0"),
        (VGG11, {"dtype": torch.float16}, "dtype must be"),
    ],
)
def test_bad_arguments(network, options, message):
    whole = {"outputs": 3, "width": 1} | ({"inputs": 5} if network is FullyConnected else {})
    with pytest.raises((TypeError, ValueError), match=message):
        network(**whole | options)
