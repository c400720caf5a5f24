"""FLUX.1: a transformer over packed 16-channel latents, on a linear flow, that may be told a guidance scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from jaxtyping import Float
from torch import Tensor

from diffalign.backbones.adapter import Backbone, Trained
from diffalign.backbones.flow_times import flow_times, shift_of
from diffalign.denoising import LinearFlow, Prediction
from diffalign.exceptions import ConfigError
from diffalign.types import Condition

_PATCH = 2  # latents along a side of a token


class FluxBackbone(Backbone):
    """Condition leaves: `states` [prompts, tokens, width] of T5 and `pooled` [prompts, width] of CLIP.

    A condition made for sampling may have `guidance` [prompts] besides. Outside, latents are [batch, 16, h, w]; two by two
    they become the tokens that the transformer takes.

    Args:
        max_sequence_length: tokens of T5; diffusers' default is 512.
        guidance: the scale that a guidance-distilled network (FLUX.1-dev) is told in training; diffusers'
            train_dreambooth_lora_flux.py uses 3.5 as its option's default and 1 in its README's command for dev.
    """

    family = "flux"
    pipeline_class = FluxPipeline
    network_name = "transformer"
    process: LinearFlow
    # diffusers' train_dreambooth_lora_flux.py; the attention's names are also those of the single-stream blocks
    lora_targets = (
        "attn.to_k",
        "attn.to_q",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_k_proj",
        "attn.add_q_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        trained: Trained | None = None,
        gradient_checkpointing: bool = False,
        max_sequence_length: int | None = None,
        guidance: float | None = None,
    ) -> None:
        super().__init__(pipeline, trained=trained, gradient_checkpointing=gradient_checkpointing)
        if guidance is not None and not self.embeds_guidance:
            raise ConfigError(
                f"model.guidance: this checkpoint is not told a guidance scale (its transformer has no guidance_embeds), "
                f"got {guidance:g}; leave it out"
            )
        if max_sequence_length is not None and max_sequence_length > 512:
            raise ConfigError(f"model.max_sequence_length: must be at most 512 for FLUX, got {max_sequence_length}")
        self.process = LinearFlow(shift=self.time_shift())
        self.prediction = Prediction.FLOW
        self._max_sequence_length = max_sequence_length or 512
        self._guidance = 1.0 if guidance is None else guidance

    def predict(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        dtype, leaves = self.dtype, condition.leaves
        states = leaves["states"].to(dtype)
        height, width = (side // _PATCH for side in x_t.shape[-2:])
        answer = self.wrapped(
            hidden_states=pack(x_t.to(dtype)),
            timestep=t,  # the transformer multiplies by 1000
            guidance=self._guidance_of(condition, x_t),
            encoder_hidden_states=states,
            pooled_projections=leaves["pooled"].to(dtype),
            txt_ids=torch.zeros(states.shape[1], 3, device=x_t.device),
            img_ids=place_ids(height, width).to(x_t.device),
            return_dict=False,
        )[0]
        return unpack(answer, height, width)

    def _guidance_of(self, condition: Condition, x_t: Tensor) -> Tensor | None:
        if not self.embeds_guidance:
            return None
        told = condition.leaves.get("guidance")
        return torch.full((len(x_t),), self._guidance, device=x_t.device) if told is None else told.to(x_t.device)

    @property
    def embeds_guidance(self) -> bool:
        return bool(self._settings.guidance_embeds)

    def _network_options(self) -> str:
        return f" guidance={self._guidance:g}" if self.embeds_guidance else ""

    def _encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        states, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), None, device=self.encoders.device("text"), max_sequence_length=self._max_sequence_length
        )
        return {"states": states, "pooled": pooled}

    def _text_options(self) -> str:
        return f"max_sequence_length={self._max_sequence_length}"

    # ------------------------------------------------------------ sizes and times

    @property
    def resolution(self) -> int:
        return int(self.pipeline.default_sample_size) * self._factor  # the transformer has no size of its own

    @property
    def _channels(self) -> int:
        return int(self._settings.in_channels) // _PATCH**2

    @property
    def _resolution_unit(self) -> int:
        return self._factor * _PATCH

    def times(self, steps: int, resolution: int | None = None) -> Float[Tensor, " times"]:
        even = [1 - step / steps for step in range(steps)]  # the pipeline's, down to 1 / steps
        return flow_times(self.pipeline.scheduler.config, steps, self._tokens(resolution), even)

    def time_shift(self, resolution: int | None = None) -> float:
        return shift_of(self.pipeline.scheduler.config, self._tokens(resolution))

    def _tokens(self, resolution: int | None) -> int:
        return (self.checked_resolution(resolution) // self._resolution_unit) ** 2


def pack(latents: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch tokens width"]:
    """Squares of 2 by 2 become tokens, row by row: channel by channel, then the square's rows."""
    batch, channels, height, width = latents.shape
    squares = latents.reshape(batch, channels, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Float[Tensor, "batch tokens width"], height: int, width: int) -> Float[Tensor, "batch channels h w"]:
    """The inverse of `pack`, for `height` rows of `width` tokens."""
    squares = tokens.reshape(len(tokens), height, width, -1, _PATCH, _PATCH)
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def place_ids(height: int, width: int) -> Float[Tensor, "tokens 3"]:
    """Where each token is: 0 (which tells it from a reference picture), row, column."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1).float()
