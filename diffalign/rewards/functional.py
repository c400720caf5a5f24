"""Reward formulas as plain functions, for use without a reward object."""

from __future__ import annotations

import io
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffalign.exceptions import DataError
from diffalign.rewards.pictures import as_pixels
from diffalign.rewards.set_functional import (
    Extrapolation,
    Gaussian,
    frechet_distance,
    frechet_infinity,
    gaussian_statistics,
    vendi_score,
    vendi_score_of,
)

__all__ = [
    "Extrapolation",
    "Gaussian",
    "corrected_score",
    "frechet_distance",
    "frechet_infinity",
    "gaussian_statistics",
    "jpeg_kilobytes",
    "picture_diversity",
    "thumbnails",
    "vendi_score",
    "vendi_score_of",
]

Score = TypeVar("Score", float, Tensor)
_ROWS = 256  # pictures that are compared with all others at a time


def jpeg_kilobytes(image: Any, quality: int = 95) -> float:
    """Size of the picture as a JPEG file, in kB (1000 bytes).

    Args:
        image: PIL, uint8 array [height, width, 3], or float tensor [3, height, width] in [0, 1] (rounded to uint8).
        quality: of Pillow's encoder, 1 to 100, with its default chroma subsampling.

    The size depends on the resolution, and by about a percent on the version of libjpeg.

    Source: Black et al. 2023, "Training Diffusion Models with Reinforcement Learning", the compressibility reward.
    """
    buffer = io.BytesIO()
    Image.fromarray(as_pixels(image)).save(buffer, format="JPEG", quality=quality)
    return len(buffer.getvalue()) / 1000


def corrected_score(reward: Score, quality: Score, floor: float = 3.0, shift: float = 0.2) -> Score:
    """A reward discounted by general quality, `reward (quality - floor) + shift`: falls when a reward is hacked.

    Args:
        reward: mean reward of the evaluated model.
        quality: mean of a judge's sub-scores, 1 to 5. Below `floor` the product is negative: it is kept.
        floor: about the least quality that is seen.
        shift: moves the curve for plotting only.

    A trend marker, not a calibrated measure: report reward, quality and this number together.

    Source: Wang et al. 2026, "GDRO: Group-level Reward Post-training Suitable for Diffusion Models", corrected score.
    """
    seen = torch.as_tensor(quality)
    if bool(((seen < 1) | (seen > 5)).any()):
        raise DataError(
            f"quality must lie in [1, 5], got values from {seen.min().item():.4g} to {seen.max().item():.4g}"
        )
    return reward * (quality - floor) + shift


def picture_diversity(pictures: Float[Tensor, "batch 3 height width"]) -> float:
    """Mean distance between two different pictures of a set: root mean square over pixels in [0, 1].

    Pictures are compared as their thumbnails. Falls towards 0 when all pictures become alike. 0 for fewer than two.
    """
    flat = thumbnails(pictures).flatten(1)
    count = len(flat)
    if count < 2:
        return 0.0
    total = 0.0
    for start in range(0, count, _ROWS):
        apart = torch.cdist(flat[start : start + _ROWS], flat[start:], compute_mode="donot_use_mm_for_euclid_dist")
        total += apart.triu(1).sum(dtype=torch.float64).item()  # each pair once
    return total / (count * (count - 1) / 2) / flat.shape[1] ** 0.5


def thumbnails(
    pictures: Float[Tensor, "batch 3 height width"], longest: int = 64
) -> Float[Tensor, "batch 3 thumbnail_height thumbnail_width"]:
    """Pictures with their longest side reduced to `longest` pixels by averaging over boxes; smaller ones as they are."""
    height, width = pictures.shape[-2:]
    if max(height, width) <= longest:
        return pictures.float()
    scale = longest / max(height, width)
    return F.adaptive_avg_pool2d(pictures.float(), (max(1, round(height * scale)), max(1, round(width * scale))))
