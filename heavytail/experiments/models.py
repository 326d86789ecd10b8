"""The networks of the experiments.

All but the last layer is in ``body``; the last is ``head``: it is trained, gets no noise and is not
pruned. No layer has biases. A network starts from ``generator`` (None is torch's global one), on
``device`` (None is the generator's, else torch's default), in ``dtype`` (torch.float32 or
torch.float64; None is torch's default). An argument outside its set is a TypeError or ValueError.
"""

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from heavytail import _check

# Channels of the convolutions of VGG-11, twice the usual ones; 0 is a pooling by 2 x 2.
_VGG11 = (128, 0, 256, 0, 512, 512, 0, 1024, 1024, 0, 1024, 1024, 0)


class FullyConnected(nn.Module):
    r"""A fully connected ReLU network without biases, in one of two scalings.

    ``"standard"``, that of the experiments: f(x) = sum_i a_i relu(<w_i, x>) with one hidden layer.
    Every weight starts as in ``nn.Linear``, uniform on (-1/sqrt(d), 1/sqrt(d)) with d the layer's
    number of inputs.

    ``"mean_field"``, that of the theory: f(x) = (1/n) sum_i A_i relu(<theta_i, x>) with n = width.
    The law of a unit's start does not depend on n: theta_i as above, A_i uniform on (-1, 1). The
    gradient in theta_i is of order 1/n, so a step eta of the theory is the optimizer's lr = n eta.
    :func:`mean_field` maps one scaling into the other.

    Args:
        inputs, outputs: dimension of an example and number of classes, >= 1.
        width, hidden_layers: units a hidden layer and number of these, >= 1.
        scaling: ``"standard"`` or ``"mean_field"``, the latter with one hidden layer only.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        hidden_layers: int = 1,
        scaling: str = "standard",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        inputs, outputs = _check.count("inputs", inputs, 1), _check.count("outputs", outputs, 1)
        width = _check.count("width", width, 1)
        hidden_layers = _check.count("hidden_layers", hidden_layers, 1)
        self.scaling = _check.one_of("scaling", scaling, ("standard", "mean_field"))
        if scaling == "mean_field" and hidden_layers > 1:
            raise ValueError(f"mean_field is for 1 hidden layer, got hidden_layers={hidden_layers}")
        self.body = nn.Sequential()
        for fan_in, fan_out in pairwise([inputs] + [width] * hidden_layers):
            self.body.extend([nn.Linear(fan_in, fan_out, bias=False, device="meta"), nn.ReLU()])
        self.head = nn.Linear(width, outputs, bias=False, device="meta")
        self.width = width  # compaction leaves it alone, and with it the factor 1/n
        device, dtype = _check.place(generator, device, dtype)
        self.to(dtype).to_empty(device=device)
        for weight in self.parameters():
            unit = scaling == "mean_field" and weight is self.head.weight
            bound = 1.0 if unit else weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map examples of shape (N, inputs) to logits of shape (N, outputs)."""
        logits: Tensor = self.head(self.body(x))
        return logits / self.width if self.scaling == "mean_field" else logits


@torch.no_grad()
def mean_field(model: FullyConnected) -> FullyConnected:
    r"""Return the same function in the mean-field scaling: theta = sqrt(n) w, A = sqrt(n) a.

    Since relu is positively homogeneous, (1/n) sum_i A_i relu(<theta_i, x>) is
    sum_i a_i relu(<w_i, x>) then, and remains so through a training of both in which

        lr -> n lr    and    scale -> n^{1/2 - 1/alpha} scale,

    the arguments of the optimizer and of :class:`heavytail.StableNoise`. In the theory's form, with
    steps eta n grad and noise sigma eta^{1/alpha} xi, eta is lr and sigma is sqrt(n) scale.

    Args:
        model: one hidden layer, standard scaling, no masks; left alone, its copy is returned.
    """
    _check.instance("model", model, FullyConnected)
    layers, masked = len(model.body) // 2, any(True for _ in model.buffers())
    if model.scaling != "standard" or layers != 1 or masked:
        raise ValueError(
            "model must have the standard scaling, 1 hidden layer and no masks (make a pruning "
            f"permanent first), got {model.scaling}, {layers}, {'' if masked else 'not '}masked"
        )
    twin = copy.deepcopy(model)
    twin.scaling = "mean_field"
    for parameter in twin.parameters():
        parameter.mul_(math.sqrt(twin.width))
    return twin


class VGG11(nn.Module):
    r"""The wide VGG-11 of the paper's experiments, for images, without biases.

    Eight convolutions 3 x 3 with ReLU, of 128, 256, 512, 512 and four times 1024 filters. A pooling
    by 2 x 2 follows the first, second, fourth, sixth and eighth; what is left of each channel is
    averaged, and a linear layer makes logits of the averages. A column is a filter.

    The filters start as N(0, 2 / (9 * filters)), filters being those of the layer (He et al. 2015,
    by fan-out); the head as that of :class:`FullyConnected`.

    Args:
        outputs, channels: number of classes and of an image's colours, >= 1.
        width: in (0, 1e5]; the numbers of filters are multiplied by it and rounded, to 1 at least.
    """

    def __init__(
        self,
        outputs: int,
        *,
        channels: int = 3,
        width: float = 1.0,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        outputs = _check.count("outputs", outputs, 1)
        channels = _check.count("channels", channels, 1)
        width = _check.number("width", width, "(0, 1e5]")
        self.body = nn.Sequential()
        for number in _VGG11:
            if not number:
                self.body.append(nn.MaxPool2d(2))
                continue
            filters = max(1, round(width * number))
            layer = nn.Conv2d(channels, filters, 3, padding=1, bias=False, device="meta")
            self.body.extend([layer, nn.ReLU()])
            channels = filters
        self.body.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
        self.head = nn.Linear(channels, outputs, bias=False, device="meta")
        device, dtype = _check.place(generator, device, dtype)
        self.to(dtype).to_empty(device=device)
        for weight in self.body.parameters():
            nn.init.normal_(weight, std=math.sqrt(2 / (9 * len(weight))), generator=generator)
        bound = channels**-0.5
        nn.init.uniform_(self.head.weight, -bound, bound, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map images, shape (N, channels, height, width), sides >= 32, to logits (N, outputs)."""
        logits: Tensor = self.head(self.body(x))
        return logits
