"""Likeness to a reference picture: PSNR and SSIM, as super-resolution papers measure them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, get_args

import torch
from torch import Tensor

from diffalign.exceptions import ConfigError, ShapeError
from diffalign.rewards.functional import LARGEST_PSNR, Channel, psnr, ssim
from diffalign.rewards.pictures import Pixels, reference_pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward

__all__ = ["PSNRReward", "SSIMReward", "reference_of"]


class FullReferenceReward(SampleReward):
    """A reward that compares a picture with the one of its sample's metadata, both rounded to 8 bits."""

    components = ()

    def __init__(self, *, channel: Channel = "y", crop_border: int = 0) -> None:
        """Say what counts.

        Args:
            channel: y compares luma (BT.601, 16 to 235), rgb all values.
            crop_border: pixels at each side that do not count; super-resolution papers take the scale.

        Raises:
            ConfigError: names the argument.
        """
        self.channel, self.crop_border = channel, crop_border
        self.spec = self._spec()
        if channel not in get_args(Channel):
            raise ConfigError(f"{self.spec.name}.channel: must be 'y' or 'rgb', got {channel!r}")
        if crop_border < 0:
            raise ConfigError(f"{self.spec.name}.crop_border: must be >= 0, got {crop_border}")

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        reference = reference_of(sample.metadata, pixels)
        return self._likeness(_as_tensor(pixels), _as_tensor(reference)).item(), {}

    @abstractmethod
    def _likeness(self, picture: Tensor, reference: Tensor) -> Tensor:
        """Of one picture in float64."""

    @abstractmethod
    def _spec(self) -> RewardSpec: ...


class PSNRReward(FullReferenceReward):
    """Peak signal-to-noise ratio of a picture against its reference, `10 log10(255^2 / mean squared difference)`.

    The reference is `Sample.metadata["reference"]`: a picture in any form that a reward takes, or a path to one.

    Range: (0, 100] dB, 20 to 40 for usual restorations; equal pictures get 100, which is the cap. Higher is better.
    Differentiable: not by itself; `diffalign.rewards.functional.psnr` is.
    Source: as in BasicSR, in luma or RGB.
    """

    def _likeness(self, picture: Tensor, reference: Tensor) -> Tensor:
        return psnr(picture, reference, channel=self.channel, crop_border=self.crop_border)

    def _spec(self) -> RewardSpec:
        return RewardSpec(
            name="psnr",
            version=f"1-{self.channel}-b{self.crop_border}",
            media="image",
            level="instance",
            unit="dB",
            range=(0.0, LARGEST_PSNR),
            differentiable=False,
            licence="Apache-2.0",
            needs=("reference",),
            source="peak signal-to-noise ratio as in BasicSR (Y by BT.601, 16 to 235)",
        )


class SSIMReward(FullReferenceReward):
    """Structural similarity of a picture and its reference: local means, variances and covariance.

    The reference is `Sample.metadata["reference"]`: a picture in any form that a reward takes, or a path to one.

    Range: [-1, 1]; 1 for equal pictures, 0.6 to 0.95 for usual restorations. Higher is better. Pictures need 11 pixels a
    side within the border. Differentiable: not by itself; `diffalign.rewards.functional.ssim` is.
    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """

    def _likeness(self, picture: Tensor, reference: Tensor) -> Tensor:
        return ssim(picture, reference, channel=self.channel, crop_border=self.crop_border)

    def _spec(self) -> RewardSpec:
        return RewardSpec(
            name="ssim",
            version=f"1-{self.channel}-b{self.crop_border}",
            media="image",
            level="instance",
            unit="1",
            range=(-1.0, 1.0),
            differentiable=False,
            licence="Apache-2.0",
            needs=("reference",),
            source='Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity"',
        )


def reference_of(metadata: Any, pixels: Pixels) -> Pixels:
    """The picture that a sample is compared with, out of its metadata.

    Raises:
        DataError: there is none, or it cannot be read.
        ShapeError: it has another size than the sample, `pixels`.
    """
    reference = reference_pixels(metadata)
    if reference.shape != pixels.shape:
        sizes = [f"{each.shape[0]} x {each.shape[1]}" for each in (pixels, reference)]
        raise ShapeError(f"the picture has {sizes[0]} pixels and its reference {sizes[1]}; they must be of one size")
    return reference


def _as_tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() / 255
