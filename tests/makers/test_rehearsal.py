"""The rehearsal of a run: a small SDXL and a parquet file as Pick-a-Pic's."""

from __future__ import annotations

import io
import sys

import pytest
from PIL import Image

from diffalign.backbones import load_backbone
from diffalign.data import ReadCounts, read_records
from diffalign.rewards import load_reward
from makers import rehearsal


def test_it_writes_a_model_and_pairs_that_are_read(tmp_path, monkeypatch):
    home = tmp_path / "rehearsal"
    monkeypatch.setattr(sys, "argv", ["rehearsal", str(home), "--pairs", "16"])
    rehearsal.main()
    counts = ReadCounts()
    records = list(read_records(home / "pickapic", "pairs", members=None, columns={}, on_bad="error", counts=counts))
    assert len(records) == 14 and counts.ties == 2
    prompts = (home / "prompts.txt").read_text().splitlines()
    assert len(prompts) == rehearsal.HELD_OUT and not set(prompts) & {record.prompt for record in records}
    assert load_backbone("sdxl", str(home / "sdxl")).family == "sdxl"


def test_the_better_drawing_is_the_chosen_one():
    rows, _ = rehearsal.drawings(8)
    reward = load_reward("scene")
    for row in rows[:7]:  # the eighth is a tie
        pictures = [Image.open(io.BytesIO(row[name])) for name in ("jpg_0", "jpg_1")]
        first, second = reward(pictures, [row["caption"]] * 2).tolist()
        assert (first - second) * (row["label_0"] - 0.5) >= 0


def test_an_existing_folder_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rehearsal", str(tmp_path)])
    with pytest.raises(SystemExit, match="exists"):
        rehearsal.main()
    assert not list(tmp_path.iterdir())
