"""Between occupancy and TRELLIS' dense latents: convolutions, written from the published layout.

Settings and the names of the tensors are those of microsoft/TRELLIS at 6b0d647 (`SparseStructureDecoder`,
`SparseStructureEncoder`), under `decoder.` and `encoder.` here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from diffalign.backbones.autoencoder import Posterior


class SparseStructureAutoencoder(ModelMixin, ConfigMixin):
    """Occupancy [batch, 1, x, y, z] to latents a few times smaller, and back.

    Args:
        decoder_settings: those of the published decoder: latent_channels, out_channels, channels (widths from the latent
            on), num_res_blocks, num_res_blocks_middle, norm_type ("layer" or "group").
        encoder_settings: those of the encoder; None: there is none, and nothing can be encoded.
    """

    @register_to_config
    def __init__(self, decoder_settings: Mapping[str, Any], encoder_settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.decoder = SparseStructureDecoder(**_known(decoder_settings))
        self.encoder = None if encoder_settings is None else SparseStructureEncoder(**_known(encoder_settings))

    @property
    def factor(self) -> int:
        """Cells along a side for each latent."""
        return 2 ** (len(self.config.decoder_settings["channels"]) - 1)

    @torch.no_grad()
    def decode(self, x0: Float[Tensor, "batch channels x y z"]) -> Float[Tensor, "batch 1 X Y Z"]:
        """How likely each cell is filled, in [0, 1]."""
        return torch.sigmoid(self.decoder(x0.to(self.device, self.dtype)).float())

    @torch.no_grad()
    def encode(self, occupancy: Float[Tensor, "batch 1 X Y Z"]) -> Posterior:
        """A Gaussian per element of the latent.

        Raises:
            ValueError: there is no encoder.
        """
        if self.encoder is None:
            raise ValueError("this autoencoder has no encoder")
        mean, log_variance = self.encoder(occupancy.to(self.device, self.dtype)).float().chunk(2, dim=1)
        return Posterior(mean, log_variance)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "use_fp16"}  # precision is the loader's


class SparseStructureDecoder(nn.Module):
    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: Sequence[int],
        num_res_blocks_middle: int = 2,
        norm_type: str = "layer",
    ) -> None:
        super().__init__()
        first, last = channels[0], channels[-1]
        self.input_layer = nn.Conv3d(latent_channels, first, 3, padding=1)
        self.middle_block = _residuals(first, num_res_blocks_middle)
        self.blocks = nn.ModuleList()
        for number, width in enumerate(channels):
            self.blocks.extend(ResidualBlock(width) for _ in range(num_res_blocks))
            if number < len(channels) - 1:
                self.blocks.append(Upsample(width, channels[number + 1]))
        self.out_layer = nn.Sequential(norm(norm_type, last), nn.SiLU(), nn.Conv3d(last, out_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of occupancy."""
        hidden = self.middle_block(self.input_layer(x))
        for block in self.blocks:
            hidden = block(hidden)
        return self.out_layer(hidden)


class SparseStructureEncoder(nn.Module):
    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: Sequence[int],
        num_res_blocks_middle: int = 2,
        norm_type: str = "layer",
    ) -> None:
        super().__init__()
        last = channels[-1]
        self.input_layer = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for number, width in enumerate(channels):
            self.blocks.extend(ResidualBlock(width) for _ in range(num_res_blocks))
            if number < len(channels) - 1:
                self.blocks.append(Downsample(width, channels[number + 1]))
        self.middle_block = _residuals(last, num_res_blocks_middle)
        self.out_layer = nn.Sequential(
            norm(norm_type, last), nn.SiLU(), nn.Conv3d(last, 2 * latent_channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mean and log-variance, one behind the other along the channels."""
        hidden = self.input_layer(x)
        for block in self.blocks:
            hidden = block(hidden)
        return self.out_layer(self.middle_block(hidden))


def _residuals(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity; its norms are by layer, whatever `norm_type` the last one has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.conv1 = nn.Conv3d(width, width, 3, padding=1)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Upsample(nn.Module):
    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, 8 * out_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Eight channels become a small cube, each axis twice as long."""
        eight = self.conv(x)
        batch, channels, *sides = eight.shape
        cubes = eight.reshape(batch, channels // 8, 2, 2, 2, *sides).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return cubes.reshape(batch, channels // 8, *(2 * side for side in sides))


class Downsample(nn.Module):
    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, out_width, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each cell, computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(1, -1).float()
        normed = F.layer_norm(last, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return normed.movedim(-1, 1).to(x.dtype)


class WideGroupNorm(nn.GroupNorm):
    """A group norm that is computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


def norm(norm_type: str, width: int) -> nn.Module:
    """Over the channels of each cell ("layer"), or over groups of channels ("group")."""
    if norm_type not in ("layer", "group"):
        raise ValueError(f"norm_type: must be 'layer' or 'group', got {norm_type!r}")
    return ChannelNorm(width) if norm_type == "layer" else WideGroupNorm(32, width)
