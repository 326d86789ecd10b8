import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import heavytail
from heavytail import StableNoise
from heavytail.compression.prediction import accumulated_scale, plan_scale, predict_pruning
from heavytail.noise import KINDS

SETTING = {"alpha": 1.75, "lr": 0.01, "steps": 2000, "error": 0.1**0.5}


@pytest.fixture
def start():
    """A start like that of nn.Linear, small."""
    seeded = torch.Generator().manual_seed(1)
    return torch.empty(300, 20).uniform_(-(20**-0.5), 20**-0.5, generator=seeded)


def model_of(*sizes):
    torch.manual_seed(2)
    model = nn.Sequential()
    for fan_in, fan_out in pairwise(sizes):
        model.append(nn.Linear(fan_in, fan_out, bias=False))
    return model


def test_the_scale_of_all_noise():
    assert accumulated_scale(1.5, 0.2, 0.1, 50) == pytest.approx(0.2 * 5 ** (1 / 1.5))
    sigma, eta = torch.tensor([0.1, 0.3, 0.0]), [0.5, 0.2, 0.4]
    by_hand = (0.1**1.2 * 0.5 + 0.3**1.2 * 0.2) ** (1 / 1.2)
    assert accumulated_scale(1.2, sigma, eta, 3) == pytest.approx(by_hand)
    decayed = ((0.1 * 0.9 * 0.8) ** 1.2 * 0.5 + (0.3 * 0.8) ** 1.2 * 0.25) ** (1 / 1.2)
    found = accumulated_scale(1.2, sigma, [0.5, 0.25, 0.5], 3, weight_decay=0.4)
    assert found == pytest.approx(decayed)
    assert accumulated_scale(2.0, 0.3, 0.1, 0) == accumulated_scale(2.0, 0.0, 0.1, 9) == 0
    assert accumulated_scale(0.1, 1e-300, 0.1, 10) == pytest.approx(1e-300)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_is_pruning_after_steps_without_gradient(kind, start):
    """Schedules of lr and sigma, and weight decay, through the optimizer itself."""
    steps, draws = 6, 300
    lrs = [0.1 * (k + 1) for k in range(steps)]
    scales = [0.06 if k % 2 else 0.02 for k in range(steps)]

    def trained(seed):
        weight = nn.Parameter(start.clone())
        optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.2)
        noise = heavytail.StableNoise(
            optimizer, [weight], alpha=1.5, scale=0.0, kind=kind, seed=seed
        )
        for lr, scale in zip(lrs, scales, strict=True):
            optimizer.param_groups[0]["lr"], noise.scale = lr, scale
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
        kept = heavytail.kept_columns(weight, error=0.4)
        return 1 - float(kept.double().mean())

    found = [trained(seed) for seed in range(draws)]
    options = {"alpha": 1.5, "kind": kind, "lr": lrs, "steps": steps, "error": 0.4, "draws": draws}
    seeded = torch.Generator().manual_seed(3)
    right, wrong = (
        predict_pruning(start, scale=sigma, weight_decay=decay, generator=seeded, **options)
        for sigma, decay in ((scales, 0.2), ([v / 2 for v in scales], 0.0))
    )
    assert stats.ks_2samp(found, right.ratios.numpy()).pvalue > 1e-5
    assert stats.ks_2samp(found, wrong.ratios.numpy()).pvalue < 1e-5


def test_without_noise_it_is_the_start(start):
    model = model_of(20, 300)
    found = predict_pruning(model, scale=0.0, exclude=(), draws=3, **SETTING)
    assert found.noise == 0
    report = heavytail.prune(model, error=SETTING["error"], layers=["0"])
    assert found.ratios.tolist() == [pytest.approx(report.ratio)] * 3


def test_each_layer_is_pruned_by_itself():
    model = model_of(20, 300, 40)
    found = predict_pruning(model, scale=0.0, exclude=(), draws=1, **SETTING)
    report = heavytail.prune(model, error=SETTING["error"], layers=["0", "1"])
    assert float(found.ratios[0]) == pytest.approx(report.ratio)
    last = predict_pruning(model_of(20, 300, 40), scale=0.0, exclude="0", draws=1, **SETTING)
    assert float(last.ratios[0]) == pytest.approx(report.layers[1].ratio)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_meets_its_ratio(kind, start):
    options = {"kind": kind, "draws": 101, **SETTING}
    scales = [
        plan_scale(start, ratio=r, generator=torch.Generator().manual_seed(4), **options)
        for r in (0.2, 0.3)
    ]
    assert scales[0] < scales[1]
    for scale, ratio in zip(scales, (0.2, 0.3), strict=True):
        same = torch.Generator().manual_seed(4)
        found = predict_pruning(start, scale=scale, generator=same, **options)
        assert found.quantile(0.5) == pytest.approx(ratio, abs=1.01 / 300)


