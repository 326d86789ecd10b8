import pytest
import torch

from heavytail import hidden_weights
from heavytail.experiments.models import FullyConnected


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
