"""Hugging Face datasets: saved folders, and what `datasets.load_dataset` builds, on this disk and streamed."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import datasets
import pytest

from diffalign.data import ReadCounts, Source, file_state, hub, read_records
from diffalign.data.records import picture_bytes
from diffalign.data.rows import parse_row
from diffalign.exceptions import DataError, MissingExtraError
from tests.data.pictures import picture_file, write_rows

FEATURES = datasets.Features(
    {"prompt": datasets.Value("string"), "chosen": datasets.Image(), "rejected": datasets.Image()}
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(file_state, "SETTLED", 0)
    datasets.disable_progress_bars()


def pairs(count: int = 5, first: int = 0) -> datasets.Dataset:
    shades = range(first, first + count)
    return datasets.Dataset.from_dict(
        {
            "prompt": [f"p{shade}" for shade in shades],
            "chosen": [{"bytes": picture_file(shade), "path": None} for shade in shades],
            "rejected": [{"bytes": picture_file(100 + shade), "path": None} for shade in shades],
        },
        features=FEATURES,
    )


def test_a_saved_dataset(tmp_path):
    pairs().save_to_disk(tmp_path / "saved")
    records = list(read_records(tmp_path / "saved"))
    assert [record.id for record in records] == [f"row-{number}" for number in range(5)]
    assert records[3].items == (picture_file(3), picture_file(103))
    source = Source(tmp_path / "saved")
    assert source.is_dataset and source.state() == source.state() is not None


def test_a_saved_dataset_that_changes_is_another(tmp_path):
    pairs().save_to_disk(tmp_path / "saved")
    before = Source(tmp_path / "saved").state()
    pairs(first=1).save_to_disk(tmp_path / "saved")
    assert Source(tmp_path / "saved").state() != before


def test_splits_of_a_saved_dataset(tmp_path):
    datasets.DatasetDict({"train": pairs(3), "test": pairs(2, 7)}).save_to_disk(tmp_path / "saved")
    assert [record.prompt for record in read_records(tmp_path / "saved")] == ["p0", "p1", "p2"]
    assert [record.prompt for record in read_records(Source(tmp_path / "saved", split="test"))] == ["p7", "p8"]
    with pytest.raises(DataError, match=r"data\.split: .*saved has no 'validation', only train, test"):
        list(read_records(Source(tmp_path / "saved", split="validation")))


@pytest.fixture
def parquet(tmp_path) -> str:
    (tmp_path / "pq").mkdir()
    for number in range(2):
        pairs(40, 40 * number).to_parquet(tmp_path / "pq" / f"train-{number}.parquet")
    return f"hf://{tmp_path / 'pq'}"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_of_parquet_files(parquet, streaming):
    source, counts = Source(parquet, streaming=streaming), ReadCounts()
    records = list(read_records(source, counts=counts))
    assert [record.prompt for record in records] == [f"p{shade}" for shade in range(80)]
    assert records[41].items == (picture_file(41), picture_file(141)) and counts.kept == 80
    assert (source.state() is None) == streaming  # what is streamed may have changed since


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_folder(tmp_path, streaming):
    home = tmp_path / "images"
    home.mkdir()
    for number in range(3):
        (home / f"{number}.png").write_bytes(picture_file(number))
    rows = [{"file_name": f"{number}.png", "prompt": "p", "label": ("good", "bad")[number % 2]} for number in range(3)]
    write_rows(home / "metadata.jsonl", rows)
    source = Source(f"hf://{home}", streaming=streaming)
    records = list(read_records(source, "labelled", columns={"item": "image"}))
    assert [record.label for record in records] == [1, -1, 1]
    assert [Path(str(record.items[0])).read_bytes() for record in records] == [picture_file(n) for n in range(3)]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_folder_in_a_zip(tmp_path, streaming):
    home = tmp_path / "images"
    home.mkdir()
    rows = [{"file_name": f"{number}.png", "prompt": "p", "label": "good"} for number in range(3)]
    with zipfile.ZipFile(home / "train.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", picture_file(number))
        archive.writestr("metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    source = Source(f"hf://{home}", streaming=streaming)
    records = list(read_records(source, "labelled", columns={"item": "image"}))
    assert [picture_bytes(record.items[0], record.id) for record in records] == [picture_file(n) for n in range(3)]
    (home / "train.zip").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"record 'row-2': cannot read zip://2\.png::.*train\.zip: .*not a zip"):
        picture_bytes(records[2].items[0], records[2].id)


def test_pictures_in_lists_are_read_where_they_lie(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.png", picture_file(7))
    images = [{"bytes": None, "path": f"zip://x.png::{tmp_path / 'a.zip'}"}, {"bytes": picture_file(8), "path": None}]
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "items": datasets.List(datasets.Image()),
            "rewards": datasets.List(datasets.Value("float32")),
        }
    )
    rows = {"prompt": ["p"], "items": [images], "rewards": [[2.0, 1.0]]}
    (row,) = hub.rows(datasets.Dataset.from_dict(rows, features=features))
    record = parse_row("groups", row, tmp_path, 0, {})
    assert record is not None
    assert [picture_bytes(item, "r") for item in record.items] == [picture_file(7), picture_file(8)]


@pytest.mark.parametrize("address", ["https://example.org/x.png", "zip://x.png::http://example.org/x.zip"])
def test_a_picture_that_is_only_named_by_url_is_not_fetched(address):
    rows = {"prompt": ["p"], "chosen": [{"bytes": None, "path": address}], "rejected": [{"bytes": b"", "path": None}]}
    (row,) = hub.rows(datasets.Dataset.from_dict(rows, features=FEATURES))
    record = parse_row("pairs", row, Path("/"), 0, {})
    assert record is not None
    with pytest.raises(DataError, match=r"record 'row-0': cannot read .*example\.org.*: No such file"):
        picture_bytes(record.items[0], record.id)


def test_pick_a_pic_s_columns(tmp_path):
    rows = {
        "caption": ["a", "b", "c"],
        "jpg_0": [picture_file(shade) for shade in range(3)],
        "jpg_1": [picture_file(10 + shade) for shade in range(3)],
        "label_0": [1.0, 0.0, 0.5],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    counts = ReadCounts()
    first, second = read_records(tmp_path / "saved", counts=counts)
    assert first.items[0] == picture_file(0) and second.items[0] == picture_file(11)
    assert (counts.kept, counts.ties) == (2, 1)


def test_a_revision_is_told(monkeypatch):
    asked = []

    def load_dataset(*names: object, **options: object) -> datasets.Dataset:
        asked.append((names, options))
        return pairs(1)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    list(read_records(Source("hf://owner/name@v1", "test", "small", True)))
    assert asked == [(("owner/name", "small"), {"split": "test", "revision": "v1", "streaming": True})]


def test_a_folder_with_an_at_sign_in_its_name(tmp_path, monkeypatch):
    home = tmp_path / "me@corp" / "set"
    home.mkdir(parents=True)
    pairs(2).to_parquet(home / "train.parquet")
    assert len(list(read_records(f"hf://{home}"))) == 2
    monkeypatch.chdir(tmp_path)
    for relative in ("me@corp/set", "./me@corp/set"):
        assert len(list(read_records(f"hf://{relative}"))) == 2
    (tmp_path / "me@corp").rename(tmp_path / "me")
    (tmp_path / "me" / "set").rename(tmp_path / "me" / "set@v1")
    assert len(list(read_records("hf://me/set@v1"))) == 2


def test_a_dataset_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"data\.path: hf://owner/name cannot be loaded: .*see also data\.split"):
        list(read_records("hf://owner/name"))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"data\.path: .*saved cannot be loaded"):
        list(read_records(tmp_path / "saved"))


def test_a_stream_that_breaks_off(tmp_path):
    """Of two files the second is damaged."""
    home = tmp_path / "pq"
    home.mkdir()
    pairs(3).to_parquet(home / "train-0.parquet")
    (home / "train-1.parquet").write_bytes((home / "train-0.parquet").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"data\.path: "):
        list(read_records(Source(f"hf://{home}", streaming=True)))


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'diffalign\[data\]'"):
        list(read_records("hf://owner/name"))


def test_a_folder_with_rows_needs_no_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    write_rows(tmp_path / "metadata.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    assert len(list(read_records(tmp_path))) == 1
    assert not hub.is_saved(tmp_path) and not hub.is_address(tmp_path)
