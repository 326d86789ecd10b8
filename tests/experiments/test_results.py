import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from heavytail.experiments.results import Config, decode, encode
from heavytail.experiments.runs import run
from heavytail.experiments.sweep import key
from heavytail.experiments.train import Score

SMALL = Config(
    data="digits", width=50, kind="isotropic", alpha=1.75, scale=0.02, lr=0.1, steps=30, seed=4
)


@pytest.fixture(scope="module")
def result():
    return run(SMALL)


def entry(config, result):
    """Return an entry as a store has it."""
    return json.loads(json.dumps({"config": asdict(config), "result": encode(result)}))


def test_a_result_goes_to_a_file_and_back(result):
    config, found = decode(entry(SMALL, result))
    assert config == SMALL
    assert encode(found) == encode(result)
    assert found.ratio == pytest.approx(result.ratio, rel=1e-5)
    assert isinstance(found.curve[3].test, Score)
    assert found.noise.predicted == pytest.approx(result.noise.predicted, rel=1e-5)
    assert hash(found) == hash(decode(entry(SMALL, result))[1])  # tuples throughout


def test_a_file_has_six_digits(result):
    assert encode(replace(result, gradient=math.pi * 1e-5))["gradient"] == 3.14159e-05
    assert encode(result)["steps"] == 30


def test_what_is_not_finite_is_nan_when_read(result):
    wild = replace(
        result,
        test=replace(result.test, loss=math.inf),
        gradient=math.nan,
        layers=(replace(result.layers[0], noise_index=(2.0, math.nan)),),
    )
    _, found = decode(entry(SMALL, wild))
    assert math.isnan(found.test.loss)
    assert math.isnan(found.gradient)
    assert found.layers[0].noise_index[0] == 2
    assert math.isnan(found.layers[0].noise_index[1])
    assert found.layers[0].hill[0] is None


def test_an_early_record_does_not_name_its_device(result):
    early = entry(SMALL, result)
    assert decode(early)[1].device == "cpu"
    del early["result"]["device"]
    assert decode(early)[1].device is None


def test_the_accuracy_without_some_columns_lies_on_the_curve(result):
    for point in result.curve:
        assert result.accuracy_without(point.fraction) == point.test.accuracy
    between = (result.curve[8].test.accuracy + result.curve[9].test.accuracy) / 2
    assert result.accuracy_without(0.85) == pytest.approx(between, rel=1e-12)
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got 1.5"):
        result.accuracy_without(1.5)
    with pytest.raises(ValueError, match="curve must be there, got None"):
        replace(result, curve=None).accuracy_without(0.5)


# Configurations.

REFUSED = [
    ({"data": "iris"}, "data must be one of"),
    ({"network": "resnet"}, "network must be one of"),
    ({"kind": "pink"}, "kind must be one of"),
    ({"width": 0}, "width must be >= 1, got 0"),
    ({"width": 2.0}, "width must be an integer"),
    ({"hidden_layers": 0}, "hidden_layers must be >= 1"),
    ({"network": "vgg11", "hidden_layers": 2}, "hidden_layers must be 1 for vgg11, got 2"),
    ({"steps": 0}, "steps must be >= 1"),
    ({"batch_size": 0}, "batch_size must be >= 1"),
    ({"lr": 0.0}, "lr must be > 0"),
    ({"lr": math.nan}, "lr must be finite"),
    ({"scale": -1.0}, "scale must be >= 0"),
    ({"scale": math.inf}, "scale must be finite"),
    ({"seed": -1}, "seed must be >= 0"),
    ({"stop_accuracy": 95}, r"stop_accuracy must be in \[0, 1\]"),
    ({"alpha": None}, r"alpha must be in \(0, 2\] for noise of kind isotropic, got None"),
    ({"alpha": 2.5}, r"alpha must be in \(0, 2\], got 2.5"),
    ({"alpha": 0}, r"alpha must be in \(0, 2\], got 0"),
    ({"kind": "none"}, "alpha must be None and scale 0 without noise, got 1.75 and 0.02"),
    ({"kind": "none", "alpha": None}, "got None and 0.02"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_a_configuration_out_of_range_is_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        replace(SMALL, **change)


def test_equal_configurations_have_one_name():
    whole = Config(data="digits", lr=1, width=np.int64(7), kind="shared", alpha=2, scale=0)
    plain = Config(data="digits", lr=1.0, width=7, kind="shared", alpha=2.0, scale=0.0)
    assert whole == plain
    assert key(whole) == key(plain)
    assert key(Config(data="ecg5000")) == "b306f03aa686b9a9"  # of long recorded runs
