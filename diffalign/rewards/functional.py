"""Reward formulas as plain functions, for use without a reward object."""

from __future__ import annotations

import io
import math
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.diversity import diversity_within, picture_diversity, thumbnails
from diffalign.rewards.edit_distance import edit_distance, edit_reward
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
    "diversity_within",
    "edit_distance",
    "edit_reward",
    "frechet_distance",
    "frechet_infinity",
    "gaussian_statistics",
    "jpeg_kilobytes",
    "luma",
    "picture_diversity",
    "psnr",
    "ssim",
    "thumbnails",
    "vendi_score",
    "vendi_score_of",
]

Score = TypeVar("Score", float, Tensor)
Channel = Literal["y", "rgb"]
LARGEST_PSNR = 100.0  # dB; of equal pictures, which have no noise at all
SSIM_WINDOW = 11  # pixels a side
_LUMA = (65.481, 128.553, 24.966)  # of BT.601 with 16 for black and 235 for white, for RGB in [0, 1]


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


def luma(pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Luma of BT.601 in [16/255, 235/255], of RGB in [0, 1]: what super-resolution papers compare, not rounded."""
    weights = torch.tensor(_LUMA, dtype=pictures.dtype, device=pictures.device)
    return (torch.einsum("bchw,c->bhw", pictures, weights)[:, None] + 16) / 255


def psnr(
    pictures: Float[Tensor, "batch 3 height width"],
    references: Float[Tensor, "batch 3 height width"],
    *,
    channel: Channel = "y",
    crop_border: int = 0,
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio, `-10 log10(mean squared difference)` in dB, of pictures in [0, 1]; differentiable.

    At most 100 dB, which equal pictures get (BasicSR gives infinity, and 80 dB in its version for tensors): an infinite
    reward has no mean and no gradient. A single value of an RGB picture of 512x512 pixels that is off by 1/255 makes
    107 dB, so that no two pictures which differ visibly get 100.

    Args:
        pictures: RGB in [0, 1]; carries the gradient, which is 0 from 100 dB on.
        references: what they should be.
        channel: y compares luma (see `luma`) with 255 as the peak, as super-resolution papers do; rgb all values.
        crop_border: pixels at each side that do not count.

    Raises:
        ShapeError: different sizes, or nothing left of them.

    Source: as in BasicSR, basicsr/metrics/psnr_ssim.py.
    """
    one, other = _compared(pictures, references, channel, crop_border, least=1)
    error = (one - other).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(10 ** (-LARGEST_PSNR / 10)).log10()


def ssim(
    pictures: Float[Tensor, "batch 3 height width"],
    references: Float[Tensor, "batch 3 height width"],
    *,
    channel: Channel = "y",
    crop_border: int = 0,
) -> Float[Tensor, " batch"]:
    """Structural similarity, from -1 to 1 (equal), of pictures in [0, 1]; differentiable.

    Means, variances and covariance under a Gaussian window of 11x11 pixels (standard deviation 1.5) at every place where
    it fits in; K1 = 0.01, K2 = 0.03. The mean over places, and over channels. Take float64 for the fifth decimal: the
    variances are small differences.

    Args:
        pictures: RGB in [0, 1]; carries the gradient.
        references: what they should be.
        channel: y compares luma (see `luma`), rgb is the mean over the three channels.
        crop_border: pixels at each side that do not count.

    Raises:
        ShapeError: different sizes, or less than 11 pixels left of a side.

    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", eq. 13. As in
        BasicSR: no shrinking of large pictures first, and negative values stay (pyiqa cuts them off).
    """
    one, other = _compared(pictures, references, channel, crop_border, least=SSIM_WINDOW)
    maps = _blurred(torch.stack([one, other, one * one, other * other, one * other]))
    mean, mean_other, square, square_other, product = maps
    variances = square - mean**2 + square_other - mean_other**2
    covariance = product - mean * mean_other
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean * mean_other + c1) * (2 * covariance + c2)
    return (likeness / ((mean**2 + mean_other**2 + c1) * (variances + c2))).mean(dim=(1, 2, 3))


def _compared(
    pictures: Tensor, references: Tensor, channel: Channel, crop_border: int, least: int
) -> tuple[Tensor, Tensor]:
    """What counts of both, in float32 at least."""
    if pictures.shape != references.shape:
        raise ShapeError(
            f"pictures are {list(pictures.shape)} and references {list(references.shape)}; they must be of one size"
        )
    height, width = (side - 2 * crop_border for side in pictures.shape[-2:])
    if min(height, width) < least:
        raise ShapeError(
            f"pictures of {pictures.shape[-2]} x {pictures.shape[-1]} pixels are too small: {least} x {least} must be left "
            f"without {crop_border} at each side"
        )
    inner = slice(crop_border, crop_border + height), slice(crop_border, crop_border + width)
    kind = torch.promote_types(pictures.dtype, torch.float32)
    one, other = (each[..., inner[0], inner[1]].to(kind) for each in (pictures, references))
    return (luma(one), luma(other)) if channel == "y" else (one, other)


def _blurred(maps: Tensor) -> Tensor:
    """Means under the Gaussian window, at the places where it fits in."""
    weights = [math.exp(-((place - SSIM_WINDOW // 2) ** 2) / (2 * 1.5**2)) for place in range(SSIM_WINDOW)]
    for axis in (-2, -1):  # sums of shifted maps: on a CPU four times as fast as convolutions
        length = maps.shape[axis] - SSIM_WINDOW + 1
        total = torch.zeros_like(maps.narrow(axis, 0, length))
        for place, weight in enumerate(weights):
            total = total.add(maps.narrow(axis, place, length), alpha=weight / sum(weights))
        maps = total
    return maps
