"""Scores are of what a reward reads now: its metadata too; and nothing that was scored is lost to another call."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from diffalign.data.part_files import PartFiles
from diffalign.evaluation import score_records, score_sets
from diffalign.exceptions import ConfigError
from diffalign.rewards import (
    Audio,
    FADReward,
    FADSongReward,
    JPEGReward,
    RewardEnsemble,
    fit_reference,
    load_reward,
)
from diffalign.rewards.scene import parse_caption, render_scene
from tests.data.pictures import picture_file, write_rows
from tests.evaluation.test_score_records import Counting, judged, rows_of


def asking(home: Path, *colours: str, **more: Any) -> Path:
    """Red circles, asked for in these colours."""
    rows = []
    for number, colour in enumerate(colours):
        render_scene(parse_caption("a red circle"), np.random.default_rng(number)).save(home / f"{number}.png")
        include = [{"class": "circle", "count": 1, "color": colour}]
        rows.append(
            {"id": f"r{number}", "file_name": f"{number}.png", "prompt": "a circle", "include": include, **more}
        )
    write_rows(home / "r.jsonl", rows)
    return home / "r.jsonl"


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_metadata_that_a_reward_reads_count(tmp_path, ending):
    out, rewards = tmp_path / f"s.{ending}", [load_reward("geneval"), JPEGReward()]
    first = score_records(asking(tmp_path, "red", "blue"), out, rewards)
    assert first.summary is not None and first.summary["geneval"]["mean"] == 0.5
    same = score_records(asking(tmp_path, "red", "blue"), out, rewards)
    assert (same.scored, same.known) == (0, 2)
    edited = score_records(asking(tmp_path, "blue", "blue"), out, rewards)
    assert (edited.scored, edited.known) == (1, 1)
    assert edited.summary is not None and edited.summary["geneval"]["mean"] == 0.0


def test_what_no_reward_reads_does_not_count(tmp_path):
    out = tmp_path / "s.jsonl"
    score_records(asking(tmp_path, "red"), out, [JPEGReward()])
    assert "metadata_digest" not in rows_of(out)[0]
    assert score_records(asking(tmp_path, "blue", note="x"), out, [JPEGReward()]).known == 1


def test_a_file_that_is_its_own_source_keeps_what_still_holds(tmp_path):
    out = tmp_path / "s.jsonl"
    score_records(asking(tmp_path, "red"), out, [load_reward("geneval")])
    assert score_records(out, out, [load_reward("geneval")]).known == 1  # its own columns are none of the metadata
    assert score_records(out, out, [JPEGReward()]).scored == 1
    (row,) = rows_of(out)
    assert row["geneval"] == 1.0 and set(row["versions"]) == {"geneval", "jpeg"}
    out.write_text(json.dumps(row | {"include": [{"class": "circle", "count": 1, "color": "blue"}]}) + "\n")
    score_records(out, out, [JPEGReward()])
    assert "geneval" not in rows_of(out)[0]  # it was of other metadata


@pytest.mark.parametrize("name", ["geneval", "notes"])
def test_a_worker_process_sees_what_a_reward_reads(name, tmp_path):
    """And a cache that it fills does not lie to others."""
    here = load_reward(name)
    if name == "geneval":
        medium, prompt = render_scene(parse_caption("a red circle"), np.random.default_rng(0)), "a circle"
        told = {"include": [{"class": "circle", "count": 1, "color": "blue"}]}
    else:
        beat = np.sin(2 * np.pi * 261.63 * np.arange(22050) / 22050).astype(np.float32)
        medium, prompt, told = Audio(0.5 * beat, 22050), "play C4", {"notes": [69]}
    wanted, unasked = here([medium], [prompt], [told]), here([medium], [prompt])
    assert wanted.item() != unasked.item()
    there = load_reward(name, process=True, cache=str(tmp_path / "kept"))
    assert there([medium], [prompt], [told]).item() == wanted.item()
    assert load_reward(name, cache=str(tmp_path / "kept"))([medium], [prompt], [told]).item() == wanted.item()


def test_what_another_call_had_scored_when_it_was_cut_off_stays(tmp_path, monkeypatch):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(picture_file(number, (16, 16)))
    out, slow = tmp_path / "s.jsonl", Counting(quality=50)
    monkeypatch.setattr(Counting, "stop_at", 4)
    with pytest.raises(KeyboardInterrupt):
        score_records(tmp_path, out, {"slow": slow}, batch=1)
    score_records(tmp_path, out, [JPEGReward()])
    assert len(list(PartFiles(out).read())) == 4
    monkeypatch.setattr(Counting, "stop_at", 10**9)
    judged.clear()
    done = score_records(tmp_path, out, {"slow": slow}, batch=1)
    assert (done.scored, done.known) == (2, 4) and len(judged) == 2
    assert not PartFiles(out).paths()


def test_nothing_is_lost_if_asked_for(tmp_path):
    def embedded(name: str, shade: int) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"id": "row-0", "item": {"bytes": picture_file(shade, (16, 16)), "path": None}, "prompt": ""}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        return tmp_path / name

    out = tmp_path / "s.jsonl"
    score_records(embedded("a.parquet", 1), out, [JPEGReward()], components=True, prompt="a cat")
    before = out.read_bytes()
    for source, settings, says in (
        (embedded("b.parquet", 9), {"components": True, "prompt": "a cat"}, "holds scores of another input"),
        (tmp_path / "a.parquet", {"components": True, "prompt": "a dog"}, "with another prompt .'a cat'."),
        (tmp_path / "a.parquet", {"prompt": "a cat"}, "holds what rewards are made of .*; keep it by --components"),
    ):
        with pytest.raises(ConfigError, match=says):
            score_records(source, out, [JPEGReward()], lose_nothing=True, **settings)
    assert out.read_bytes() == before
    known = score_records(
        tmp_path / "a.parquet", out, [JPEGReward()], components=True, prompt="a cat", lose_nothing=True
    )
    assert known.known == 1


class Frames:
    """An encoder of sound: each tenth of a second as its mean, its spread and its peak."""

    name, version, media = "frames", "1", "audio"

    def split(self, media: Audio) -> list[Any]:
        size = media.rate // 10
        return [media.waveform[..., start : start + size] for start in range(0, media.waveform.shape[-1], size)]

    def encode(self, media: Any) -> list[Any]:
        return [each.mean(0) for each in self.encode_frames(media)]

    def encode_frames(self, media: Any) -> list[Any]:
        parts = [[(part.mean(), part.std(), np.abs(part).max()) for part in self.split(one)] for one in media]
        return [torch.tensor(np.array(each, dtype=np.float64)) for each in parts]


@pytest.fixture
def sounds(tmp_path):
    """More than are encoded at a time, and the last ones longer."""
    home, rng = tmp_path / "sounds", np.random.default_rng(0)
    home.mkdir()
    rows = []
    for number in range(66):
        soundfile.write(home / f"{number:02}.wav", 0.1 * rng.normal(size=4000 if number < 64 else 8000), 8000)
        rows.append({"id": f"r{number}", "file_name": f"{number:02}.wav", "prompt": "", "half": number % 2})
    write_rows(home / "metadata.jsonl", rows)
    return home


def statistics() -> Any:
    rng = np.random.default_rng(1)
    return fit_reference([Audio((0.1 * rng.normal(size=8000)).astype(np.float32), 8000) for _ in range(8)], Frames())


def test_sounds_of_any_length_make_one_set(sounds):
    found = score_sets(sounds, {"fad": FADReward(statistics(), encoder=Frames())}, by="half")["fad"]
    assert found["scored"] == 66 and math.isfinite(found["value"]) and found["value"] <= 0
    assert {group: each["scored"] for group, each in found["groups"].items()} == {"0": 33, "1": 33}


def test_songs_against_a_set_are_scored_one_by_one(sounds, tmp_path):
    song = FADSongReward(statistics(), encoder=Frames())
    done = score_records(sounds, tmp_path / "s.jsonl", [song])
    assert done.summary is not None and done.summary["fad_song"]["scored"] == 66
    both = RewardEnsemble([song, song], weights=[1.0, 1.0])
    assert both.spec.media == "audio"
