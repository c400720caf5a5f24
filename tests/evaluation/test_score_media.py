"""Scores of sound and video, .csv files, rewards of sets, and processes that are started and watched."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from diffalign.evaluation import score_in_processes, score_records, score_sets
from diffalign.exceptions import ConfigError, DataError, MissingExtraError, ProcessLostError
from diffalign.rewards import Audio, JPEGReward, RewardSpec, Sample, SampleReward, SceneReward, Video, load_reward
from tests.data.pictures import picture_file, write_rows


def spec_of(name: str, medium: Any, unit: str) -> RewardSpec:
    return RewardSpec(name, "1", medium, "instance", unit, (0.0, 1e6), False, "Apache-2.0", (), "a test's own")


class Loudness(SampleReward):
    """Peak of a sound."""

    spec, components = spec_of("loudness", "audio", "1"), ()

    def judge(self, medium: Audio, sample: Sample) -> tuple[float, dict[str, float]]:
        return float(np.abs(medium.waveform).max()), {}


class Length(SampleReward):
    """Seconds of a video."""

    spec, components = spec_of("length", "video", "s"), ("frames",)

    def judge(self, medium: Video, sample: Sample) -> tuple[float, dict[str, float]]:
        return medium.seconds, {"frames": float(len(medium.frames))}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    home = tmp_path / "mixed"
    home.mkdir()
    (home / "a.png").write_bytes(picture_file(1, (32, 32)))
    soundfile.write(home / "b.wav", np.full(800, 0.25), 8000)
    pictures = [Image.new("RGB", (8, 8), (40 * step, 0, 0)) for step in range(5)]
    pictures[0].save(home / "c.gif", save_all=True, append_images=pictures[1:], duration=100)
    (home / "d.flac").write_bytes(b"broken")
    return home


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_reward_scores_its_medium_and_says_of_others_what_they_are(mixed, tmp_path):
    out = tmp_path / "s.jsonl"
    done = score_records(mixed, out, [Loudness(), Length(), JPEGReward()])
    rows = {row["id"]: row for row in rows_of(out)}
    assert rows["b.wav"]["loudness"] == 0.25 and rows["c.gif"]["length"] == 0.5
    assert rows["a.png"]["jpeg"] < 0 and rows["c.gif"]["jpeg"] < 0  # of an animation, the first picture
    assert rows["a.png"]["loudness_reason"] == "a.png is a picture, and loudness judges sounds"
    assert rows["b.wav"]["jpeg_reason"] == "b.wav is a sound, and jpeg judges pictures"
    assert rows["d.flac"]["loudness_reason"].startswith("not a readable sound")
    assert done.summary is not None
    assert [(name, facts["scored"]) for name, facts in done.summary.items()] == [
        ("loudness", 1),
        ("length", 1),
        ("jpeg", 2),
    ]
    before = out.read_bytes()
    again = score_records(mixed, out, [Loudness(), Length(), JPEGReward()])
    assert out.read_bytes() == before and again.known == 0  # each is unscored by one of them, which is tried again


def test_reasons_of_several_samples_are_counted_together(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"broken" * (number + 1))
    rows = [{"id": f"r{number}", "prompt": "p", "file_name": f"{number}.png"} for number in range(3)]
    write_rows(tmp_path / "metadata.jsonl", [*rows, {"id": "r3", "prompt": "p", "file_name": "absent.png"}])
    done = score_records(tmp_path, tmp_path / "s.jsonl", [JPEGReward()])
    assert rows_of(tmp_path / "s.jsonl")[0]["jpeg_reason"] == "not a readable picture (of no known format); 6 bytes"
    assert done.summary is not None
    first, second = done.summary["jpeg"]["reasons"].items()
    assert first == ("not a readable picture (of no known format); 6 bytes (and 2 alike)", 3)
    assert second[0].startswith("cannot read ") and second[1] == 1
    assert done.summary["jpeg"]["first_unscored"] == {first[0]: "r0", second[0]: "r3"}


def test_a_missing_library_ends_the_call(mixed, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'diffalign\[audio\]'"):
        score_records(mixed, tmp_path / "s.jsonl", [Loudness()])


def test_csv_is_written_kept_and_read_back(mixed, tmp_path):
    out = tmp_path / "s.csv"
    (mixed / "a.txt").write_text('a "red", circle\nand more')
    score_records(mixed, out, {"size": JPEGReward(), "length": Length()}, components=True)
    with out.open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert rows["a.png"]["prompt"] == 'a "red", circle\nand more' and float(rows["a.png"]["size"]) < 0
    assert rows["b.wav"]["size"] == "" and float(rows["c.gif"]["length.frames"]) == 5
    assert json.loads(rows["c.gif"]["versions"]) == {"size": JPEGReward().spec.version, "length": "1"}
    before = out.read_bytes()
    for name in ("b.wav", "d.flac"):
        (mixed / name).unlink()
    (mixed / "a.png").rename(mixed / "z.png")
    assert score_records(mixed, out, {"size": JPEGReward()}, components=True).scored == 0  # known by its bytes
    assert out.read_bytes() != before
    (tmp_path / "other.csv").write_text("id,score\na,1\n")
    with pytest.raises(ConfigError, match="was not written by score"):
        score_records(mixed, tmp_path / "other.csv", [JPEGReward()])


def coloured(home: Path, count: int) -> Path:
    home.mkdir()
    rows = []
    for number in range(count):
        (home / f"{number}.png").write_bytes(picture_file(number, (16, 16)))
        rows.append({"file_name": f"{number}.png", "prompt": "ab"[number % 2], "source": f"m{number % 2}"})
    write_rows(home / "metadata.jsonl", rows)
    return home


def test_rewards_of_sets_say_one_number_of_all_and_of_each_group(tmp_path):
    home = coloured(tmp_path / "drawn", 7)
    (home / "6.png").write_bytes(b"broken")
    vendi = load_reward("vendi")
    facts = score_sets(home, {"vendi": vendi}, by="source")["vendi"]
    pictures = [Image.open(home / f"{number}.png").convert("RGB") for number in range(6)]
    assert facts["value"] == pytest.approx(float(vendi(pictures))) and (facts["scored"], facts["unscored"]) == (6, 1)
    (reason,) = facts["reasons"]
    assert "6.png" in reason and "not a readable picture" in reason
    for start, group in enumerate(("m0", "m1")):
        assert facts["groups"][group]["value"] == pytest.approx(float(vendi(pictures[start::2])))
        assert facts["groups"][group]["scored"] == 3
    assert score_sets(home, {"vendi": vendi}, by="prompt")["vendi"]["groups"].keys() == {"a", "b"}
    with pytest.raises(ConfigError, match=r"--by: .*no column 'model'; it has prompt, .*source"):
        score_sets(home, {"vendi": vendi}, by="model")
    with pytest.raises(ConfigError, match="takes features, which no file has"):
        score_sets(home, {"vendi": load_reward("vendi", encoder="latents")})
    for number in range(1, 7):
        (home / f"{number}.png").write_bytes(b"broken")
    reference = load_reward("frechet", reference=str(coloured(tmp_path / "reference", 3)))
    alone = score_sets(home, {"frechet": reference})["frechet"]
    assert (alone["value"], alone["scored"]) == (None, 1) and "needs 2 samples" in alone["reason"]


def test_several_processes_write_what_one_does(tmp_path):
    home, seen = coloured(tmp_path / "drawn", 11), []
    (home / "3.png").write_bytes(b"broken")
    score_records(home, tmp_path / "whole.jsonl", [JPEGReward(), SceneReward()], batch=2)
    texts = ["jpeg", "scene"]
    done = score_in_processes(
        home, tmp_path / "s.jsonl", texts, 2, batch=2, progress=lambda *counts: seen.append(counts)
    )
    assert (tmp_path / "s.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert seen[-1] == (11, 11) and (done.scored, done.known) == (11, 0)
    assert done.summary is not None and done.summary["jpeg"]["scored"] == 10
    assert not list(tmp_path.glob(".*"))


def die() -> None:
    """Called first in a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_errors_and_deaths_of_processes(tmp_path):
    home = coloured(tmp_path / "drawn", 2)
    with pytest.raises(ConfigError, match=r"scene\.frm: unknown option"):
        score_in_processes(home, tmp_path / "s.jsonl", ["scene:frm=1"], 1)
    with pytest.raises(ProcessLostError, match=r"process 0 of 1 ended with exit code -9; what was scored is kept"):
        score_in_processes(home, tmp_path / "s.jsonl", ["jpeg"], 1, begin=die)
    with pytest.raises(DataError, match="No such file"):
        score_in_processes(tmp_path / "nowhere.jsonl", tmp_path / "s.jsonl", ["jpeg"], 1)
