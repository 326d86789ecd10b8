import pytest
import torch

from heavytail import StableNoise, compact, hidden_weights, prune
from heavytail.experiments.data import Dataset
from heavytail.experiments.models import VGG11, FullyConnected, mean_field
from heavytail.experiments.train import train


def test_layers_have_the_stated_sizes_and_no_biases():
    model = FullyConnected(5, 3, width=7, hidden_layers=2)
    assert [tuple(p.shape) for p in model.parameters()] == [(7, 5), (7, 7), (3, 7)]
    assert model(torch.ones(4, 5)).shape == (4, 3)
    assert hidden_weights(model) == [model.body[0].weight, model.body[2].weight]


def test_the_start_is_that_of_nn_linear():
    generator = torch.Generator().manual_seed(0)
    model = FullyConnected(16, 10, width=10_000, generator=generator, dtype=torch.float64)
    weight = model.body[0].weight.detach()
    assert float(weight.abs().max()) <= 0.25
    assert float(weight.var()) == pytest.approx(0.25**2 / 3, rel=0.01)
    theirs = torch.nn.Linear(16, 10_000).weight.detach()
    assert float(theirs.var()) == pytest.approx(0.25**2 / 3, rel=0.01)


def test_it_is_positively_homogeneous():
    """ReLU without biases: f(cx) = c f(x) for c > 0."""
    model = FullyConnected(5, 3, width=7, hidden_layers=3, dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64)
    assert torch.allclose(model(3 * x), 3 * model(x), rtol=1e-12)


def test_the_mean_field_start_does_not_know_the_width():
    for width in (10, 100_000):
        model = FullyConnected(16, 2, width=width, scaling="mean_field")
        assert float(model.body[0].weight.detach().abs().max()) <= 0.25
        assert 0.5 < float(model.head.weight.detach().abs().max()) <= 1
    x = torch.ones(1, 16)
    hidden = torch.relu(model.body[0](x))
    assert torch.allclose(model(x), hidden @ model.head.weight.T / 100_000)


def path(model, *, lr, scale, kind, steps=20):
    """Return the model's weights after some steps on random data, with noise."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (30,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    StableNoise(optimizer, hidden_weights(model), alpha=1.5, scale=scale, kind=kind, seed=2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", ["shared", "independent", "isotropic"])
def test_both_scalings_give_the_same_path(kind):
    n, lr, scale = 40, 0.3, 0.05
    generator = torch.Generator().manual_seed(1)
    model = FullyConnected(5, 3, width=n, generator=generator, dtype=torch.float64)
    twin = mean_field(model)
    x = torch.randn(4, 5, dtype=torch.float64)
    assert torch.allclose(twin(x), model(x), rtol=1e-13)
    start = model.body[0].weight.detach().clone()
    standard = path(model, lr=lr, scale=scale, kind=kind)
    scaled = path(twin, lr=n * lr, scale=n ** (1 / 2 - 1 / 1.5) * scale, kind=kind)
    assert float((standard[0] - start).abs().max()) > 0.1  # it has moved
    for mine, theirs in zip(scaled, standard, strict=True):
        assert torch.allclose(mine / n**0.5, theirs, rtol=1e-9, atol=1e-12)
    assert torch.allclose(twin(x), model(x), rtol=1e-9)


def test_the_naive_map_of_the_scale_gives_another_path():
    """Negative control: sqrt(n) times the scale, with the optimizer's lr already n times."""
    n, lr, scale = 40, 0.3, 0.05
    model = FullyConnected(5, 3, width=n, dtype=torch.float64)
    twin = mean_field(model)
    standard = path(model, lr=lr, scale=scale, kind="shared")
    naive = path(twin, lr=n * lr, scale=n**0.5 * scale, kind="shared")
    assert not torch.allclose(naive[0] / n**0.5, standard[0], rtol=0.1)


