"""Sound and video files, read into arrays: what kind of medium a file is, its samples, its frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from diffalign.data.sound_length import promised_samples
from diffalign.exceptions import DataError, MissingExtraError
from diffalign.rgb import as_rgb

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff"}
VIDEOS = {".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif"}
SHAPES = {".glb", ".gltf", ".obj", ".off", ".ply", ".stl"}
MEDIA_FILES = PICTURES | SOUNDS | VIDEOS | SHAPES
_LOSSY = {"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"}  # pass full scale where they decode
_GIF = b"GIF8"
_FRAME_MS = 100.0  # of an animation that says 0, as browsers show it


def media_of(file: Path) -> tuple[str, ...]:
    """What a file is by its ending: image, audio, video, mesh; a GIF is a picture and a video. () if unknown."""
    ending = file.suffix.lower()
    kinds = (("image", PICTURES), ("audio", SOUNDS), ("video", VIDEOS), ("mesh", SHAPES))
    return tuple(medium for medium, endings in kinds if ending in endings)


def read_sound(content: bytes, record: str) -> tuple[NDArray[np.float32], int]:
    """The samples of a sound file, float32 [channels, samples] with full scale [-1, 1], and how many a second.

    What a lossy format decodes to above full scale is clipped, as players do.

    Raises:
        MissingExtraError: soundfile is not installed.
        DataError: not a sound, or a damaged one, or one that is cut short; names the record.
    """
    try:
        import soundfile
    except ImportError:
        raise MissingExtraError("sound files need soundfile; install it: pip install 'diffalign[audio]'") from None
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            samples = file.read(dtype="float32", always_2d=True).T
            told, lossy, rate = file.frames, file.subtype in _LOSSY, int(file.samplerate)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        # its text has an address in it, another one in every process
        why = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise DataError(f"record {record!r}: not a readable sound ({why}); {len(content)} bytes") from None
    there = samples.shape[1]
    if there < (promised := promised_samples(content, told, there)):
        raise DataError(
            f"record {record!r}: the file is cut short: its header says {promised} samples, {there} are there"
        )
    if not samples.size:
        raise DataError(f"record {record!r}: a sound without samples")
    return np.ascontiguousarray(samples.clip(-1, 1) if lossy else samples), rate


def read_video(content: bytes, record: str) -> tuple[NDArray[np.uint8], float]:
    """The frames of a video, uint8 [frames, height, width, 3], RGB, and how many a second (of a varying rate, the mean).

    Raises:
        MissingExtraError: PyAV is not installed; a GIF does not need it.
        DataError: not a video, or a damaged one; names the record.
    """
    frames, fps = _animation(content, record) if content.startswith(_GIF) else _stream(content, record)
    if not frames:
        raise DataError(f"record {record!r}: a video without frames")
    if len({frame.shape for frame in frames}) > 1:
        raise DataError(f"record {record!r}: the frames of the video have several sizes")
    return np.stack(frames), fps


def _animation(content: bytes, record: str) -> tuple[list[NDArray[np.uint8]], float]:
    frames, milliseconds = [], 0.0
    try:
        with Image.open(io.BytesIO(content)) as picture:
            for frame in ImageSequence.Iterator(picture):
                frames.append(np.asarray(as_rgb(frame)))
                milliseconds += frame.info.get("duration", 0) or _FRAME_MS
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"record {record!r}: not a readable video ({error}); {len(content)} bytes") from None
    return frames, 1000 * len(frames) / milliseconds if frames else 0.0


def _stream(content: bytes, record: str) -> tuple[list[NDArray[np.uint8]], float]:
    try:
        import av
    except ImportError:
        raise MissingExtraError("video files need PyAV; install it: pip install 'diffalign[video]'") from None
    try:
        with av.open(io.BytesIO(content), mode="r") as container:
            if not container.streams.video:
                raise DataError(f"record {record!r}: a file without a picture track")
            stream = container.streams.video[0]
            frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(stream)]
            rate = stream.average_rate or stream.guessed_rate
    except (av.FFmpegError, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"record {record!r}: not a readable video ({error}); {len(content)} bytes") from None
    if not rate:
        raise DataError(f"record {record!r}: a video that does not say how many frames it has a second")
    return frames, float(rate)
