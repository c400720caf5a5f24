"""What rewards look at: pictures, video, audio and shapes, and the one form in which each is judged.

Pictures are uint8 [height, width, 3] (see `pictures.py`), shapes meshes or voxels (see `shapes.py`); video and audio are
the two classes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.pictures import as_pixels, split_pictures
from diffalign.rewards.shapes import as_shape, split_shapes

_CLIPPING = 1e-4  # by how much a resampler or a decoder may pass full scale


class Audio:
    """Sound.

    Attributes:
        waveform: float32 [channels, samples], full scale is [-1, 1].
        rate: samples a second.
    """

    def __init__(self, waveform: Any, rate: int) -> None:
        """Take a waveform, an array or a tensor of floats, [channels, samples] or [samples].

        Raises:
            ShapeError: another number of axes, no samples, or more channels than samples.
            DataError: values that are not finite or not in [-1, 1], or a rate that is not positive.
        """
        wave = waveform.detach().to("cpu").numpy() if isinstance(waveform, Tensor) else np.asarray(waveform)
        if wave.dtype.kind != "f":
            raise DataError(f"a waveform must be float in [-1, 1], got {wave.dtype}; divide 16-bit samples by 32768")
        wave = wave[None] if wave.ndim == 1 else wave
        if wave.ndim != 2 or not wave.size or wave.shape[0] > wave.shape[1]:
            raise ShapeError(f"a waveform must be [channels, samples] or [samples], got {list(wave.shape)}")
        if not np.isfinite(wave).all():
            raise DataError(
                f"{np.count_nonzero(~np.isfinite(wave))} of {wave.size} values of the waveform are not finite"
            )
        if (peak := float(np.abs(wave).max())) > 1 + _CLIPPING:
            raise DataError(f"a waveform must lie in [-1, 1], got a peak of {peak:.4g}; scale it, or clip it")
        if not rate > 0:
            raise DataError(f"a rate must be samples a second, 1 or more, got {rate}")
        self.waveform: NDArray[np.float32] = wave.astype(np.float32).clip(-1, 1)
        self.rate = int(rate)

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.waveform.shape[1] / self.rate

    def mono(self) -> NDArray[np.float32]:
        """The mean of its channels, float32 [samples]."""
        mean: NDArray[np.float32] = self.waveform.mean(0, dtype=np.float32)
        return mean


class Video:
    """Frames at a steady rate.

    Attributes:
        frames: uint8 [frames, height, width, 3], RGB.
        fps: frames a second.
    """

    def __init__(self, frames: Any, fps: float) -> None:
        """Take frames: what a batch of pictures may be (see `split_pictures`), all of one size.

        Raises:
            ShapeError: another number of axes or channels, no frames, or frames of several sizes.
            DataError: floats that are not finite or not in [0, 1], or an fps that is not positive.
        """
        pictures = [as_pixels(frame) for frame in split_pictures(frames)]
        sizes = sorted({picture.shape[:2] for picture in pictures})
        if len(sizes) != 1:
            raise ShapeError(f"the frames of a video must have one size, got {sizes or 'no frames'}")
        if not 0 < fps < float("inf"):
            raise DataError(f"fps must be frames a second, above 0, got {fps}")
        self.frames: NDArray[np.uint8] = np.stack(pictures)
        self.fps = float(fps)

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.frames) / self.fps


class Medium(NamedTuple):
    """How samples of one kind of media come.

    Attributes:
        split: takes a batch, as people hand it over, apart into samples.
        read: turns one sample into the form in which it is judged. DataError or ShapeError: it cannot be.
        one: what a sample is called.
        several: what samples are called.
    """

    split: Callable[[Any], list[Any]]
    read: Callable[[Any], Any]
    one: str
    several: str


def as_audio(media: Any) -> Audio:
    """The sound itself.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(media, Audio):
        raise DataError(f"sound must be an Audio(waveform, rate), got {type(media).__name__}")
    return media


def as_video(media: Any) -> Video:
    """The video itself.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(media, Video):
        raise DataError(f"a video must be a Video(frames, fps), got {type(media).__name__}")
    return media


def _split_list(kind: type, how: str) -> Callable[[Any], list[Any]]:
    def split(media: Any) -> list[Any]:
        if isinstance(media, kind):
            return [media]
        if not isinstance(media, list | tuple):
            raise DataError(f"media must be {how} or a list of them, got {type(media).__name__}")
        return list(media)

    return split


MEDIA: dict[str, Medium] = {
    "image": Medium(split_pictures, as_pixels, "picture", "pictures"),
    "video": Medium(_split_list(Video, "a Video(frames, fps)"), as_video, "video", "videos"),
    "mesh": Medium(split_shapes, as_shape, "shape", "shapes"),
    "audio": Medium(_split_list(Audio, "an Audio(waveform, rate)"), as_audio, "sound", "sounds"),
}
