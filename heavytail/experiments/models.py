"""The networks of the experiments."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from heavytail import _checks


class FullyConnected(nn.Module):
    """A fully connected ReLU network without biases.

    The hidden layers are in ``body``, the last layer is ``head``: it is trained, gets no noise
    and is not pruned. Every weight starts as in ``nn.Linear``, uniform on (-1/sqrt(d), 1/sqrt(d))
    with d the layer's number of inputs; outputs are not divided by the width.

    Args:
        inputs: dimension of an example, >= 1.
        outputs: number of classes, >= 1.
        width: hidden units a layer, >= 1.
        hidden_layers: number of hidden layers, >= 1; 1 is the network of the theory.
        generator: source of the start; None is torch's global generator.
        device: of the weights; None is the generator's device, else torch's default device.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        hidden_layers: int = 1,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        inputs, width = _checks.count("inputs", inputs, 1), _checks.count("width", width, 1)
        outputs = _checks.count("outputs", outputs, 1)
        hidden_layers = _checks.count("hidden_layers", hidden_layers, 1)
        device, dtype = _checks.place(generator, device, dtype)

        def linear(fan_in: int, fan_out: int) -> nn.Linear:
            weight = torch.empty((fan_out, fan_in), device=device, dtype=dtype)
            weight.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            layer = nn.Linear(fan_in, fan_out, bias=False, device="meta")
            layer.weight = nn.Parameter(weight)
            return layer

        sizes = [inputs] + [width] * hidden_layers
        self.body = nn.Sequential()
        for fan_in, fan_out in pairwise(sizes):
            self.body.append(linear(fan_in, fan_out))
            self.body.append(nn.ReLU())
        self.head = linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map examples of shape (N, inputs) to logits of shape (N, outputs)."""
        logits: Tensor = self.head(self.body(x))
        return logits
