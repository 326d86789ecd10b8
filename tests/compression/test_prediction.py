import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import heavytail
from heavytail import kept_columns, noise_vectors, plan_scale, predict_pruning
from heavytail.compression.prediction import accumulated_scale, noise_terms, squared_norms
from heavytail.compression.pruning import removable
from heavytail.noise import KINDS

SETTING = {"alpha": 1.75, "lr": 0.01, "steps": 2000, "error": 0.1**0.5}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def start():
    """A start like that of nn.Linear, small."""
    return torch.empty(300, 20).uniform_(-(20**-0.5), 20**-0.5, generator=seeded(1))


def model_of(*sizes):
    torch.manual_seed(2)
    return nn.Sequential(*(nn.Linear(d, n, bias=False) for d, n in pairwise(sizes)))


def test_the_scale_of_all_noise():
    assert accumulated_scale(1.5, 0.2, 0.1, 50) == pytest.approx(0.2 * 5 ** (1 / 1.5))
    sigma, eta = torch.tensor([0.1, 0.3, 0.0]), [0.5, 0.2, 0.4]
    by_hand = (0.1**1.2 * 0.5 + 0.3**1.2 * 0.2) ** (1 / 1.2)
    assert accumulated_scale(1.2, sigma, eta, 3) == pytest.approx(by_hand)
    lists = accumulated_scale(1.2, [0.1, 0.3], eta[:2], 2)
    assert lists == pytest.approx(by_hand, rel=1e-12)  # in double precision
    decayed = ((0.1 * 0.9 * 0.8) ** 1.2 * 0.5 + (0.3 * 0.8) ** 1.2 * 0.25) ** (1 / 1.2)
    found = accumulated_scale(1.2, sigma, np.array([0.5, 0.25, 0.5]), 3, weight_decay=0.4)
    assert found == pytest.approx(decayed)
    assert accumulated_scale(2.0, 0.3, 0.1, 0) == accumulated_scale(2.0, 0.0, 0.1, 9) == 0
    assert accumulated_scale(0.1, 1e-300, 0.1, 10) == pytest.approx(1e-300)


@pytest.mark.parametrize("kind", KINDS)
def test_the_norms_of_start_plus_noise(kind):
    """More vectors than columns, taken in turn, in parts."""
    W = torch.randn(7, 3, generator=seeded(2), dtype=torch.float64)
    terms = noise_terms(W, 20, 15, kind, 1.5, seeded(3))
    source = seeded(3)
    law = {"kind": kind, "alpha": 1.5, "generator": source, "dtype": torch.float64}
    xi = torch.cat([noise_vectors(n=n, d=3, **law) for n in (15, 5)])
    taken = W.repeat(3, 1)[:20]
    start = taken.square().sum(1)
    for s in (0.0, 0.3, 1e6):
        exact = (taken + s * xi).square().sum(1)
        assert torch.allclose(squared_norms(start, *terms, s), exact, rtol=1e-12, atol=1e-12)


def test_noise_beyond_the_floats_stays():
    """A column whose noise is infinite is larger than all others, not lost in nan."""
    inf = math.inf
    along, size = torch.tensor([0.0, -inf, 1.0, inf]), torch.tensor([1.0, inf, 1.0, inf])
    squares = squared_norms(torch.ones(4), along, size, 1.0)
    assert squares.tolist() == [2, inf, 4, inf]
    assert squared_norms(torch.ones(4), along, size, 0.0).tolist() == [1, 1, 1, 1]
    assert removable(squares.sort().values, 0.1) == 2


