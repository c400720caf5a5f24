"""What Qwen2-VL sees of a video: which frames, at which size, cut into patches. As VideoAlign's vision_process.py does it.

The patches are made here and not by transformers' processor, which needs torchvision.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from diffalign.exceptions import DataError
from diffalign.rewards.squares import normalised

PATCH, MERGE, DEEP = 14, 2, 2  # pixels a side; patches a side that become one token; frames in a patch
CELL = PATCH * MERGE  # a frame's sides are multiples of this
LEAST_PIXELS = 128 * CELL * CELL  # a smaller frame is enlarged
LEAST_FRAMES, MOST_FRAMES = 4, 768
_MOST_RATIO = 200  # of a frame's sides


def frame_places(frames: int, fps: float, *, wanted: float) -> list[int]:
    """Which frames are seen: evenly from the first to the last, an even number of them, about `wanted` a second.

    At least 4 where there are as many, and at most 768.

    Args:
        frames: how many there are.
        fps: at which rate.
        wanted: how many a second are to be seen.

    Raises:
        DataError: there are fewer than two.
    """
    most = min(MOST_FRAMES, frames) // DEEP * DEEP
    count = round(min(max(frames / fps * wanted, LEAST_FRAMES), most) / DEEP) * DEEP
    if count < DEEP:
        raise DataError(f"a video must have {DEEP} frames or more to be scored, got {frames}")
    places: list[int] = torch.linspace(0, frames - 1, count).round().long().tolist()
    return places


def frame_size(height: int, width: int, *, most: int) -> tuple[int, int]:
    """The size that a frame is scaled to: multiples of 28, 100,352 to `most` pixels, its shape nearly kept.

    Raises:
        DataError: one side is more than 200 times the other.
    """
    if max(height, width) > _MOST_RATIO * min(height, width):
        raise DataError(f"a frame's sides may differ {_MOST_RATIO} times, got {height} x {width}")
    high, wide = (max(round(side / CELL), 1) * CELL for side in (height, width))
    if high * wide > most:
        scale = math.sqrt(height * width / most)
        return max(int(height / scale) // CELL, 1) * CELL, max(int(width / scale) // CELL, 1) * CELL
    if high * wide < LEAST_PIXELS:
        scale = math.sqrt(LEAST_PIXELS / (height * width))
        return math.ceil(height * scale / CELL) * CELL, math.ceil(width * scale / CELL) * CELL
    return high, wide


def scaled_frames(
    frames: UInt8[Tensor, "frames height width 3"], size: tuple[int, int]
) -> Float[Tensor, "frames 3 high wide"]:
    """Frames scaled with antialiased bicubic, rounded to 1/255, in [0, 1]."""
    values = frames.permute(0, 3, 1, 2).float()
    if values.shape[-2:] != size:
        values = F.interpolate(values, size=size, mode="bicubic", antialias=True, align_corners=False)
    return values.clamp(0, 255).round() / 255


def patches_of(frames: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "patches values"]:
    """Patches of 14 x 14 pixels and 2 frames, as Qwen2-VL's vision tower takes them: the 4 that become a token in a row.

    Args:
        frames: in [0, 1], an even number, sides multiples of 28; CLIP's mean and deviation are taken out here.
    """
    count, channels, height, width = frames.shape
    cells = normalised(frames).reshape(
        *(count // DEEP, DEEP, channels),
        *(height // CELL, MERGE, PATCH),
        *(width // CELL, MERGE, PATCH),
    )
    return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * DEEP * PATCH * PATCH)
