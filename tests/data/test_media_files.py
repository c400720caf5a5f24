"""Sound and video files come back as what was written, and what cannot be read says which record it is of."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from diffalign.data.media_files import media_of, read_sound, read_video
from diffalign.exceptions import DataError
from tests.data.pictures import picture_file


def tone(rate: int = 8000, channels: int = 1, loudness: float = 0.5) -> np.ndarray:
    wave = loudness * np.sin(2 * np.pi * 440 * np.arange(rate // 4) / rate)
    return np.tile(wave.astype(np.float32)[:, None], (1, channels))


def sound_file(form: str, samples: np.ndarray, rate: int = 8000, **more: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, **more)
    return file.getvalue()


def video_file(frames: np.ndarray, fps: int = 12) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def grey_frames(count: int = 5, height: int = 32, width: int = 48) -> np.ndarray:
    return np.stack([np.full((height, width, 3), 40 + 30 * step, np.uint8) for step in range(count)])


@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_sound_comes_back(channels):
    wave = tone(channels=channels)
    for form, apart in (("WAV", 1 / 32768), ("FLAC", 1 / 32768)):
        seen, rate = read_sound(sound_file(form, wave, subtype="PCM_16"), "r")
        assert (seen.shape, seen.dtype, rate) == ((channels, 2000), np.float32, 8000)
        assert np.abs(seen - wave.T).max() <= apart
    seen, _ = read_sound(sound_file("WAV", wave, subtype="FLOAT"), "r")
    assert np.array_equal(seen, wave.T)


def test_lossy_sound_above_full_scale_is_clipped_and_a_float_file_is_left_to_whoever_judges_it():
    square = np.sign(tone(loudness=1.0))
    assert np.abs(soundfile.read(io.BytesIO(sound_file("OGG", square)), dtype="float32")[0]).max() > 1.0
    seen, _ = read_sound(sound_file("OGG", square), "r")
    assert np.abs(seen).max() == 1.0
    loud, _ = read_sound(sound_file("WAV", 3 * square, subtype="FLOAT"), "r")
    assert np.abs(loud).max() == 3.0


def test_video_has_its_frames_and_rate():
    frames = grey_frames()
    seen, fps = read_video(video_file(frames), "r")
    assert (seen.shape, seen.dtype, fps) == (frames.shape, np.uint8, 12.0)
    assert np.abs(seen.astype(int) - frames).max() <= 4  # the codec's


def test_an_animation_is_a_video_too():
    file = io.BytesIO()
    pictures = [Image.fromarray(frame) for frame in grey_frames(4)]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=50)
    seen, fps = read_video(file.getvalue(), "r")
    assert np.array_equal(seen, grey_frames(4)) and fps == pytest.approx(20)


@pytest.mark.parametrize("read", [read_sound, read_video])
def test_what_cannot_be_read_names_the_record(read):
    what = "sound" if read is read_sound else "video"
    for content in (b"", b"nothing of it", picture_file(1)):
        if read is read_video and content[:4] == b"\x89PNG":
            continue  # FFmpeg takes a picture for a video of one frame
        with pytest.raises(DataError, match=rf"record 'r7': not a readable {what}"):
            read(content, "r7")
    with pytest.raises(DataError, match="record 'r7': a sound without samples"):
        read_sound(sound_file("WAV", np.zeros((0, 1), np.float32)), "r7")


@pytest.mark.parametrize(
    ("form", "subtype", "promised"),
    [
        ("WAV", "PCM_16", 2000),
        ("WAV", "FLOAT", 2000),
        ("WAVEX", "PCM_24", 2000),
        ("RF64", "PCM_16", 2000),
        ("WAV", "IMA_ADPCM", 2020),  # whole blocks
        ("AIFF", "PCM_16", 2000),
    ],
)
def test_a_sound_that_is_cut_short_is_no_sound(form, subtype, promised):
    whole = sound_file(form, tone(), subtype=subtype)
    assert read_sound(whole, "r")[0].shape[1] >= 2000
    with pytest.raises(
        DataError, match=f"record 'r': the file is cut short: its header says {promised} samples, [0-9]+ are"
    ):
        read_sound(whole[: len(whole) // 2], "r")


def test_an_mp3_that_is_cut_short_is_no_sound():
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (24_000, 1)).astype(np.float32)
    whole = sound_file("MP3", noise)
    assert read_sound(whole, "r")[0].shape[1] == 24_000
    with pytest.raises(DataError, match="cut short: its header says 24000 samples"):
        read_sound(whole[: len(whole) // 2], "r")


def test_a_sound_of_a_pipe_does_not_know_its_length():
    whole = sound_file("WAV", tone(), subtype="PCM_16")
    at = whole.index(b"data") + 4
    for size in (b"\xff\xff\xff\xff", b"\x00\x00\xff\x7f"):
        assert read_sound(whole[:at] + size + whole[at + 4 :], "r")[0].shape == (1, 2000)


def test_endings_say_the_medium():
    kinds = {"a.PNG": ("image",), "a.flac": ("audio",), "a.webm": ("video",), "a.gif": ("image", "video"), "a.txt": ()}
    assert {name: media_of(Path(name)) for name in kinds} == kinds
