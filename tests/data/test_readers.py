"""Rows of every source to records: columns, votes, ties, and what is said of bad rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffalign.data import ReadCounts, Record, read_prompts, read_records
from diffalign.exceptions import DataError
from tests.data.pictures import pairs_folder, picture_file, write_rows

A, B = picture_file(1), picture_file(2)
ROW = {"id": "x", "prompt": "a cat", "chosen": "a.png", "rejected": "b.png"}


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read_one(path: Path, **options: Any) -> Record:
    (record,) = read_records(path, **options)
    return record


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(read_records(path, **options))
    return str(caught.value)


# ---------------------------------------------------------------- sources


def test_folder(tmp_path):
    records = list(read_records(pairs_folder(tmp_path / "data")))
    assert [record.id for record in records] == ["r0", "r1", "r2"]
    assert records[1].prompt == "prompt 1"
    assert records[1].items == (tmp_path / "data" / "1a.png", tmp_path / "data" / "1b.png")


def test_jsonl_paths_start_at_its_folder(tmp_path):
    record = read_one(write_rows(tmp_path / "list.jsonl", [ROW | {"rejected": "sub/b.png"}]))
    assert record.items == (tmp_path / "a.png", tmp_path / "sub" / "b.png")


def test_jsonl_with_byte_order_mark_blank_lines_and_unicode(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + '{"prompt": "кот ✓", "chosen": "a", "rejected": "b"}\n\n  \n'.encode())
    assert read_one(path).prompt == "кот ✓"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (A, A),
        ({"bytes": A, "path": None}, A),
        ({"bytes": A, "path": "elsewhere.png"}, A),
        ({"bytes": None, "path": "a.png"}, "a.png"),
        ("a.png", "a.png"),
    ],
)
def test_parquet_pictures(tmp_path, value, expected):
    record = read_one(parquet(tmp_path / "x.parquet", [{"prompt": "p", "chosen": value, "rejected": B}]))
    assert record.items == (expected if isinstance(expected, bytes) else tmp_path / expected, B)
    assert record.id == "row-0"


def test_parquet_is_read_in_batches_and_numbered_through(tmp_path):
    path = parquet(tmp_path / "x.parquet", [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 150)
    assert [record.id for record in read_records(path)] == [f"row-{number}" for number in range(150)]


def test_folder_of_parquet_files(tmp_path):
    row = {"prompt": "p", "chosen": A, "rejected": "b"}
    parquet(tmp_path / "train-00001.parquet", [row | {"prompt": "late"}])
    parquet(tmp_path / "train-00000.parquet", [row, row])
    (tmp_path / "notes.txt").write_text("not data")
    records = list(read_records(tmp_path))
    assert [(record.id, record.prompt) for record in records] == [("row-0", "p"), ("row-1", "p"), ("row-2", "late")]
    assert records[0].items == (A, tmp_path / "b")


def test_ids_are_unique_across_parquet_files(tmp_path):
    for name in ("a", "b"):
        parquet(tmp_path / f"{name}.parquet", [{"id": "x", "prompt": "p", "chosen": A, "rejected": B}])
    assert "record 'x': this id stands twice" in refusal(tmp_path)


def test_metadata_goes_before_parquet_files(tmp_path):
    folder = pairs_folder(tmp_path / "data")
    parquet(folder / "x.parquet", [{"prompt": "p", "chosen": A, "rejected": B}])
    assert [record.id for record in read_records(folder)] == ["r0", "r1", "r2"]


@pytest.mark.parametrize(("label", "first"), [(1, A), (0, B), (1.0, A), (0.0, B)])
def test_pick_a_pic(tmp_path, label, first):
    row = {"jpg_0": A, "jpg_1": B, "label_0": label, "caption": "a cat", "ranking_id": 7}
    record = read_one(parquet(tmp_path / "x.parquet", [row]))
    assert (record.prompt, record.items[0], record.metadata) == ("a cat", first, {"ranking_id": 7})


def test_another_caption_of_pick_a_pic_is_taken_where_it_is_named(tmp_path):
    row = {"jpg_0": A, "jpg_1": B, "label_0": 1.0, "caption": "a cat", "recaption": "a black cat"}
    assert read_one(parquet(tmp_path / "x.parquet", [row]), columns={"prompt": "recaption"}).prompt == "a black cat"


def test_pick_a_pic_ties_are_dropped_and_other_labels_refused(tmp_path):
    row = {"jpg_0": A, "jpg_1": B, "caption": "a cat"}
    counts = ReadCounts()
    rows = [row | {"label_0": label} for label in (0.5, 1.0, 0.5, 0.7, None)]
    records = list(read_records(parquet(tmp_path / "x.parquet", rows), counts=counts, on_bad="skip"))
    assert (len(records), counts.kept, counts.ties, counts.bad) == (1, 1, 2, 2)
    assert counts.reasons[0] == "record 'row-3': column 'label_0' must be 0, 0.5 or 1, got 0.7"


def test_pick_a_pic_errors_name_its_own_columns(tmp_path):
    row = {"jpg_0": A, "jpg_1": None, "label_0": 1.0, "caption": "x"}
    assert "column 'jpg_1'" in refusal(parquet(tmp_path / "x.parquet", [row, row | {"jpg_1": B}]))
    row = {"jpg_0": A, "jpg_1": B, "label_0": 1.0, "caption": " "}
    assert "column 'caption'" in refusal(parquet(tmp_path / "y.parquet", [row]))


def test_custom_columns(tmp_path):
    row = {"key": 5, "text": "a cat", "win": "a.png", "lose": "b.png", "prompt": "not this"}
    columns = {"id": "key", "prompt": "text", "chosen": "win", "rejected": "lose"}
    record = read_one(write_rows(tmp_path / "x.jsonl", [row]), columns=columns)
    assert (record.id, record.prompt, record.items[0].name) == ("5", "a cat", "a.png")
    assert record.metadata == {"prompt": "not this"}


def test_missing_column_says_what_there_is(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [{"prompt": "p", "winner": "a", "loser": "b"}])
    assert refusal(path) == (
        "record 'row-0': no column 'chosen'; there are prompt, winner, loser; say in data.columns which of them is "
        "'chosen', or in data.kind what the records are"
    )


# ---------------------------------------------------------------- votes and optional columns


@pytest.mark.parametrize(
    ("votes", "first", "preference"),
    [
        ({"a": 7, "b": 3}, "a.png", 0.7),
        ({"a": 3, "b": 7}, "b.png", 0.7),
        ({"a": 1, "b": 0, "tie": 1}, "a.png", 0.75),
        ({"b": 1}, "b.png", 1.0),
    ],
)
def test_votes_put_the_majority_first(tmp_path, votes, first, preference):
    record = read_one(write_rows(tmp_path / "x.jsonl", [ROW | {"votes": votes}]))
    assert record.items[0].name == first
    assert record.preference == pytest.approx(preference)
    assert record.votes == votes


def test_votes_of_a_parquet_struct_may_hold_nulls(tmp_path):
    rows = [ROW | {"votes": {"a": 1, "b": 2, "tie": None}}]
    assert read_one(parquet(tmp_path / "x.parquet", rows)).items[0].name == "b.png"


@pytest.mark.parametrize("votes", [{"a": 2, "b": 2}, {"tie": 3}])
def test_tied_votes_are_dropped_and_counted(tmp_path, votes):
    counts = ReadCounts()
    path = write_rows(tmp_path / "x.jsonl", [ROW | {"votes": votes}, ROW | {"id": "y"}])
    assert [record.id for record in read_records(path, counts=counts)] == ["y"]
    assert (counts.kept, counts.ties, counts.bad) == (1, 1, 0)


@pytest.mark.parametrize("votes", [{}, {"a": 0}, {"a": -1, "b": 3}, {"x": 1}, "a", 3, {"a": "7"}, {"a": True}])
def test_odd_votes_are_refused(tmp_path, votes):
    assert "record 'x': votes must look like" in refusal(write_rows(tmp_path / "x.jsonl", [ROW | {"votes": votes}]))


def test_optional_columns_are_kept(tmp_path):
    extra = {"source": "survey", "condition": "c.png", "preferences": {"VQ": "a", "MQ": "tie"}, "camera": 3}
    record = read_one(write_rows(tmp_path / "x.jsonl", [ROW | extra]))
    assert (record.source, record.condition, record.preferences) == ("survey", "c.png", {"VQ": "a", "MQ": "tie"})
    assert record.metadata == {"camera": 3}


# ---------------------------------------------------------------- bad rows


BAD_ROWS = [
    (ROW | {"prompt": ""}, "record 'x': column 'prompt' must be text that is not empty, got ''"),
    (ROW | {"prompt": "  \n"}, "record 'x': column 'prompt'"),
    (ROW | {"prompt": None}, "record 'x': column 'prompt'"),
    (ROW | {"prompt": 3}, "record 'x': column 'prompt'"),
    (ROW | {"chosen": None}, "record 'x': column 'chosen' must be a picture's path or bytes, got NoneType"),
    (ROW | {"rejected": ""}, "record 'x': column 'rejected'"),
    (ROW | {"rejected": 4}, "record 'x': column 'rejected'"),
    ({"prompt": "p"}, "record 'row-0': no column 'chosen'"),
    ("{not json", "x.jsonl, line 1: not JSON"),
    ("[1, 2]", "x.jsonl, line 1: must be a JSON object, got list"),
    ("[" * 100_000, "x.jsonl, line 1: not JSON"),
]


@pytest.mark.parametrize(("row", "says"), BAD_ROWS)
def test_bad_row_is_named_or_skipped_and_counted(tmp_path, row, says):
    path = write_rows(tmp_path / "x.jsonl", [row, ROW | {"id": "good"}])
    assert says in refusal(path)
    counts = ReadCounts()
    assert [record.id for record in read_records(path, on_bad="skip", counts=counts)] == ["good"]
    assert (counts.kept, counts.bad) == (1, 1)
    assert says in counts.reasons[0]


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}\n' + b'{"id": "y", "prompt": "p", "chosen": "a", "rejected": "b"}\n')
    assert "line 1: not UTF-8 text" in refusal(path)
    assert [record.id for record in read_records(path, on_bad="skip")] == ["y"]


def test_duplicate_ids(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [ROW, ROW | {"prompt": "other"}, ROW | {"id": "y"}])
    assert "record 'x': this id stands twice" in refusal(path)
    counts = ReadCounts()
    kept = [record.prompt for record in read_records(path, on_bad="skip", counts=counts)]
    assert (kept, counts.bad) == (["a cat", "a cat"], 1)


def test_all_bad_is_an_error_even_when_skipping(tmp_path):
    message = refusal(write_rows(tmp_path / "x.jsonl", ["nonsense", ROW | {"prompt": ""}]), on_bad="skip")
    assert "no usable pairs (0 ties, 2 bad rows; the first: " in message


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda home: home / "absent", "/absent: no such file or folder"),
        (lambda home: home / "absent.jsonl", "cannot be read: No such file"),
        (lambda home: home / "absent.parquet", "no such file"),
        (lambda home: home, "must hold metadata.jsonl"),
        (lambda home: write_rows(home / "x.jsonl", []), "no usable pairs"),
        (lambda home: write_rows(home / "x.csv", ["a,b"]), "data must be a folder"),
        (lambda home: write_rows(home / "x.parquet", ["PAR1 nonsense"]), "not a readable parquet file"),
        (lambda home: parquet(home / "x.parquet", []), "no usable pairs"),
    ],
)
def test_unusable_source(tmp_path, make, says):
    path = make(tmp_path)
    message = refusal(path)
    assert says in message
    assert str(path) in message


def test_reading_is_lazy(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [ROW, "not json"])
    assert next(iter(read_records(path))).id == "x"


# ---------------------------------------------------------------- prompts


def test_prompts(tmp_path):
    text = tmp_path / "x.txt"
    text.write_text("a cat\n\n  two dogs \n", encoding="utf-8")
    assert read_prompts(text) == ["a cat", "two dogs"]
    assert read_prompts(write_rows(tmp_path / "x.jsonl", [{"prompt": "a"}, {"prompt": "b", "id": 3}])) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.txt", b"\n \n", "no prompts in it"),
        ("x.txt", b"\xff", "not UTF-8"),
        ("x.jsonl", b'{"text": "a"}', "row 0: 'prompt' must be text"),
        ("x.jsonl", b"nonsense", "line 1: not JSON"),
        ("x.txt", None, "cannot be read"),
    ],
)
def test_unusable_prompts(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_prompts(tmp_path / name)


# ---------------------------------------------------------------- dimensions


DIMENSIONS = {"VQ": "a", "MQ": "tie", "TA": "b", "none": None}


@pytest.mark.parametrize(("dimension", "first"), [("VQ", "a.png"), ("TA", "b.png"), ("MQ", None)])
def test_a_dimension_says_which_is_preferred(tmp_path, dimension, first):
    counts = ReadCounts()
    rows = [ROW | {"preferences": DIMENSIONS}, ROW | {"id": "y", "preferences": {dimension: "a"}}]
    records = list(read_records(write_rows(tmp_path / "x.jsonl", rows), dimension=dimension, counts=counts))
    assert [record.items[0].name for record in records if record.id == "x"] == ([first] if first else [])
    assert all(record.preference == 1.0 for record in records)
    assert (counts.kept, counts.ties) == ((1, 1) if first is None else (2, 0))


def test_a_dimension_goes_before_votes_and_labels(tmp_path):
    row = ROW | {"votes": {"a": 9, "b": 1}, "preferences": {"TA": "b"}}
    path = write_rows(tmp_path / "x.jsonl", [row])
    assert read_one(path).items[0].name == "a.png"
    record = read_one(path, dimension="TA")
    assert (record.items[0].name, record.preference) == ("b.png", 1.0)
    row = {"jpg_0": A, "jpg_1": B, "label_0": 0.5, "caption": "x", "preferences": {"TA": "a"}}
    assert read_one(parquet(tmp_path / "x.parquet", [row]), dimension="TA").items[0] == A


def test_votes_of_a_dimension(tmp_path):
    row = ROW | {"preferences": {"VQ": {"a": 1, "b": 3}}}
    record = read_one(write_rows(tmp_path / "x.jsonl", [row]), dimension="VQ")
    assert (record.items[0].name, record.preference) == ("b.png", 0.75)


@pytest.mark.parametrize(
    ("preferences", "says"),
    [
        (None, "column 'preferences' has no 'MQ', which data.dimension names (got None)"),
        ({"VQ": "a", "TA": "b"}, "column 'preferences' has no 'MQ', which data.dimension names (it has VQ, TA)"),
        ({"VQ": "a", "MQ": None}, "has no 'MQ', which data.dimension names (it has VQ)"),
        ({"MQ": "left"}, "preferences.MQ must be 'a', 'b' or 'tie', or votes, got 'left'"),
        ({"MQ": 1}, "preferences.MQ must be 'a', 'b' or 'tie', or votes, got 1"),
        ({"MQ": ["a"]}, "preferences.MQ must be 'a', 'b' or 'tie', or votes, got ['a']"),
        ({"MQ": {"a": -1}}, "votes must look like"),
    ],
)
def test_a_record_without_the_dimension_is_bad(tmp_path, preferences, says):
    path = write_rows(
        tmp_path / "x.jsonl", [ROW | {"preferences": preferences}, ROW | {"id": "y", "preferences": {"MQ": "a"}}]
    )
    assert says in refusal(path, dimension="MQ")
    counts = ReadCounts()
    assert [record.id for record in read_records(path, dimension="MQ", on_bad="skip", counts=counts)] == ["y"]
    assert (counts.kept, counts.bad) == (1, 1)


def test_a_struct_of_dimensions_may_hold_nulls(tmp_path):
    rows = [ROW | {"preferences": {"VQ": "b", "MQ": None}}, ROW | {"id": "y", "preferences": {"VQ": "a", "MQ": "b"}}]
    first, second = read_records(parquet(tmp_path / "x.parquet", rows), dimension="VQ")
    assert (first.items[0].name, second.items[0].name) == ("b.png", "a.png")


def test_no_row_is_read_beyond_the_limit(tmp_path):
    rows = [{"id": "a"}, {"id": "b", "prompt": ""}, {"id": "d"}, {"id": "e", "chosen": 5}]
    source = write_rows(tmp_path / "list.jsonl", [ROW | row for row in rows])
    counts = ReadCounts()
    records = read_records(source, limit=2, on_bad="skip", counts=counts)
    assert [record.id for record in records] == ["a", "d"]
    assert (counts.kept, counts.bad) == (2, 1)  # the last row, which is bad, is not looked at
    list(read_records(source, limit=3, on_bad="skip", counts=counts))
    assert (counts.kept, counts.bad) == (4, 3)
