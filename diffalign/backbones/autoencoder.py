"""Pictures to latents and back, through a diffusers autoencoder, in the units that the network was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """What the autoencoder knows of a picture, in the units of x0: a Gaussian per element.

    Attributes:
        mean, log_variance: [batch, *sample].
    """

    mean: Float[Tensor, "batch *sample"]
    log_variance: Float[Tensor, "batch *sample"]


@torch.no_grad()
def posterior_of(vae: Any, media: Float[Tensor, "batch 3 height width"]) -> Posterior:
    """The autoencoder's Gaussian of pictures in [0, 1], scaled to x0."""
    scale, shift = _scale_and_shift(vae)
    pictures = (media * 2 - 1).to(vae.device, vae.dtype, memory_format=torch.channels_last)  # convolves faster
    seen = vae.encode(pictures).latent_dist
    log_scale = 2 * torch.tensor(scale).log().item()
    return Posterior((seen.mean.float() - shift) * scale, seen.logvar.float() + log_scale)


@torch.no_grad()
def pictures_of(vae: Any, x0: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch 3 height width"]:
    """Pictures in [0, 1] of latents."""
    scale, shift = _scale_and_shift(vae)
    return (vae.decode((x0 / scale + shift).to(vae.device, vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)


def _scale_and_shift(vae: Any) -> tuple[float, float]:
    return vae.config.scaling_factor, vae.config.get("shift_factor") or 0.0
