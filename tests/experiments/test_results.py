import json
import math
from dataclasses import replace

import numpy as np
import pytest

from heavytail.experiments.records import key, plain
from heavytail.experiments.results import Config, Layer, Noise, Pruned, Result, decode
from heavytail.experiments.train import Score

SMALL = Config(
    data="digits", width=50, kind="isotropic", alpha=1.75, scale=0.02, lr=0.1, steps=30, seed=4
)
CURVE = tuple(Pruned(f, f**2, Score(1 + f, 1 - f / 2)) for f in (0.0, 0.8, 0.9, 1.0))
RESULT = Result(
    diverged=None,
    steps=30,
    train=Score(0.1, 0.9),
    test=Score(0.2, 0.8),
    ratio=0.25,
    pruned_train=Score(0.3, 0.7),
    pruned_test=Score(0.4, 0.6),
    curve=CURVE,
    layers=(Layer("body.0", 50, 0.25, (1.0, 2.0), (None, 1.5), (1.7, 0.1)),),
    gradient=0.5,
    noise=Noise(0.25, (0.125, 0.25, 0.5), 1.5, None, 0.75),
    step_seconds=0.001,
    device="cpu",
)


def entry(config, result):
    """Return an entry as a store has it."""
    return json.loads(json.dumps(plain({"config": config, "result": result})))


@pytest.mark.parametrize(
    "result", [RESULT, Result(3, 3), replace(RESULT, noise=None, curve=None, layers=None)]
)
def test_a_result_goes_to_a_file_and_back(result):
    assert decode(entry(SMALL, result)) == (SMALL, result)
    assert hash(decode(entry(SMALL, result))[1]) == hash(result)  # tuples throughout


def test_what_is_not_finite_goes_there_and_back():
    layer = replace(RESULT.layers[0], noise_index=(2.0, math.nan))
    wild = replace(RESULT, test=Score(math.inf, 0.5), gradient=math.nan, layers=(layer,))
    written = entry(SMALL, wild)
    _, found = decode(written)
    assert found.test.loss == math.inf
    assert math.isnan(found.gradient)
    assert math.isnan(found.layers[0].noise_index[1])
    written["result"]["layers"][0]["noise_index"] = [2.0, None]  # as in early records
    del written["result"]["device"]
    _, early = decode(written)
    assert math.isnan(early.layers[0].noise_index[1])
    assert early.device is None


def test_the_accuracy_without_some_columns_lies_on_the_curve():
    assert [RESULT.accuracy_without(f) for f in (0.0, 0.9)] == [1.0, 0.55]
    assert RESULT.accuracy_without(0.85) == pytest.approx((0.6 + 0.55) / 2, rel=1e-12)
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got 1.5"):
        RESULT.accuracy_without(1.5)
    with pytest.raises(ValueError, match="curve must be there"):
        replace(RESULT, curve=None).accuracy_without(0.5)


def test_the_ratio_lies_inside_its_band():
    inside = [replace(RESULT, ratio=ratio).inside for ratio in (0.12, 0.125, 0.5, 0.51)]
    assert inside == [False, True, True, False]
    with pytest.raises(ValueError, match="ratio and noise must be there"):
        _ = replace(RESULT, noise=None).inside


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "iris"}, "data must be one of"),
        ({"network": "resnet"}, "network must be one of"),
        ({"kind": "pink"}, "kind must be one of"),
        ({"width": 2.0}, "width must be an integer"),
        ({"network": "vgg11", "hidden_layers": 2}, "hidden_layers must be 1 for vgg11, got 2"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"lr": math.nan}, r"lr must be in \(0, 1e38\], got nan"),
        ({"scale": -1.0}, r"scale must be in \[0, inf\), got -1"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
        ({"stop_accuracy": 95}, r"stop_accuracy must be in \[0, 1\], got 95"),
        ({"alpha": None}, r"alpha must be a real number in \(0, 2\], got None"),
        ({"alpha": 2.5}, r"alpha must be in \(0, 2\], got 2.5"),
        ({"kind": "none"}, "alpha must be None and scale 0 without noise, got 1.75 and 0.02"),
    ],
)
def test_a_configuration_out_of_range_is_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        replace(SMALL, **change)


def test_equal_configurations_have_one_name():
    whole = Config(data="digits", lr=1, width=np.int64(7), kind="shared", alpha=2, scale=0)
    plainly = Config(data="digits", lr=1.0, width=7, kind="shared", alpha=2.0, scale=0.0)
    assert whole == plainly
    assert key(whole) == key(plainly)
