import json

import pytest

from heavytail.experiments import records

ENTRY = {
    "config": {"seed": 3},
    "result": {"ratio": 0.5, "curve": [1, 2], "layers": [3]},
    "seconds": 1.5,
}
HEAD = {"what": "two runs", "command": "do it"}


def test_entries_go_to_a_file_and_back(tmp_path):
    other = {**ENTRY, "config": {"seed": 4}}
    records.write(tmp_path / "new" / "record.json", HEAD, iter([ENTRY, other]))
    assert records.read(tmp_path / "new" / "record.json") == [ENTRY, other]
    text = (tmp_path / "new" / "record.json").read_text()
    assert json.loads(text) == {**HEAD, "runs": [ENTRY, other]}
    assert len(text.splitlines()) == 5  # a run, a line: a change is seen as one


def test_a_record_without_runs(tmp_path):
    records.write(tmp_path / "record.json", HEAD, [])
    assert records.read(tmp_path / "record.json") == []


def test_no_record(tmp_path):
    assert records.read(tmp_path / "record.json") == []


def test_a_brief_record_leaves_the_long_parts_out(tmp_path):
    records.write(tmp_path / "record.json", HEAD, [ENTRY], brief=True)
    (found,) = records.read(tmp_path / "record.json")
    assert found == {**ENTRY, "result": {"ratio": 0.5, "curve": None, "layers": None}}
    assert ENTRY["result"]["curve"] == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"what": 1}',
        '{"runs": 1}',
        '{"runs": [1]}',
        '{"runs": [{"config": {}}]}',
        '{"runs": [{"config": {}, "result": "half"}]}',
    ],
)
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match=r"record.json must be a record of runs, got"):
        records.read(tmp_path / "record.json")
