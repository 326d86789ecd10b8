"""What all tests share."""

import pytest
import torch

# Tests run side by side: threads of several processes on the same cores wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _torch_as_found():
    """Leave torch's default dtype and global generator as they were."""
    dtype, state = torch.get_default_dtype(), torch.get_rng_state()
    yield
    torch.set_default_dtype(dtype)
    torch.set_rng_state(state)


@pytest.fixture
def generator() -> torch.Generator:
    """A source of randomness with a fixed seed."""
    return torch.Generator().manual_seed(20240721)
