"""Where scores are written to: a folder that is scored itself, and files that cannot hold every column."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffalign.evaluation import score_records
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import JPEGReward, SceneReward
from tests.data.pictures import picture_file


@pytest.fixture
def bare(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(picture_file(number))
    (tmp_path / "3.txt").write_text("a red circle")
    return tmp_path


def parquet(path: Path, *rows: dict[str, object]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("world", [1, 2])
def test_folder_of_bare_pictures_gets_a_listing(bare, world):
    listing = bare / "metadata.jsonl"
    for rank in range(world):
        assert not listing.exists()
        score_records(bare, bare, [JPEGReward()], batch=2, rank=rank, world=world)
    found = [json.loads(line) for line in listing.read_text().splitlines()]
    names = [f"{number}.png" for number in range(5)]
    assert [(row["id"], row["file_name"]) for row in found] == list(zip(names, names, strict=True))
    assert found[3]["prompt"] == "a red circle" and all(row["jpeg"] < 0 for row in found)
    done = score_records(bare, bare, [JPEGReward()])
    assert (done.scored, done.known) == (0, 5)
    score_records(bare, bare, [SceneReward()])
    assert json.loads(listing.read_text().splitlines()[3])["versions"].keys() == {"jpeg", "scene"}
    assert not list(bare.glob(".*"))


def test_folder_of_bare_pictures_that_was_cut_off_is_gone_on_with(bare, monkeypatch):
    def stop(reward: object, pixels: object, sample: object) -> None:
        raise KeyboardInterrupt

    def score() -> int:
        return score_records(bare, bare, [JPEGReward()], batch=2).known

    score_records(bare, bare, [JPEGReward()], batch=2, rank=1, world=2)  # which has the third and fourth one
    monkeypatch.setattr(JPEGReward, "judge", stop)
    with pytest.raises(KeyboardInterrupt):
        score()
    monkeypatch.undo()
    assert score() == 2


def test_listing_does_not_hide_parquet_files(tmp_path):
    parquet(tmp_path / "data.parquet", {"prompt": "a", "item": picture_file(1)})
    with pytest.raises(ConfigError, match="a listing beside parquet files would be read in their place"):
        score_records(tmp_path, tmp_path, [JPEGReward()])
    assert [path.name for path in tmp_path.iterdir()] == ["data.parquet"]


@pytest.mark.parametrize("value", [datetime(2024, 5, 1), b"bytes", {"mask": [b"bytes"]}])
def test_column_that_json_has_no_type_for_is_refused_before_scoring(bare, value):
    rows = [{"id": name, "file_name": "0.png", "told": told} for name, told in (("a", None), ("b", value))]
    source = parquet(bare / "data.parquet", *rows)
    before = set(bare.iterdir())
    with pytest.raises(
        DataError, match=r"record 'b': column 'told' fits into no \.jsonl .*; write a \.parquet instead"
    ):
        score_records(source, bare / "s.jsonl", [JPEGReward()])
    assert set(bare.iterdir()) == before
    score_records(source, bare / "s.parquet", [JPEGReward()])
    assert pq.read_table(bare / "s.parquet").to_pylist()[1]["told"] == value