def test_mean_field_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="1 hidden layer, got hidden_layers=2"):
        FullyConnected(5, 3, width=7, hidden_layers=2, scaling="mean_field")
    with pytest.raises(ValueError, match="scaling must be one of"):
        FullyConnected(5, 3, width=7, scaling="ntk")
    masked = FullyConnected(5, 3, width=7)
    prune(masked, keep=0.5)
    with pytest.raises(ValueError, match="must not be masked"):
        mean_field(masked)
    with pytest.raises(ValueError, match="standard scaling and 1 hidden layer, got standard and 2"):
        mean_field(FullyConnected(5, 3, width=7, hidden_layers=2))


def test_its_randomness_is_the_generators():
    state = torch.get_rng_state()
    first, again = (
        FullyConnected(5, 3, width=7, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.parameters(), again.parameters()))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"width": 0}, ValueError),
        ({"width": 2.5}, TypeError),
        ({"width": 2, "hidden_layers": 0}, ValueError),
    ],
)
def test_bad_sizes(options, error):
    with pytest.raises(error, match="must be"):
        FullyConnected(5, 3, **options)


FILTERS = [128, 256, 512, 512, 1024, 1024, 1024, 1024]


def filters(model):
    return [len(weight) for weight in hidden_weights(model)]


def size(channels, numbers, outputs):
    """Return the number of weights of a VGG-11 with so many filters a layer."""
    pairs = zip([channels, *numbers], numbers, strict=False)
    return 9 * sum(m * n for m, n in pairs) + numbers[-1] * outputs


def images(n, dtype=torch.float32, channels=3, side=32):
    generator = torch.Generator().manual_seed(5)
    return torch.randn((n, channels, side, side), generator=generator, dtype=dtype)


def vgg(**options):
    return VGG11(4, width=1 / 16, generator=torch.Generator().manual_seed(1), **options)


def test_vgg11_has_the_stated_layers_and_no_biases():
    with torch.device("meta"):  # 37 million weights, and none is looked at
        model = VGG11(10)
    assert filters(model) == FILTERS
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == size(3, FILTERS, 10) == 36_877_696
    assert tuple(model.head.weight.shape) == (10, 1024)
    assert hidden_weights(model) == list(model.parameters())[:-1]
    assert all(weight.shape[2:] == (3, 3) for weight in hidden_weights(model))
    names = [type(layer).__name__ for layer in model.body]
    plan = "".join({"Conv2d": "c", "ReLU": "r", "MaxPool2d": "M"}.get(name, "-") for name in names)
    assert plan == "crM" + "crM" + "crcrM" * 3 + "--"


