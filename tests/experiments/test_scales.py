from dataclasses import replace

import pytest
import torch

import heavytail
from heavytail.experiments import scales
from heavytail.experiments.scales import CONTROLS, SCALES, Shape, gaussian_scale, plan, shapes


def test_the_scales_are_those_of_the_plan():
    """Of the cheapest shape; the medians of other draws move them by a few percent."""
    shape = Shape("ecg5000", "shared", 1.9)
    assert plan(shape, draws=50) == pytest.approx(SCALES[shape], rel=0.06)
    assert plan(shape, draws=50) != pytest.approx(SCALES[replace(shape, alpha=1.75)], rel=0.06)


@pytest.mark.long
@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_all_scales_are_those_of_the_plan(shape):
    assert plan(shape) == pytest.approx(SCALES[shape], rel=0.06)


def test_each_shape_has_a_weak_and_a_strong_scale():
    assert list(SCALES) == shapes()
    assert all(0 < weak < strong for weak, strong in SCALES.values())


@pytest.mark.parametrize(
    "control",
    [
        pytest.param(c, marks=[pytest.mark.long] * (c == Shape("mnist", "isotropic", 1.75)))
        for c in CONTROLS
    ],
    ids=lambda shape: f"{shape.data} {shape.kind}",
)
def test_the_controls_are_those_of_the_scales(control):
    found = CONTROLS[control]
    expected = [gaussian_scale(control, scale) for scale in SCALES[control][: len(found)]]
    assert found == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("kind", heavytail.noise.KINDS)
def test_controls_have_noise_of_the_same_median_norm(kind, generator):
    """All the noise of a run is (lr K)^{1/alpha} sigma xi; medians of 40,000 draws."""
    shape = Shape("ecg5000", kind, 1.75)
    (heavy, _), (light, _) = SCALES[shape], CONTROLS[shape]

    def median(alpha, scale):
        xi = heavytail.noise_vectors(kind, alpha, 40_000, 140, generator=generator)
        return float(xi.norm(dim=1).median()) * scale * (0.01 * 2000) ** (1 / alpha)

    assert median(2.0, light) == pytest.approx(median(1.75, heavy), rel=0.03)
    assert median(2.0, heavy) != pytest.approx(median(1.75, heavy), rel=0.03)


def test_a_plan_draws_what_it_draws(monkeypatch):
    """Same shape, same scales: nothing is taken from torch's own generator."""
    monkeypatch.setitem(scales._INPUTS, "ecg5000", (5, 2))
    state = torch.get_rng_state()
    shape = Shape("ecg5000", "independent", 1.8, width=50)
    assert plan(shape, draws=10) == plan(shape, draws=10)
    assert torch.equal(state, torch.get_rng_state())
