"""Column `preference` of kind pairs: how sure it is that the chosen picture is the better one."""

from __future__ import annotations

import pytest

from diffalign.data import ReadCounts, read_records
from diffalign.exceptions import DataError
from tests.data.pictures import write_rows

ROW = {"id": "x", "prompt": "a cat", "chosen": "a.png", "rejected": "b.png"}


@pytest.mark.parametrize(
    ("columns", "first", "preference"),
    [
        ({"preference": 0.7}, "a.png", 0.7),
        ({"preference": 0.2}, "b.png", 0.8),
        ({"preference": 1}, "a.png", 1.0),
        ({"preference": 0}, "b.png", 1.0),
        ({"preference": None}, "a.png", 1.0),
        ({"preference": None, "votes": {"a": 1, "b": 3}}, "b.png", 0.75),
        ({"preference": 0.9, "votes": {"a": 1, "b": 3}}, "a.png", 0.9),  # it goes before votes
    ],
)
def test_preference_says_which_picture_is_first_and_how_surely(tmp_path, columns, first, preference):
    (record,) = read_records(write_rows(tmp_path / "x.jsonl", [ROW | columns]))
    assert record.items[0].name == first
    assert record.preference == pytest.approx(preference)
    assert "preference" not in record.metadata


def test_half_is_a_tie(tmp_path):
    counts = ReadCounts()
    path = write_rows(tmp_path / "x.jsonl", [ROW | {"preference": 0.5}, ROW | {"id": "y"}])
    assert [record.id for record in read_records(path, counts=counts)] == ["y"]
    assert (counts.kept, counts.ties) == (1, 1)


def test_another_name_and_a_dimension(tmp_path):
    row = ROW | {"sure": 0.3, "preferences": {"MQ": "a"}}
    path = write_rows(tmp_path / "x.jsonl", [row])
    (record,) = read_records(path, columns={"preference": "sure"})
    assert (record.items[0].name, record.preference) == ("b.png", pytest.approx(0.7))
    (record,) = read_records(path, columns={"preference": "sure"}, dimension="MQ")
    assert (record.items[0].name, record.preference) == ("a.png", 1.0)


@pytest.mark.parametrize("preference", [-0.1, 1.5, "a", True, float("nan"), [0.5]])
def test_what_is_no_probability_is_refused(tmp_path, preference):
    path = write_rows(tmp_path / "x.jsonl", [ROW | {"preference": preference}])
    with pytest.raises(DataError, match="record 'x': column 'preference' must be a number from 0 to 1"):
        list(read_records(path))
