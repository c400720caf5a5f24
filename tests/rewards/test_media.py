"""Sound and video: the one form in which each is judged, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards import Audio, RewardSpec, Sample, SampleReward, Video
from diffalign.rewards.pictures import as_pixels, split_pictures

TONE = np.sin(np.arange(800) / 5).astype(np.float32)


class Loudness(SampleReward):
    """The mean square of the sound, for these tests."""

    components = ("seconds",)
    spec = RewardSpec("loudness", "1", "audio", "instance", "1", (0.0, 1.0), False, "Apache-2.0", (), "here")

    def judge(self, medium: Audio, sample: Sample) -> tuple[float, dict[str, float]]:
        return float((medium.mono() ** 2).mean()), {"seconds": medium.seconds}


def test_audio_becomes_float32_channels_by_samples() -> None:
    for given in (TONE, TONE[None], torch.from_numpy(TONE), TONE.astype(np.float64)):
        audio = Audio(given, 8000)
        assert audio.waveform.shape == (1, 800) and audio.waveform.dtype == np.float32
        assert audio.seconds == 0.1
    stereo = Audio(np.stack([TONE, -TONE]), 8000)
    assert np.array_equal(stereo.mono(), np.zeros(800, dtype=np.float32))


@pytest.mark.parametrize(
    ("wave", "rate", "error", "message"),
    [
        (np.ones((800, 2)), 8000, ShapeError, r"\[channels, samples\] or \[samples\], got \[800, 2\]"),
        (np.zeros((1, 0)), 8000, ShapeError, "got"),
        (TONE * 2, 8000, DataError, "a peak of 2"),
        (np.array([0.0, np.nan, 0.5]), 8000, DataError, "1 of 3 values of the waveform are not finite"),
        (np.zeros(9, dtype=np.int16), 8000, DataError, "divide 16-bit samples by 32768"),
        (TONE, 0, DataError, "rate"),
    ],
)
def test_audio_that_is_refused(wave: Any, rate: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Audio(wave, rate)


def test_video_becomes_uint8_frames() -> None:
    floats = torch.rand(4, 3, 6, 8)
    video = Video(floats, 8.0)
    assert video.frames.shape == (4, 6, 8, 3) and video.frames.dtype == np.uint8
    assert video.seconds == 0.5
    assert np.array_equal(Video(video.frames, 8.0).frames, video.frames)


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (torch.rand(4, 3, 6, 8) * 255, 8.0, "divide by 255"),
        (np.zeros((0, 6, 8, 3), dtype=np.uint8), 8.0, "no frames"),
        (np.zeros((2, 6, 8, 3), dtype=np.uint8), 0.0, "fps"),
    ],
)
def test_video_that_is_refused(frames: Any, fps: float, message: str) -> None:
    with pytest.raises((DataError, ShapeError), match=message):
        Video(frames, fps)


def test_reward_of_sound_scores_one_or_several_and_leaves_out_what_is_none() -> None:
    reward = Loudness()
    sounds = [Audio(TONE, 8000), Audio(TONE * 0.5, 8000)]
    values = reward(sounds)
    assert torch.allclose(values, torch.tensor([(TONE**2).mean(), (TONE**2).mean() / 4]), atol=1e-6)
    assert torch.equal(reward(sounds[0]), values[:1])
    output = reward.score([Sample(sounds[0]), Sample(np.zeros((4, 4, 3), dtype=np.uint8), id="picture")])
    assert output.values[1].isnan() and output.reasons == (None, "sound must be an Audio(waveform, rate), got ndarray")


def test_whole_call_with_another_medium_is_refused() -> None:
    with pytest.raises(DataError, match=r"an Audio\(waveform, rate\) or a list of them, got Tensor"):
        Loudness()(torch.rand(2, 3, 8, 8))


def _red_with_hidden_blue() -> np.ndarray:
    """uint8 [8, 8, 4]: the left half red; the right half blue that is not seen, but for a row that is half seen."""
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:, :4] = (255, 0, 0, 255)
    picture[:, 4:] = (0, 0, 255, 0)
    picture[0, 4:, 3] = 51
    return picture


def test_what_is_transparent_lies_on_white_in_every_form() -> None:
    picture = _red_with_hidden_blue()
    expected = np.full((8, 8, 3), 255, np.uint8)
    expected[:, :4] = (255, 0, 0)
    expected[0, 4:] = (204, 204, 255)  # a fifth of blue
    forms = [picture, Image.fromarray(picture), (picture / 255).astype(np.float32), picture.astype(np.float64) / 255]
    for form in forms:
        np.testing.assert_array_equal(as_pixels(form), expected)
    assert [as_pixels(one).shape for one in split_pictures(np.stack([picture] * 2))] == [(8, 8, 3)] * 2
    grey = Image.fromarray(picture[..., [0, 3]])
    np.testing.assert_array_equal(as_pixels(grey)[1, 6], (255, 255, 255))
    palette = Image.new("P", (8, 8), 3)
    palette.info["transparency"] = 3
    assert as_pixels(palette).min() == 255


def test_a_tensor_with_four_channels_may_be_a_latent_and_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[3, height, width\], got \[4, 8, 8\]"):
        as_pixels(torch.zeros(4, 8, 8))
