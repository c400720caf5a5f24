"""Rewards of sounds, of videos and with a reference against comparisons, read as `diffalign score` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from diffalign.data import Source
from diffalign.data.comparisons import OVERALL, ComparedRecord, Comparison, read_comparisons
from diffalign.evaluation import Benched, bench_reward
from diffalign.exceptions import DataError
from diffalign.rewards import Audio, FADSongReward, Reward, RewardSpec, Sample, SampleReward, Video, load_reward
from diffalign.rewards.functional import gaussian_statistics
from tests.data.pictures import pairs_folder, picture_file, write_rows
from tests.rewards.sounds import noise


class Loudness(SampleReward):
    """Root mean square, less what the record's column `target` says."""

    components = ()
    spec = RewardSpec("loud", "1", "audio", "instance", "1", (-1.0, 1.0), False, "Apache-2.0", (), "here")

    def judge(self, medium: Audio, sample: Sample) -> tuple[float, dict[str, float]]:
        return -abs(float(np.sqrt(np.square(medium.waveform).mean())) - sample.metadata.get("target", 1.0)), {}


class Seconds(SampleReward):
    """The length of a video."""

    components = ()
    spec = RewardSpec("long", "1", "video", "instance", "s", (0.0, 1e9), False, "Apache-2.0", (), "here")

    def judge(self, medium: Video, sample: Sample) -> tuple[float, dict[str, float]]:
        return medium.seconds, {}


class Levels:
    """An encoder of sound: the mean and the spread of each tenth of a second."""

    name, version = "levels", "1"
    media: Literal["image", "video", "audio", "features"] = "audio"

    def split(self, media: Any) -> list[Any]:
        return list(media)

    def encode(self, media: Sequence[Any]) -> list[Any]:
        return [each.mean(0) for each in self.encode_frames(media)]

    def encode_frames(self, media: Sequence[Any]) -> list[Any]:
        cut = [torch.from_numpy(each.waveform[0]).double().unflatten(0, (-1, each.rate // 10)) for each in media]
        return [torch.stack([each.mean(1), each.std(1)], dim=1) for each in cut]


def said_of(home: Path, *files: str, **columns: Any) -> Path:
    """One pair a row, the first file preferred."""
    pairs = zip(files[::2], files[1::2], strict=True)
    rows = [{"id": a, "prompt": "p", "chosen": a, "rejected": b} | columns for a, b in pairs]
    write_rows(home / "metadata.jsonl", rows)
    return home


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for name, size in {"loud": 0.25, "soft": 0.05}.items():
        soundfile.write(tmp_path / f"{name}.wav", (size * noise(8000)).clip(-1, 1), 8000)
    return tmp_path


def benched(reward: Reward, home: Path) -> Benched:
    return bench_reward("it", reward, list(read_comparisons(Source(home))))


def test_pairs_of_sounds(sounds: Path) -> None:
    found = benched(Loudness(), said_of(sounds, "loud.wav", "soft.wav"))
    assert found.accuracy is not None and found.accuracy.value == 1.0 and found.unscored == {}
    quiet = benched(Loudness(), said_of(sounds, "loud.wav", "soft.wav", target=0.05))  # the record's own column
    assert quiet.accuracy is not None and quiet.accuracy.value == 0.0


def test_distance_of_single_sounds_to_a_reference_set(sounds: Path) -> None:
    encoder = Levels()
    (frames,) = encoder.encode_frames([Audio((0.25 * noise(80000, 5)).clip(-1, 1), 8000)])
    reward = FADSongReward(gaussian_statistics(frames), encoder=encoder)
    assert reward.spec.level == "instance_to_set"
    found = benched(reward, said_of(sounds, "loud.wav", "soft.wav"))
    assert found.accuracy is not None and found.accuracy.value == 1.0 and found.comparisons == 1


def test_pairs_of_videos(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (40 * step, 0, 0)) for step in range(6)]
    for name, count in {"long": 6, "short": 3}.items():
        frames[0].save(tmp_path / f"{name}.gif", save_all=True, append_images=frames[1:count], duration=100)
    found = benched(Seconds(), said_of(tmp_path, "long.gif", "short.gif"))
    assert found.accuracy is not None and found.accuracy.value == 1.0
    assert benched(load_reward("jpeg"), tmp_path).comparisons == 1  # as a picture, the first of its frames


def test_reference_beside_the_records(tmp_path: Path) -> None:
    home = pairs_folder(tmp_path / "pairs", 2, reference="kept/0.png")
    (home / "kept").mkdir()
    (home / "kept" / "0.png").write_bytes(picture_file(2))  # nearer to the chosen ones, of shades 0 and 1
    found = benched(load_reward("psnr"), home)
    assert found.comparisons == 2 and found.accuracy is not None and found.accuracy.value == 1.0
    (home / "kept" / "0.png").unlink()
    with pytest.raises(
        DataError, match=r"no comparison has two scored pictures; the first reason: reference: .*cannot read"
    ):
        benched(load_reward("psnr"), home)
    assert benched(load_reward("jpeg"), home).comparisons == 2  # which does not look at it


def test_unreadable_file_is_unscored_and_the_others_count(tmp_path: Path) -> None:
    home = pairs_folder(tmp_path / "pairs", 4)
    (home / "1b.png").write_bytes(b"broken")
    (home / "2a.png").unlink()
    found = benched(load_reward("jpeg"), home)
    assert found.comparisons == 2 and sum(found.unscored.values()) == 2
    broken, missing = sorted(found.unscored)
    assert broken.startswith("record 'r1/1 (1b.png)': not a readable picture")
    assert missing.startswith("record 'r2/0': cannot read")


def test_other_medium_than_the_reward_judges(sounds: Path) -> None:
    with pytest.raises(
        DataError, match=r"pictures; the first reason: .*loud\.wav is a sound, and jpeg judges pictures"
    ):
        benched(load_reward("jpeg"), said_of(sounds, "loud.wav", "soft.wav"))
    decoded = np.zeros((8, 8, 3), np.uint8)
    record = ComparedRecord("r", "p", (decoded, decoded), (Comparison(0, 1, {OVERALL: (1.0, 0.0)}),))
    with pytest.raises(DataError, match=r"sounds; the first reason: sound must be an Audio\(waveform, rate\)"):
        bench_reward("it", Loudness(), [record])