@pytest.mark.parametrize("column", ["filter", "kernel"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_is_start_plus_noise(kind, column):
    """Draw by draw, from the same bits; without <w, xi> the counts are others."""
    shape, n, k, draws = (40, 4, 3, 3), 40, 4 if column == "kernel" else 1, 12
    W = 0.5 * torch.randn(shape, generator=seeded(4), dtype=torch.float64)
    law = {"alpha": 1.5, "kind": kind}
    options = {"lr": 0.1, "steps": 3, "weight_decay": 2.0, "scale": 0.5, "error": 0.4}
    found = predict_pruning(W, column=column, draws=draws, generator=seeded(5), **law, **options)
    s = 0.5 * (0.1 * (1 + 0.8**1.5 + 0.64**1.5)) ** (1 / 1.5)
    assert found.noise == pytest.approx(s)
    source, ratios, without = seeded(5), [], []
    for _ in range(draws):
        xi = noise_vectors(**law, n=n * k, d=36 // k, generator=source, dtype=torch.float64)
        xi, w = s * xi.view(n, 36), 0.8**3 * W.view(n, 36)
        ratios.append(1 - float(kept_columns(w + xi, error=0.4).double().mean()))
        apart = torch.cat([w, xi], 1)  # |w|^2 + |xi|^2
        without.append(1 - float(kept_columns(apart, error=0.4).double().mean()))
    assert found.ratios.tolist() == pytest.approx(sorted(ratios))
    assert found.ratios.tolist() != pytest.approx(sorted(without))


def test_prediction_is_pruning_after_steps_without_gradient(start):
    """Schedules of lr and sigma, and weight decay, through the optimizer itself."""
    steps, draws = 6, 300
    lrs = [0.1 * (k + 1) for k in range(steps)]
    scales = [0.06 if k % 2 else 0.02 for k in range(steps)]

    def trained(seed):
        weight = nn.Parameter(start.clone())
        optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.2)
        noise = heavytail.StableNoise(optimizer, [weight], alpha=1.5, scale=0.0, seed=seed)
        for lr, scale in zip(lrs, scales, strict=True):
            optimizer.param_groups[0]["lr"], noise.scale = lr, scale
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
        return 1 - float(kept_columns(weight, error=0.4).double().mean())

    found = [trained(seed) for seed in range(draws)]
    options = {"alpha": 1.5, "lr": lrs, "steps": steps, "error": 0.4, "draws": draws}
    source = seeded(3)
    right, wrong = (
        predict_pruning(start, scale=sigma, weight_decay=decay, generator=source, **options)
        for sigma, decay in ((scales, 0.2), ([v / 2 for v in scales], 0.0))
    )
    assert stats.ks_2samp(found, right.ratios.numpy()).pvalue > 1e-5
    assert stats.ks_2samp(found, wrong.ratios.numpy()).pvalue < 1e-5


def test_without_noise_it_is_the_start_each_layer_by_itself():
    model = model_of(20, 300, 40)
    options = SETTING | {"scale": 0.0, "draws": 3}
    both, last = (predict_pruning(model, exclude=exclude, **options) for exclude in ((), "0"))
    report = heavytail.prune(model, error=SETTING["error"], layers=["0", "1"])
    assert both.noise == 0
    assert f"  50 %: {both.quantile(0.5):.3f}  " in str(both)
    assert both.ratios.tolist() == [pytest.approx(report.ratio)] * 3
    assert last.ratios.tolist() == [pytest.approx(report.layers[1].ratio)] * 3


@pytest.mark.parametrize("column", ["filter", "kernel"])
def test_a_transposed_convolution_has_the_columns_of_its_outputs(column):
    """It is predicted like the convolution whose filters are its own."""
    torch.manual_seed(6)
    layer, plain = nn.ConvTranspose1d(4, 6, 3, groups=2), nn.Conv1d(4, 6, 3, groups=2)
    outputs_first = layer.weight.detach().view(2, 2, 3, 3).transpose(1, 2)
    plain.weight.data = outputs_first.reshape(6, 2, 3)
    options = {**SETTING, "scale": 0.1, "exclude": (), "column": column}
    one, two = (predict_pruning(m, generator=seeded(7), **options) for m in (layer, plain))
    assert torch.equal(one.ratios, two.ratios)
    assert len(one.ratios.unique()) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_meets_its_ratio(kind, start):
    falling = np.linspace(0.02, 0.0, 2000)
    scales = []
    for ratio, more in ((0.2, {}), (0.3, {}), (0.3, {"lr": falling, "weight_decay": 0.5})):
        options = SETTING | {"kind": kind, "draws": 101} | more
        scales.append(plan_scale(start, ratio=ratio, generator=seeded(4), **options))
        found = predict_pruning(start, scale=scales[-1], generator=seeded(4), **options)
        assert found.quantile(0.5) == pytest.approx(ratio, abs=1.01 / 300)  # steps of a column
    assert scales[0] < scales[1]
    assert scales[2] != pytest.approx(scales[1], rel=0.01)


def test_the_table_of_the_published_setting():
    """ECG5000's shape: the 10, 50 and 90 % quantiles of type I, which need no data."""
    source = seeded(5)
    start = torch.empty(2000, 140).uniform_(-(140**-0.5), 140**-0.5, generator=source)
    for scale, *known in (
        (0.003, 0.150, 0.165, 0.249),
        (0.01, 0.43, 0.52, 0.79),
        (0.03, 0.62, 0.69, 0.89),
    ):
        found = predict_pruning(start, scale=scale, draws=400, generator=source, **SETTING)
        for p, value in zip((0.1, 0.5, 0.9), known, strict=True):
            # Of 400 draws: the level of their p-quantile has a standard error of 1.5 to 2.5 %.
            low, high = found.quantile(max(p - 0.09, 0)), found.quantile(min(p + 0.09, 1))
            assert low - 0.006 < value < high + 0.006


def masked():
    layer = nn.Linear(2, 3)
    heavytail.prune(layer, keep=0.5, layers=layer)
    return layer


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": 0.0}, r"alpha must be in \(0, 2\], got 0"),
        ({"scale": -1.0}, r"scale must be in \[0, inf\), got -1"),
        ({"scale": [0.1, 0.2]}, r"schedule of scale must have shape \(2000,\)"),
        ({"scale": [1j], "steps": 1}, "each entry of scale must be a real number"),
        ({"kind": "diagonal"}, "kind must be one of"),
        ({"draws": 0}, "draws must be >= 1, got 0"),
        ({"weight_decay": 1e308}, "weight_decay must leave finite weights after 2000 steps"),
        ({"exclude": ["0"]}, "exclude must be None for a single weight"),
        ({"model": torch.ones(3, 2) / 0}, "must be finite"),
        ({"model": masked(), "exclude": ()}, r"must have no mask, got one of shape \(3, 2\)"),
        ({"model": nn.Sequential(nn.Linear(2, 3))}, "no last layer named 'head'"),
    ],
)
def test_bad_predictions(changed, message, start):
    with pytest.raises((TypeError, ValueError), match=message):
        predict_pruning(**({"model": start, "scale": 0.01} | SETTING | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ratio": 0.05}, r"ratio must be in \(0\.1\d*, 0\.\d+\], the medians for the start"),
        ({"ratio": 1.0}, "for the noise alone, got 1"),
        ({"ratio": 1.5}, r"ratio must be in \[0, 1\], got 1\.5"),
        ({"lr": 0.0}, "leave room for noise"),
    ],
)
def test_bad_plans(changed, message, start):
    with pytest.raises(ValueError, match=message):
        plan_scale(start, **({"ratio": 0.3} | SETTING | changed))
