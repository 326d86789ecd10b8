import json
import re

import torch

import heavytail
from heavytail.experiments.provenance import where


def test_a_record_says_when_on_what_and_with_which_versions():
    found = where("pytest", "a_package_that_is_not_there")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found["machine"]
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["heavytail"] == heavytail.__version__
    assert found["versions"]["pytest"] is not None
    assert found["versions"]["a_package_that_is_not_there"] is None
    json.dumps(found)
