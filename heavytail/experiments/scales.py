r"""The scales of the noise, chosen before training by :func:`heavytail.plan_scale`.

The pruning ratio of the start alone is a floor, about 0.11; that of noise alone, however large, is
a ceiling, which depends on its kind and index and on the width. ``SCALES`` has for each the two
scales at which the predicted median stands halfway between the two, and nine tenths of the way up.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

import heavytail
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.results import ERROR

WAY = (0.5, 0.9)  # of the way from the floor to the ceiling
STEPS = {"ecg5000": 2000, "mnist": 6000}  # of a run

_INPUTS = {"ecg5000": (140, 2), "mnist": (784, 10)}


@dataclass(frozen=True)
class Shape:
    """A network and its training, as far as the noise's scale depends on them.

    Attributes:
        data: ``"ecg5000"`` or ``"mnist"``.
        kind: of the noise.
        alpha: stability index in (0, 2).
        width: columns a hidden layer.
        hidden_layers: number of hidden layers.
    """

    data: str
    kind: str
    alpha: float
    width: int = 2000
    hidden_layers: int = 1


def shapes() -> list[Shape]:
    """Return what ``SCALES`` has scales for."""
    found = [
        Shape("ecg5000", kind, alpha)
        for kind, alpha in product(heavytail.noise.KINDS, (1.75, 1.8, 1.9))
    ]
    found += [Shape("ecg5000", kind, 1.75, width=10_000) for kind in ("shared", "isotropic")]
    found += [Shape("ecg5000", "shared", 1.75, hidden_layers=layers) for layers in (2, 3)]
    found += [
        Shape("mnist", kind, alpha) for kind, alpha in product(("shared", "isotropic"), (1.75, 1.9))
    ]
    return found


def plan(shape: Shape, *, draws: int = 200) -> tuple[float, ...]:
    """Return the scales of a shape, to three digits: those of ``SCALES``, up to their draws.

    Args:
        shape: of the run.
        draws: repetitions behind each median, >= 1.
    """
    inputs, outputs = _INPUTS[shape.data]
    model = FullyConnected(
        inputs,
        outputs,
        width=shape.width,
        hidden_layers=shape.hidden_layers,
        generator=torch.Generator().manual_seed(0),
    )

    law: dict[str, Any] = {"alpha": shape.alpha, "kind": shape.kind, "lr": 0.01, "error": ERROR}
    law |= {"steps": STEPS[shape.data], "draws": draws}

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    floor, ceiling = (
        heavytail.predict_pruning(model, scale=scale, generator=generator(), **law).quantile(0.5)
        for scale in (0.0, 1e6)
    )
    ratios = (floor + way * (ceiling - floor) for way in WAY)
    return tuple(
        three_digits(heavytail.plan_scale(model, ratio=ratio, generator=generator(), **law))
        for ratio in ratios
    )


def gaussian_scale(shape: Shape, scale: float) -> float:
    """Return the scale at which alpha = 2 accumulates noise of the same median norm.

    Args:
        shape: of the run with heavy tails.
        scale: its sigma.
    """
    d, steps = _INPUTS[shape.data][0], STEPS[shape.data]

    def median(alpha: float) -> float:
        generator = torch.Generator().manual_seed(2)
        xi = heavytail.noise_vectors(
            shape.kind, alpha, 100_000, d, generator=generator, dtype=torch.float64
        )
        return float(xi.norm(dim=1).median())

    time = 0.01 * steps
    ratio = time ** (1 / shape.alpha) * median(shape.alpha) / (time**0.5 * median(2.0))
    return three_digits(scale * ratio)


def three_digits(number: float) -> float:
    """Return a number with three significant digits, those that a scale of the tables has."""
    return float(f"{number:.3g}")


# (half way, nine tenths of the way): those of `python -m heavytail.experiments plan` up to draws.
SCALES: dict[Shape, tuple[float, ...]] = {
    Shape("ecg5000", "shared", 1.75): (0.00768, 0.0178),
    Shape("ecg5000", "shared", 1.8): (0.00874, 0.0205),
    Shape("ecg5000", "shared", 1.9): (0.011, 0.0269),
    Shape("ecg5000", "independent", 1.75): (0.00518, 0.0152),
    Shape("ecg5000", "independent", 1.8): (0.00578, 0.0171),
    Shape("ecg5000", "independent", 1.9): (0.00656, 0.0197),
    Shape("ecg5000", "isotropic", 1.75): (0.00707, 0.0209),
    Shape("ecg5000", "isotropic", 1.8): (0.00738, 0.0221),
    Shape("ecg5000", "isotropic", 1.9): (0.00743, 0.0222),
    Shape("ecg5000", "shared", 1.75, 10_000): (0.00747, 0.0175),
    Shape("ecg5000", "isotropic", 1.75, 10_000): (0.00697, 0.0205),
    Shape("ecg5000", "shared", 1.75, 2000, 2): (0.00382, 0.0129),
    Shape("ecg5000", "shared", 1.75, 2000, 3): (0.00271, 0.011),
    Shape("mnist", "shared", 1.75): (0.00173, 0.00401),
    Shape("mnist", "shared", 1.9): (0.00259, 0.00636),
    Shape("mnist", "isotropic", 1.75): (0.00161, 0.00471),
    Shape("mnist", "isotropic", 1.9): (0.00187, 0.0056),
}

# Scales at alpha = 2 whose noise has the median norm of that of SCALES, as far as they go.
CONTROLS: dict[Shape, tuple[float, ...]] = {
    Shape("ecg5000", "shared", 1.75): (0.00959, 0.0222),
    Shape("ecg5000", "independent", 1.75): (0.00821, 0.0241),
    Shape("ecg5000", "isotropic", 1.75): (0.00828, 0.0245),
    Shape("mnist", "shared", 1.75): (0.00234,),
    Shape("mnist", "isotropic", 1.75): (0.00203,),
}
