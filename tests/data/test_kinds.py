"""Rows of kinds `groups` and `labelled` to records: order, unscored items, spellings, and what is said of bad rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffalign.data import ReadCounts, Record, read_records
from diffalign.exceptions import DataError
from tests.data.pictures import groups_folder, picture_file, write_rows

GROUP = {"id": "x", "prompt": "a cat", "items": ["a.png", "b.png", "c.png"], "rewards": [0.5, 2, -1.0]}
LABELLED = {"id": "x", "prompt": "a cat", "item": "a.png", "label": "good"}


def read(home: Path, rows: list[Any], kind: Any, **options: Any) -> list[Record]:
    return list(read_records(write_rows(home / "x.jsonl", rows), kind, **options))


def refusal(home: Path, rows: list[Any], kind: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(home, rows, kind, **options)
    return str(caught.value)


def names_of(record: Record) -> list[str]:
    return [item.name for item in record.items if isinstance(item, Path)]


# ---------------------------------------------------------------- groups


def test_group_stands_by_falling_reward(tmp_path):
    (record,) = read(tmp_path, [GROUP], "groups")
    assert (record.id, record.prompt) == ("x", "a cat")
    assert record.items == (tmp_path / "b.png", tmp_path / "a.png", tmp_path / "c.png")
    assert record.rewards == (2.0, 0.5, -1.0)
    assert all(type(reward) is float for reward in record.rewards)
    assert (record.label, record.preference, record.metadata) == (None, 1.0, {})


def test_ties_keep_the_order_of_the_row(tmp_path):
    (record,) = read(tmp_path, [GROUP | {"rewards": [1, 3, 1]}], "groups")
    assert (names_of(record), record.rewards) == (["b.png", "a.png", "c.png"], (3.0, 1.0, 1.0))


@pytest.mark.parametrize("unscored", ["null", "NaN"])
def test_unscored_items_stand_last(tmp_path, unscored):
    row = f'{{"prompt": "p", "items": ["a", "b", "c", "d"], "rewards": [{unscored}, -5, {unscored}, 1]}}'
    (record,) = read(tmp_path, [row], "groups")
    assert record.id == "row-0"
    assert names_of(record) == ["d", "b", "a", "c"]
    assert record.rewards is not None
    assert record.rewards[:2] == (1.0, -5.0)
    assert [math.isnan(reward) for reward in record.rewards] == [False, False, True, True]


def test_a_group_of_one_is_a_sample_with_a_reward(tmp_path):
    (record,) = read(tmp_path, [GROUP | {"items": ["a.png"], "rewards": [0]}], "groups")
    assert record.rewards == (0.0,)


def test_group_from_parquet_with_pictures_in_it(tmp_path):
    a, b = picture_file(1), picture_file(2)
    rows = [{"prompt": "p", "items": [{"bytes": a, "path": None}, {"bytes": b, "path": "b.png"}], "rewards": [None, 1]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    (record,) = read_records(tmp_path / "x.parquet", "groups")
    assert record.items == (b, a)


def test_group_with_columns_of_other_names_and_of_its_own(tmp_path):
    row = {"key": 5, "text": "a cat", "images": ["a.png", "b.png"], "scores": [0, 1], "from": "survey", "camera": 3}
    columns = {"id": "key", "prompt": "text", "items": "images", "rewards": "scores", "source": "from"}
    (record,) = read(tmp_path, [row], "groups", columns=columns)
    assert (record.id, record.prompt, names_of(record)) == ("5", "a cat", ["b.png", "a.png"])
    assert (record.source, record.metadata) == ("survey", {"camera": 3})
    assert "column 'scores' must hold finite" in refusal(
        tmp_path, [row | {"scores": ["0", 1]}], "groups", columns=columns
    )


FINITE = "record 'x': column 'rewards' must hold finite numbers (null: unscored), got "
BAD_GROUPS = [
    ({"prompt": " "}, "record 'x': column 'prompt' must be text that is not empty, got ' '"),
    ({"items": []}, "record 'x': column 'items' must be a list of pictures, got []"),
    ({"items": "a.png"}, "record 'x': column 'items' must be a list of pictures, got 'a.png'"),
    ({"items": None}, "record 'x': column 'items' must be a list of pictures, got None"),
    (
        {"items": ["a.png", None, "c.png"]},
        "record 'x': column 'items' must be a picture's path or bytes, got NoneType",
    ),
    (
        {"rewards": [1, 2]},
        "record 'x': column 'rewards' must be a list of 3 numbers, one per item, got [1, 2]",
    ),
    ({"rewards": 3}, "record 'x': column 'rewards' must be a list of 3 numbers, one per item, got 3"),
    ({"rewards": None}, "record 'x': column 'rewards' must be a list of 3 numbers, one per item, got None"),
    ({"rewards": [1, "2", 3]}, FINITE + "'2'"),
    ({"rewards": [1, True, 3]}, FINITE + "True"),
    ({"rewards": [1, math.inf, 3]}, FINITE + "inf"),
    ({"rewards": [1, 1e39, 3]}, FINITE + "1e+39"),  # infinite in float32
    ({"rewards": [1, 10**400, 3]}, FINITE + "1000"),  # no float at all
    ({"rewards": [None, None, None]}, "record 'x': column 'rewards' must hold a number, got [None, None, None]"),
]


@pytest.mark.parametrize(("change", "says"), BAD_GROUPS)
def test_bad_group_is_named_or_skipped_and_counted(tmp_path, change, says):
    rows = [GROUP | change, GROUP | {"id": "good"}]
    assert refusal(tmp_path, rows, "groups").startswith(says)
    counts = ReadCounts()
    assert [record.id for record in read(tmp_path, rows, "groups", on_bad="skip", counts=counts)] == ["good"]
    assert (counts.kept, counts.ties, counts.bad) == (1, 0, 1)
    assert counts.reasons[0].startswith(says)


@pytest.mark.parametrize(
    ("kind", "column"), [("groups", "items"), ("groups", "rewards"), ("labelled", "item"), ("labelled", "label")]
)
def test_missing_column_says_what_there_is(tmp_path, kind, column):
    row = {key: value for key, value in (GROUP if kind == "groups" else LABELLED).items() if key != column}
    assert refusal(tmp_path, [row], kind) == (
        f"record 'x': no column {column!r}; there are {', '.join(row)}; say in data.columns which of them is "
        f"{column!r}, or in data.kind what the records are"
    )


def test_the_wrong_kind_says_so(tmp_path):
    assert "or in data.kind what the records are (these look like data.kind: groups)" in refusal(
        tmp_path, [GROUP], "pairs"
    )
    assert "or in data.kind what the records are (these look like data.kind: labelled)" in refusal(
        tmp_path, [LABELLED], "groups"
    )
    assert "no usable groups (0 ties, 1 bad rows" in refusal(tmp_path, [LABELLED], "groups", on_bad="skip")
    assert "no usable labelled samples (0 ties, 1 bad rows" in refusal(tmp_path, [GROUP], "labelled", on_bad="skip")


def test_duplicate_ids(tmp_path):
    assert "record 'x': this id stands twice" in refusal(tmp_path, [GROUP, GROUP], "groups")
    assert "record 'x': this id stands twice" in refusal(tmp_path, [LABELLED, LABELLED], "labelled")


# ---------------------------------------------------------------- sizes and members


def test_groups_of_unequal_size_need_members(tmp_path):
    folder = groups_folder(tmp_path / "data", [[1, 2, 3], [4, 5], [6, 7, 8]])
    with pytest.raises(DataError) as caught:
        list(read_records(folder, "groups"))
    assert str(caught.value) == (
        "record 'g1': has 2 items, and the first record 3; set data.members to draw equally many of each"
    )
    counts = ReadCounts()
    assert [each.id for each in read_records(folder, "groups", on_bad="skip", counts=counts)] == ["g0", "g2"]
    assert (counts.kept, counts.bad) == (2, 1)
    assert [len(each.items) for each in read_records(folder, "groups", members=2)] == [3, 2, 3]  # drawn from later


def test_members_leaves_out_what_is_unscored(tmp_path):
    folder = groups_folder(tmp_path / "data", [[1, None, 3], [4, 5, 6, None]])
    records = list(read_records(folder, "groups", members=2))
    assert [record.rewards for record in records] == [(3.0, 1.0), (6.0, 5.0, 4.0)]
    assert names_of(records[0]) == ["0-2.png", "0-0.png"]


def test_members_needs_as_many_that_are_scored(tmp_path):
    rows = [GROUP | {"rewards": [1, None, 2]}, GROUP | {"id": "good"}]
    assert refusal(tmp_path, rows, "groups", members=3) == (
        "record 'x': has 2 scored items, and data.members asks for 3"
    )
    assert [each.id for each in read(tmp_path, rows, "groups", members=3, on_bad="skip")] == ["good"]


# ---------------------------------------------------------------- labelled


@pytest.mark.parametrize(
    ("label", "sign"),
    [("good", 1), (1, 1), (1.0, 1), (True, 1), ("bad", -1), (-1, -1), (-1.0, -1), (0, -1), (0.0, -1), (False, -1)],
)
def test_label_in_every_spelling(tmp_path, label, sign):
    (record,) = read(tmp_path, [LABELLED | {"label": label}], "labelled")
    assert (record.label, record.items, record.rewards) == (sign, (tmp_path / "a.png",), None)
    assert type(record.label) is int
    pq.write_table(pa.Table.from_pylist([LABELLED | {"label": label}]), tmp_path / "x.parquet")
    assert next(iter(read_records(tmp_path / "x.parquet", "labelled"))).label == sign


BAD_LABELLED = [
    ({"prompt": None}, "record 'x': column 'prompt' must be text that is not empty, got None"),
    ({"item": ""}, "record 'x': column 'item' must be a picture's path or bytes, got str"),
    ({"item": ["a.png"]}, "record 'x': column 'item' must be a picture's path or bytes, got list"),
    *(
        ({"label": label}, f"record 'x': column 'label' must be 'good' or 'bad' (or 1, -1), got {label!r}")
        for label in ("Good", "", "1", 2, 0.5, None, ["good"], {"good": 1}, math.nan)
    ),
]


@pytest.mark.parametrize(("change", "says"), BAD_LABELLED)
def test_bad_labelled_row_is_named_or_skipped_and_counted(tmp_path, change, says):
    rows = [LABELLED | change, LABELLED | {"id": "good"}]
    assert refusal(tmp_path, rows, "labelled") == says
    counts = ReadCounts()
    assert [record.id for record in read(tmp_path, rows, "labelled", on_bad="skip", counts=counts)] == ["good"]
    assert (counts.kept, counts.bad, counts.reasons) == (1, 1, [says])


def test_labelled_with_columns_of_other_names_and_of_its_own(tmp_path):
    row = {"caption": "a cat", "image": "a.png", "liked": False, "label": "camera", "condition": "c.png"}
    columns = {"prompt": "caption", "item": "image", "label": "liked"}
    (record,) = read(tmp_path, [row], "labelled", columns=columns)
    assert (record.prompt, names_of(record), record.label) == ("a cat", ["a.png"], -1)
    assert (record.condition, record.metadata) == ("c.png", {"label": "camera"})
