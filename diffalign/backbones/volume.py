"""Volumes: a transformer over a cube of latents, on a linear flow (TRELLIS' first stage, the zoo's voxels)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from diffalign.backbones.adapter import Backbone, Trained
from diffalign.backbones.autoencoder import Posterior
from diffalign.backbones.fingerprint import autoencoder_identity
from diffalign.backbones.flow_times import flow_times, shift_of
from diffalign.backbones.volume_pipeline import VolumePipeline
from diffalign.denoising import LinearFlow, Prediction
from diffalign.exceptions import ConfigError
from diffalign.types import Condition

_NO_NOISE = -60.0  # log-variance of what is known exactly


class VolumeBackbone(Backbone):
    """Media are occupancy, float [batch, 1, X, Y, Z] in [0, 1], filled above 0.5; axes x, y, z, and z is up.

    Condition leaves: `states` [prompts, tokens, width]. A prompt is a text or, for a model that is shown pictures, the path
    of a picture file; guidance compares with the empty text, or with zeros. Cached states of a picture go by its path.

    TRELLIS' guidance (1 + w) c - w u is `ClassifierFree` with scale 1 + w.
    """

    family = "volume"
    medium = "volume"
    pipeline_class = VolumePipeline
    network_name = "transformer"
    process: LinearFlow
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_kv", "to_qkv", "to_out")  # DSO's configs

    def __init__(
        self, pipeline: DiffusionPipeline, *, trained: Trained | None = None, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__(pipeline, trained=trained, gradient_checkpointing=gradient_checkpointing)
        self.process = LinearFlow(shift=self.time_shift())
        self.prediction = Prediction.FLOW

    def predict(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        thousand = self.pipeline.scheduler.config.num_train_timesteps
        return self.wrapped(x_t.to(self.dtype), t * thousand, condition.leaves["states"])

    def _encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"states": self.pipeline.encode_prompt(prompts)}

    # ------------------------------------------------------------ occupancy

    def posterior(self, media: Float[Tensor, "batch 1 X Y Z"]) -> Posterior:
        """The autoencoder's Gaussian; where there is none, the occupancy itself from -1 to 1.

        Raises:
            ConfigError: the model has a decoder alone.
        """
        if self.pipeline.vae is None:
            mean = media.float().to(self.device) * 2 - 1
            return Posterior(mean, torch.full_like(mean, _NO_NOISE))
        self.encoders.need("vae")
        if self.pipeline.vae.encoder is None:
            raise ConfigError(
                "model.path: this model has a decoder and no encoder, so no volumes can be put into its latents; train on "
                "latents that it draws itself, or put ss_enc_*.json and .safetensors beside the decoder's"
            )
        return self.pipeline.vae.encode(media)

    def decode(self, x0: Float[Tensor, "batch channels x y z"]) -> Float[Tensor, "batch 1 X Y Z"]:
        """Occupancy of latents."""
        self.encoders.need("vae")
        return self.pipeline.occupancy(x0)

    def autoencoder_identity(self) -> str:
        if self.pipeline.vae is None:
            return hashlib.sha256(b"occupancy from -1 to 1").hexdigest()[:32]
        self.encoders.need("vae")
        return autoencoder_identity(self.pipeline.vae)

    def sample_shape(self, resolution: int | None = None) -> tuple[int, ...]:
        self.checked_resolution(resolution)
        return (self._channels, *[int(self._settings.resolution)] * 3)

    def checked_resolution(self, resolution: int | None) -> int:
        """Cells along a side.

        Raises:
            ConfigError: it is not the model's own: the positions are learnt for one size.
        """
        if resolution not in (None, self.resolution):
            raise ConfigError(
                f"data.resolution: this model works at {self.resolution} cells along a side alone, got {resolution}; "
                "leave it out"
            )
        return self.resolution

    @property
    def resolution(self) -> int:
        """Cells along a side of the occupancy."""
        return int(self._settings.resolution) * self._factor

    @property
    def largest_side(self) -> int:
        return self.resolution

    @property
    def _factor(self) -> int:
        return 1 if self.pipeline.vae is None else self.pipeline.vae.factor

    # ------------------------------------------------------------ times

    def times(self, steps: int, resolution: int | None = None) -> Float[Tensor, " times"]:
        even = [1 - step / steps for step in range(steps)]  # TRELLIS', which the shift then rescales
        return flow_times(self.pipeline.scheduler.config, steps, self._tokens(), even)

    def time_shift(self, resolution: int | None = None) -> float:
        return shift_of(self.pipeline.scheduler.config, self._tokens())

    def _tokens(self) -> int:
        return (int(self._settings.resolution) // int(self._settings.patch_size)) ** 3
