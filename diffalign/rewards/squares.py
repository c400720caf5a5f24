"""Pictures as models of CLIP's kin take them: squares of one size, with CLIP's mean and deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffalign.rewards.pictures import Pixels

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# crop: the shorter side becomes `side` and the centre is cut out (transformers' CLIP); centre: the same, where an odd rest
# is halved as torchvision's CenterCrop does it; pad: the longer side becomes `side`, with black around (open_clip's
# ResizeMaxSize, which HPSv2 is scored with)
Fit = Literal["crop", "centre", "pad"]


def square(pixels: Pixels, side: int, fit: Fit) -> Pixels:
    """A picture scaled to side x side, [side, side, 3], with Pillow's bicubic."""
    height, width = pixels.shape[:2]
    high, wide = _size_of(height, width, side, fit)
    picture = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC)
    if fit == "pad":
        ground = Image.new("RGB", (side, side))
        ground.paste(picture, ((side - wide) // 2, (side - high) // 2))
        return np.asarray(ground)
    left, top = _start(wide - side, fit), _start(high - side, fit)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


def squares(pictures: Sequence[Pixels], side: int, fit: Fit) -> Float[Tensor, "batch 3 side side"]:
    """Pictures scaled as `square` does, in [0, 1]."""
    rows = np.stack([square(pixels, side, fit) for pixels in pictures])
    return torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 255


def square_tensors(
    pictures: Float[Tensor, "batch 3 height width"], side: int, fit: Fit
) -> Float[Tensor, "batch 3 side side"]:
    """The same with gradients to the pictures, in [0, 1]. Antialiased bicubic on floats: not rounded as Pillow does."""
    height, width = pictures.shape[-2:]
    new = _size_of(height, width, side, fit)
    scaled = F.interpolate(pictures, size=new, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    if fit == "pad":
        down, right = (side - new[0], side - new[1])
        return F.pad(scaled, (right // 2, right - right // 2, down // 2, down - down // 2))
    top, left = _start(new[0] - side, fit), _start(new[1] - side, fit)
    return scaled[..., top : top + side, left : left + side]


def normalised(pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Pictures in [0, 1] less CLIP's mean, over CLIP's deviation."""
    mean, std = (torch.tensor(each, device=pictures.device)[:, None, None] for each in (MEAN, STD))
    return (pictures - mean) / std


def _start(rest: int, fit: Fit) -> int:
    """Where the cut begins, of what is left over at both sides together."""
    return round(rest / 2) if fit == "centre" else rest // 2


def _size_of(height: int, width: int, side: int, fit: Fit) -> tuple[int, int]:
    if fit == "pad":
        scale = side / max(height, width)
        return max(round(height * scale), 1), max(round(width * scale), 1)
    short = min(height, width)
    return (side, int(side * width / short)) if height <= width else (int(side * height / short), side)
