import pytest
import torch

from heavytail import StableNoise, hidden_weights, prune
from heavytail.experiments.models import FullyConnected, mean_field


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
