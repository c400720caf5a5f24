"""Stable Diffusion 3 and 3.5: a transformer over 16-channel latents, on a linear flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor

from diffalign.backbones.adapter import Backbone, Trained
from diffalign.backbones.flow_times import flow_times, shift_of
from diffalign.denoising import LinearFlow, Prediction
from diffalign.types import Condition


class SD3Backbone(Backbone):
    """Condition leaves: `states` [prompts, tokens, width] and `pooled` [prompts, width].

    Args:
        max_sequence_length: tokens of the T5 part (zeros where the checkpoint has no T5); diffusers' default is 256.
    """

    family = "sd3"
    pipeline_class = StableDiffusion3Pipeline
    network_name = "transformer"
    process: LinearFlow
    # diffusers' train_dreambooth_lora_sd3.py: both streams' attention projections
    lora_targets = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    )

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        trained: Trained | None = None,
        gradient_checkpointing: bool = False,
        max_sequence_length: int | None = None,
    ) -> None:
        super().__init__(pipeline, trained=trained, gradient_checkpointing=gradient_checkpointing)
        self.process = LinearFlow(shift=self.time_shift())
        self.prediction = Prediction.FLOW
        self._max_sequence_length = max_sequence_length or 256

    def predict(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        dtype = self.dtype
        return self.wrapped(
            hidden_states=x_t.to(dtype),
            timestep=t * self.pipeline.scheduler.config.num_train_timesteps,
            encoder_hidden_states=condition.leaves["states"].to(dtype),
            pooled_projections=condition.leaves["pooled"].to(dtype),
            return_dict=False,
        )[0]

    def _encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        texts = list(prompts)
        states, _, pooled, _ = self.pipeline.encode_prompt(
            texts,
            texts,
            texts,
            device=self.encoders.device("text"),
            do_classifier_free_guidance=False,
            max_sequence_length=self._max_sequence_length,
        )
        return {"states": states, "pooled": pooled}

    def _unlearnable(self) -> list[str]:
        # the last block ends with the pictures: what the text's queries gather there is thrown away
        blocks: Any = self.network.transformer_blocks
        return [
            f"transformer_blocks.{number}.attn.add_q_proj"
            for number, block in enumerate(blocks)
            if block.context_pre_only
        ]

    @property
    def _resolution_unit(self) -> int:
        return self._factor * int(self._settings.patch_size)

    @property
    def _max_resolution(self) -> int | None:
        most = self._settings.pos_embed_max_size  # patches along a side that have a position
        return None if most is None else int(most) * self._resolution_unit

    def _text_options(self) -> str:
        return f"max_sequence_length={self._max_sequence_length}"

    def times(self, steps: int, resolution: int | None = None) -> Float[Tensor, " times"]:
        return flow_times(self.pipeline.scheduler.config, steps, self._tokens(resolution))

    def time_shift(self, resolution: int | None = None) -> float:
        return shift_of(self.pipeline.scheduler.config, self._tokens(resolution))

    def _tokens(self, resolution: int | None) -> int:
        return (self.checked_resolution(resolution) // self._resolution_unit) ** 2
