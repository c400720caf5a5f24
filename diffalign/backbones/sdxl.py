"""Stable Diffusion XL: a UNet that is told a pooled prompt and how the picture was cropped, besides the text states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from jaxtyping import Float
from torch import Tensor

from diffalign.backbones.adapter import Trained
from diffalign.backbones.sd import SDBackbone
from diffalign.exceptions import ConfigError
from diffalign.types import Condition

REFINER = (
    "model.path: this is an SDXL refiner: it has one text encoder and finishes what SDXL base began; "
    "take stabilityai/stable-diffusion-xl-base-1.0 or a checkpoint made from it"
)


class SDXLBackbone(SDBackbone):
    """Condition leaves: `states` [prompts, tokens, width], `pooled` [prompts, width] and, of pictures, `time_ids`.

    `states` are the last but one hidden states of both text encoders, side by side; `pooled` is the second one's projected
    output. `time_ids` [groups, members, 6] are each picture's own: height and width before it was resized, top and left of
    the crop, height and width of the crop. Where they are absent, the picture is taken as it is and not cropped, as the
    pipeline takes what it draws.

    The empty prompt means two things, as in diffusers and in the Diffusion-DPO authors' code: what guidance compares with
    is zeros if the checkpoint says `force_zeros_for_empty_prompt` (SDXL base does), and a prompt that training drops is
    the encoded "" (`text([""])`).
    """

    family = "sdxl"
    pipeline_class = StableDiffusionXLPipeline
    crop_leaf = "time_ids"

    def __init__(
        self, pipeline: DiffusionPipeline, *, trained: Trained | None = None, gradient_checkpointing: bool = False
    ) -> None:
        if (
            pipeline.text_encoder is None
            or pipeline.tokenizer is None
            or pipeline.config.get("requires_aesthetics_score")
        ):
            raise ConfigError(REFINER)
        super().__init__(pipeline, trained=trained, gradient_checkpointing=gradient_checkpointing)
        vae = pipeline.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)  # SDXL's own overflows in half precision; the pipeline does so before it decodes

    def predict(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        dtype, leaves = self.dtype, condition.leaves
        time_ids = leaves.get("time_ids")
        if time_ids is None:
            height, width = (float(side * self._factor) for side in x_t.shape[-2:])
            time_ids = torch.tensor([[height, width, 0, 0, height, width]], device=x_t.device).expand(len(x_t), 6)
        pooled = leaves["pooled"].to(dtype)
        return self.wrapped(
            x_t.to(dtype),
            self.process.index(t),
            encoder_hidden_states=leaves["states"].to(dtype),
            # in float32 still: a bfloat16 cannot hold a height of 1023
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids.to(x_t.device, torch.float32)},
            return_dict=False,
        )[0]

    def _encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.encoders.device("text"), do_classifier_free_guidance=False
        )
        return {"states": states, "pooled": pooled}

    def _null(self, empty: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.pipeline.config.force_zeros_for_empty_prompt:
            return empty
        return {name: torch.zeros_like(leaf) for name, leaf in empty.items()}
