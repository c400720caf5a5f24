"""The media side of a pipeline: its autoencoder, and the sizes of media and latents that fit the network."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from diffalign.backbones.autoencoder import Posterior, pictures_of, posterior_of
from diffalign.backbones.encoders import Encoders
from diffalign.backbones.fingerprint import autoencoder_identity
from diffalign.backbones.limits import check_resolution


class LatentSpace:
    """Media to latents [batch, C, ...] and back; pictures, float [batch, 3, H, W] in [0, 1], where a family says no other.

    Attributes:
        medium: what is drawn: "image", or "volume" (occupancy, float [batch, 1, X, Y, Z] in [0, 1], z up).
        crop_leaf: name of the leaf [groups, members, 6] that tells the network how a picture was cropped, or None.
    """

    pipeline: DiffusionPipeline
    network: nn.Module
    encoders: Encoders
    medium: ClassVar[str] = "image"
    crop_leaf: ClassVar[str | None] = None

    def posterior(self, media: Float[Tensor, "batch *medium"]) -> Posterior:
        """The autoencoder's Gaussian, scaled to x0."""
        self.encoders.need("vae")
        return posterior_of(self.pipeline.vae, media)

    def encode(
        self, media: Float[Tensor, "batch *medium"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch *sample"]:
        """x0 of media: the posterior's mean, or a draw from it."""
        posterior = self.posterior(media)
        if generator is None:
            return posterior.mean
        noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device)
        return posterior.mean + (posterior.log_variance / 2).exp() * noise.to(posterior.mean.device)

    def decode(self, x0: Float[Tensor, "batch *sample"]) -> Float[Tensor, "batch *medium"]:
        """Media in [0, 1] of latents."""
        self.encoders.need("vae")
        return pictures_of(self.pipeline.vae, x0)

    def autoencoder_identity(self) -> str:
        """A hash that shipped latents go by: the autoencoder's weights and scale, in whichever precision it is loaded."""
        self.encoders.need("vae")
        return autoencoder_identity(self.pipeline.vae)

    def sample_shape(self, resolution: int | None = None) -> tuple[int, ...]:
        """Shape of one x0 for square pictures of `resolution` pixels; None: the model's own.

        Raises:
            ConfigError: the model has no latents of that size.
        """
        side = self.checked_resolution(resolution) // self._factor
        return (self._channels, side, side)

    def media_shape(self, resolution: int | None = None) -> tuple[int, ...]:
        """Shape of what one x0 is decoded to.

        Raises:
            ConfigError: the model has no media of that size.
        """
        side = self.checked_resolution(resolution)
        return (3, side, side) if self.medium == "image" else (1, side, side, side)

    def checked_resolution(self, resolution: int | None) -> int:
        """The resolution, if the model can work at it; None: the model's own.

        Raises:
            ConfigError: it is not a positive multiple of what the model needs, or larger than the model can place.
        """
        if resolution is None:
            return self.resolution
        return check_resolution(resolution, self._resolution_unit, self._max_resolution)

    @property
    def largest_side(self) -> int | None:
        """Pixels along a side that the model can place at most; None: any number."""
        return self._max_resolution

    @property
    def resolution(self) -> int:
        """Pixels along a side that the model was trained for."""
        return int(self._settings.sample_size) * self._factor

    @property
    def _channels(self) -> int:
        """Of a latent."""
        return int(self._settings.in_channels)

    @property
    def _resolution_unit(self) -> int:
        """Pixels along a side come in multiples of this."""
        return self._factor

    @property
    def _max_resolution(self) -> int | None:
        return None

    @property
    def _settings(self) -> Any:
        return self.network.config  # diffusers' own config object

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
