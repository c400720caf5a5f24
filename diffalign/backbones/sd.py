"""Stable Diffusion 1.x and 2.x: a UNet over 4-channel latents, on a variance-preserving process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from diffalign.backbones.adapter import Backbone, set_steps
from diffalign.backbones.lora import LoRASettings
from diffalign.denoising import VP, Prediction
from diffalign.exceptions import ConfigError
from diffalign.types import Condition

_PREDICTIONS = {"epsilon": Prediction.NOISE, "v_prediction": Prediction.V, "sample": Prediction.SAMPLE}


class SDBackbone(Backbone):
    """Condition leaves: `states` [prompts, tokens, width]."""

    family = "sd"
    pipeline_class = StableDiffusionPipeline
    network_name = "unet"
    process: VP

    def __init__(
        self, pipeline: DiffusionPipeline, *, lora: LoRASettings | None = None, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__(pipeline, lora=lora, gradient_checkpointing=gradient_checkpointing)
        config = pipeline.scheduler.config
        if config.prediction_type not in _PREDICTIONS:
            raise ConfigError(
                f"model.path: this checkpoint predicts {config.prediction_type!r}, which sd models do not"
            )
        self.process = VP.from_scheduler_config(config)
        self.prediction = _PREDICTIONS[config.prediction_type]

    def predict(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        dtype = self.dtype
        return self.wrapped(
            x_t.to(dtype),
            self.process.index(t),
            encoder_hidden_states=condition.leaves["states"].to(dtype),
            return_dict=False,
        )[0]

    def _encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        states, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, do_classifier_free_guidance=False)
        return {"states": states}

    def times(self, steps: int) -> Float[Tensor, " times"]:
        scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        set_steps(scheduler, steps)
        first = self.process.time_of(torch.tensor(0.0)) if not scheduler.config.set_alpha_to_one else torch.tensor(0.0)
        return torch.cat([self.process.time_of(scheduler.timesteps.cpu().float()), first[None]])