def test_the_width_of_vgg11_multiplies_its_filters():
    assert filters(vgg()) == [n // 16 for n in FILTERS]
    assert filters(VGG11(3, width=1e-9)) == [1] * 8
    model = VGG11(3, channels=1, width=0.012)
    assert filters(model) == [2, 3, 6, 6, 12, 12, 12, 12]  # 1.536, 3.072, 6.144, 12.288
    assert sum(p.numel() for p in model.parameters()) == size(1, filters(model), 3)


@pytest.mark.parametrize(("side", "channels"), [(32, 3), (32, 1), (40, 3), (64, 3)])
def test_vgg11_maps_images_to_logits(side, channels):
    model = vgg(channels=channels, dtype=torch.float64)
    x = images(2, torch.float64, channels, side)
    assert model(x).shape == (2, 4)
    assert float(model(x).detach().std()) > 1e-3
    assert torch.allclose(model(3 * x), 3 * model(x), rtol=1e-12)  # ReLU, and no biases


@pytest.mark.parametrize("shape", [(2, 3, 31, 32), (2, 3, 32, 28), (3, 32, 32), (2, 3072)])
def test_vgg11_refuses_what_its_poolings_leave_nothing_of(shape):
    with pytest.raises(ValueError, match=r"height and width >= 32, got \("):
        vgg()(torch.zeros(shape))


def test_the_start_of_vgg11():
    model = VGG11(300, width=1 / 4, generator=torch.Generator().manual_seed(0))
    for weight in hidden_weights(model):
        scaled = weight.detach() / (2 / (9 * len(weight))) ** 0.5
        error = 5 / scaled.numel() ** 0.5
        assert float(scaled.mean()) == pytest.approx(0, abs=error)
        assert float(scaled.square().mean()) == pytest.approx(1, abs=1.5 * error)
        assert float((scaled.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=error / 2)
    bound = 256**-0.5
    head = model.head.weight.detach()
    assert 0.99 * bound < float(head.abs().max()) <= bound
    assert float(head.var()) == pytest.approx(bound**2 / 3, rel=0.02)


def test_the_randomness_of_vgg11_is_the_generators():
    state = torch.get_rng_state()
    first, again = vgg(), vgg()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    other = VGG11(4, width=1 / 16, generator=torch.Generator().manual_seed(2))
    assert not any(map(torch.equal, first.parameters(), other.parameters()))
    assert vgg(dtype=torch.float64).head.weight.dtype == torch.float64


def test_a_pruned_vgg11_becomes_smaller():
    model = vgg(dtype=torch.float64)
    x = images(3, torch.float64)
    untouched = model(x)
    report = prune(model, error=0.1**0.5)
    assert report.protected == ("head",)
    assert report.unit == "column"
    assert all(0 < layer.error <= 0.1**0.5 for layer in report.layers)
    small = compact(model, multiple_of=1)
    kept = [layer.kept for layer in report.layers]
    assert type(small) is VGG11
    assert filters(small) == kept
    assert all(few < many for few, many in zip(kept, filters(vgg()), strict=True))
    assert sum(p.numel() for p in small.parameters()) == size(3, kept, 4)
    assert torch.allclose(small(x), model(x), rtol=1e-11, atol=1e-14)
    assert not torch.allclose(small(x), untouched, rtol=1e-2)
    assert list(small.state_dict()) == list(vgg().state_dict())  # no biases, no masks
    small(x).sum().backward()  # it can be trained on
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("kind", ["shared", "independent", "isotropic"])
def test_vgg11_is_trained_with_noise_on_its_filters(kind):
    x, y = images(6), torch.arange(6) % 4
    data = Dataset("images", x, y, x, y, 4)

    def trained(scale, steps=2):
        model = vgg()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        StableNoise(optimizer, hidden_weights(model), alpha=1.8, scale=scale, kind=kind, seed=7)
        train(model, optimizer, data, steps=steps, batch_size=6, seed=3, progress=False)
        return [parameter.detach() for parameter in model.parameters()]

    noisy, again, plain = trained(1e-3), trained(1e-3), trained(0.0)
    assert all(torch.isfinite(weight).all() for weight in noisy)
    assert all(map(torch.equal, noisy, again))
    assert not any(map(torch.equal, noisy[:-1], plain[:-1]))
    # One step: the gradients are the same, and what differs is the noise; the head has none.
    noisy, plain = trained(1e-3, steps=1), trained(0.0, steps=1)
    assert torch.equal(noisy[-1], plain[-1])
    noise = (noisy[0] - plain[0]).flatten(1)
    assert bool((noise.std(1) < 1e-6).all()) == (kind == "shared")  # one number a filter


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outputs": 0}, ValueError, "outputs must be >= 1, got 0"),
        ({"outputs": 4, "channels": 0}, ValueError, "channels must be >= 1, got 0"),
        ({"outputs": 4, "width": 0}, ValueError, "width must be > 0, got 0"),
        ({"outputs": 4, "width": "wide"}, TypeError, "width must be a real number"),
        ({"outputs": 4, "dtype": torch.float16}, ValueError, "dtype must be"),
    ],
)
def test_bad_arguments_of_vgg11(options, error, message):
    with pytest.raises(error, match=message):
        VGG11(**{"width": 1 / 16} | options)
