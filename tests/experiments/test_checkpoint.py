import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from heavytail.experiments import checkpoint

BASE = torch.arange(24.0).view(4, 6)

TENSORS = {
    "a single number": torch.tensor(math.pi),
    "nan, inf and -0": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
    "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "float64": torch.tensor([math.e], dtype=torch.float64),
    "bits": torch.Generator().manual_seed(3).get_state(),
    "booleans": torch.tensor([True, False]),
    "nothing": torch.empty(0, 3),
    "columns": BASE.T,
    "every other": BASE[:, ::2],
    "a view": BASE[1:],
    "the whole of it": BASE,
    "a parameter": torch.nn.Parameter(BASE),
}


def same(a, b):
    """Tell whether two tensors are equal to the bit."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return a.detach().numpy(force=True).tobytes() == b.numpy().tobytes()


def round_trip(path, state):
    checkpoint.save(path, state)
    return checkpoint.load(path)


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_to_the_bit(name, tmp_path):
    found = round_trip(tmp_path / "state", {"x": TENSORS[name]})["x"]
    expected = TENSORS[name]
    if expected.dtype == torch.bfloat16:  # numpy does not know it
        found, expected = found.view(torch.int16), expected.view(torch.int16)
    assert same(expected, found)
    assert type(found) is torch.Tensor


def test_tensors_in_one_memory_come_back_apart(tmp_path):
    found = round_trip(tmp_path / "state", {"whole": BASE, "part": BASE[0], "again": BASE})
    found["whole"].zero_()
    assert torch.equal(found["part"], BASE[0])
    assert torch.equal(found["again"], BASE)


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path):
    path = tmp_path / "state"
    found = round_trip(path, {"x": BASE})
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(found["x"], BASE)


def test_all_else_comes_back_with_its_type(tmp_path):
    state = {
        "numbers": (1, 2.5, True, None, 10**30, -0.0, 5e-324, math.inf, -math.inf),
        0: {1: {-2: ["a", ["b", ()], {}]}},
        "": "Lévy \x00 ∞",
        "mixed": [(BASE[0],), {"x": [BASE[1]]}],
        "0": "another key than 0",
    }
    found = round_trip(tmp_path / "state", state)
    tensors = found["mixed"][0][0], found["mixed"][1]["x"][0]
    assert torch.equal(torch.stack(tensors), BASE[:2])
    del found["mixed"], state["mixed"]
    assert found == state
    assert repr(found) == repr(state)  # 1, 1.0 and True are equal, and so are 0 and -0
    assert math.isnan(round_trip(tmp_path / "state", {"x": math.nan})["x"])


def test_an_empty_state(tmp_path):
    assert round_trip(tmp_path / "state", {}) == {}


def test_the_state_of_an_optimizer(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    found = round_trip(tmp_path / "state", state)
    assert found["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    for number, moments in state["optimizer"]["state"].items():
        assert all(
            same(moments[name], found["optimizer"]["state"][number][name]) for name in moments
        )
    assert all(same(state["model"][name], found["model"][name]) for name in state["model"])


def test_the_file_has_no_pickle(tmp_path):
    checkpoint.save(tmp_path / "state", {"x": (1, BASE)})
    content = (tmp_path / "state").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length])["0"]["shape"] == [4, 6]


class Point(NamedTuple):
    x: int
    y: int


REFUSED = {
    "a set": {"x": {1}},
    "an object": {"x": [object()]},
    "a key": {1.5: 0},
    "a key like an integer": {True: 0},
    "a named tuple": {"x": Point(1, 2)},
    "a shape": {"x": torch.Size([2])},
    "a sparse tensor": {"x": torch.eye(2).to_sparse()},
    "a tensor without numbers": {"x": torch.empty(2, device="meta")},
    "a dtype": {"x": torch.zeros(2, dtype=torch.complex128)},
    "no dictionary": [BASE],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_hold_is_refused_and_leaves_no_file(name, tmp_path):
    with pytest.raises(TypeError, match="must"):
        checkpoint.save(tmp_path / "new" / "state", REFUSED[name])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_leaves_the_earlier_file(name, tmp_path):
    checkpoint.save(tmp_path / "state", {"x": 1})
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "state", REFUSED[name])
    assert checkpoint.load(tmp_path / "state") == {"x": 1}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_save_that_fails_halfway_leaves_the_earlier_file(failure, tmp_path, monkeypatch):
    def half(path, content):
        path.write_text("half")
        raise failure

    checkpoint.save(tmp_path / "state", OrderedDict(x=1))
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(type(failure)):
        checkpoint.save(tmp_path / "state", {"x": 2})
    assert checkpoint.load(tmp_path / "state") == {"x": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*state"):
        checkpoint.load(tmp_path / "state")
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("part", [0, 4, 8, 40, -1])
def test_a_truncated_file_is_refused(part, tmp_path):
    checkpoint.save(tmp_path / "state", {"x": BASE})
    content = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(content[:part])
    with pytest.raises(ValueError, match="state must be a checkpoint, got"):
        checkpoint.load(tmp_path / "state")


FOREIGN = ["", "[]", "{}", "hello", "7", '{"plain": 7}', '{"set": [1]}', '{"dict": 3}']
FOREIGN += ['{"dict": [["x", {"tensor": "7"}]]}', '{"dict": [["x", [1]]]}', '{"x": 1, "y": 2}']


@pytest.mark.parametrize("header", FOREIGN)
def test_a_file_of_another_kind_is_refused(header, tmp_path):
    save_file({"0": BASE}, tmp_path / "state", metadata={"state": header})
    with pytest.raises(ValueError, match="state must be a checkpoint, got"):
        checkpoint.load(tmp_path / "state")


def test_other_tensors_are_refused(tmp_path):
    save_file({"0": BASE}, tmp_path / "state")
    with pytest.raises(ValueError, match="must be a checkpoint, got other tensors"):
        checkpoint.load(tmp_path / "state")
