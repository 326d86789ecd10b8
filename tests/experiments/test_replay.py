import pytest
import torch

from heavytail import StableNoise, hidden_weights
from heavytail.experiments.data import Dataset
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.replay import replay
from heavytail.experiments.train import train


@pytest.mark.parametrize("kind", ["shared", "independent", "isotropic"])
def test_replay_is_a_training_without_gradients(kind):
    """Examples that are all zero have no gradients: what is left is the start and the noise."""
    law = {"alpha": 1.5, "scale": 0.1, "kind": kind, "seed": 5}
    data = Dataset(
        "zeros",
        torch.zeros(40, 8),
        torch.zeros(40).long(),
        torch.zeros(5, 8),
        torch.zeros(5).long(),
        3,
    )
    start = FullyConnected(8, 3, width=30, hidden_layers=2)
    found = replay(start, lr=0.1, steps=20, **law)
    optimizer = torch.optim.SGD(start.parameters(), lr=0.1)
    noise = StableNoise(optimizer, hidden_weights(start), **law)
    train(start, optimizer, data, steps=20, batch_size=7, seed=1, progress=False)
    noise.remove()
    assert all(map(torch.equal, found.parameters(), start.parameters()))