def test_the_table_of_the_published_setting():
    """ECG5000's shape: the 10, 50 and 90 % quantiles of type I, which need no data."""
    seeded = torch.Generator().manual_seed(5)
    start = torch.empty(2000, 140).uniform_(-(140**-0.5), 140**-0.5, generator=seeded)
    for scale, low, middle, high in (
        (0.003, 0.150, 0.165, 0.249),
        (0.01, 0.43, 0.52, 0.79),
        (0.03, 0.62, 0.69, 0.89),
    ):
        found = predict_pruning(start, scale=scale, draws=400, generator=seeded, **SETTING)
        for p, known in ((0.1, low), (0.5, middle), (0.9, high)):
            # Of 400 draws: the level of their p-quantile has a standard error of 1.5 to 2.5 %.
            near = (found.quantile(max(p - 0.09, 0)), found.quantile(min(p + 0.09, 1)))
            assert near[0] - 0.006 < known < near[1] + 0.006


@pytest.mark.parametrize("column", ["filter", "kernel"])
def test_the_columns_of_a_convolution(column):
    """Start plus noise of one step, against the hook itself; the other column is told apart."""
    generator = torch.Generator().manual_seed(6)
    start = 0.05 * torch.randn(60, 8, 3, 3, generator=generator)
    law = {"alpha": 1.5, "scale": 0.1, "kind": "shared"}
    found = []
    for seed in range(200):
        weight = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.SGD([weight], lr=1.0)
        StableNoise(optimizer, [weight], column=column, seed=seed, **law)
        optimizer.step()
        found.append(1 - float(heavytail.kept_columns(weight, error=0.4).double().mean()))
    other = {"filter": "kernel", "kernel": "filter"}[column]
    right, wrong = (
        predict_pruning(
            start, lr=1.0, steps=1, error=0.4, column=c, draws=400, generator=generator, **law
        )
        for c in (column, other)
    )
    assert stats.ks_2samp(found, right.ratios.numpy()).pvalue > 1e-5
    assert stats.ks_2samp(found, wrong.ratios.numpy()).pvalue < 1e-5


def test_a_plan_knows_weight_decay_and_takes_an_array(start):
    options = SETTING | {"lr": np.linspace(0.02, 0.0, 2000), "weight_decay": 0.5, "draws": 101}
    scale, plain = (
        plan_scale(start, ratio=0.3, generator=torch.Generator().manual_seed(4), **o)
        for o in (options, options | {"weight_decay": 0.0})
    )
    same = torch.Generator().manual_seed(4)
    found = predict_pruning(start, scale=scale, generator=same, **options)
    assert found.quantile(0.5) == pytest.approx(0.3, abs=1.01 / 300)
    assert scale != pytest.approx(plain, rel=0.01)


def test_it_prints_its_quantiles(start):
    text = str(predict_pruning(start, scale=0.01, draws=20, **SETTING))
    assert "5 %: 0." in text
    assert "95 %: 0." in text
    assert "50 %" in text


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"alpha": 0.0}, ValueError, r"alpha must be in \(0, 2\], got 0"),
        ({"scale": -1.0}, ValueError, "scale must be .* 0, got -1"),
        ({"scale": [0.1, 0.2]}, ValueError, r"schedule of scale must have shape \(2000,\)"),
        ({"lr": math.nan}, ValueError, "lr must be finite"),
        ({"kind": "diagonal"}, ValueError, "kind must be one of"),
        ({"steps": 2.5}, TypeError, "steps must be an integer"),
        ({"error": 1.5}, ValueError, r"error must be in \[0, 1\], got 1\.5"),
        ({"draws": 0}, ValueError, "draws must be >= 1, got 0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be"),
    ],
)
def test_bad_arguments(changed, error, message, start):
    with pytest.raises(error, match=message):
        predict_pruning(start, **(SETTING | {"scale": 0.01} | changed))


def test_bad_weights_and_plans(start):
    with pytest.raises(ValueError, match="no last layer named 'head'"):
        predict_pruning(model_of(20, 30), scale=0.01, **SETTING)
    with pytest.raises(ValueError, match="must be finite"):
        predict_pruning(start * math.inf, scale=0.01, **SETTING)
    with pytest.raises(ValueError, match=r"above the start's own, 0\.1.*got 0\.05"):
        plan_scale(start, ratio=0.05, **SETTING)
    with pytest.raises(ValueError, match="leave room for noise"):
        plan_scale(start, ratio=0.5, **(SETTING | {"lr": 0.0}))
    with pytest.raises(ValueError, match=r"ratio must be at most the noise's, .* got 1"):
        plan_scale(start, ratio=1.0, **SETTING)
    with pytest.raises(ValueError, match="exclude must be None for a single weight"):
        predict_pruning(start, scale=0.01, exclude=["0"], **SETTING)
