"""Stable Diffusion 1.x and 2.x: a UNet over 4-channel latents, on a variance-preserving process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from diffalign.backbones.adapter import Backbone, Trained
from diffalign.backbones.distilled import refuse_guidance_embedding
from diffalign.backbones.limits import set_steps
from diffalign.denoising import BETA_SCHEDULES, VP, Prediction
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
        self, pipeline: DiffusionPipeline, *, trained: Trained | None = None, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__(pipeline, trained=trained, gradient_checkpointing=gradient_checkpointing)
        refuse_guidance_embedding(pipeline.unet.config)
        taken, given = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
        if taken != given:
            raise ConfigError(
                f"model.path: this UNet takes {taken} channels and its autoencoder gives {given}: a checkpoint for "
                "inpainting or editing, which is told more than text; take the text-to-image one"
            )
        self.process = _process_of(pipeline.scheduler)
        target = pipeline.scheduler.config.get("prediction_type")
        if target not in _PREDICTIONS:
            raise ConfigError(f"model.path: this checkpoint predicts {target!r}, which {self.family} models do not")
        self.prediction = _PREDICTIONS[target]

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
        states, _ = self.pipeline.encode_prompt(
            list(prompts), self.encoders.device("text"), 1, do_classifier_free_guidance=False
        )
        return {"states": states}

    def times(self, steps: int, resolution: int | None = None) -> Float[Tensor, " times"]:
        # DDIM's times do not depend on the betas, and it does not know all of DDPM's schedules
        scheduler = DDIMScheduler.from_config(
            self.pipeline.scheduler.config,
            num_train_timesteps=self.process.entries,
            beta_schedule="linear",
            trained_betas=None,
            rescale_betas_zero_snr=False,
        )
        set_steps(scheduler, steps)
        first = self.process.time_of(torch.tensor(0.0)) if not scheduler.config.set_alpha_to_one else torch.tensor(0.0)
        return torch.cat([self.process.time_of(scheduler.timesteps.cpu().float()), first[None]])


def _process_of(scheduler: Any) -> VP:
    """The process of a diffusers scheduler: by the name of its schedule, or else by its own table.

    The name comes first, because some schedulers (Euler, DPM-Solver) move the last entry of their table off zero.

    Raises:
        ConfigError: it has neither.
    """
    config = scheduler.config
    if config.get("trained_betas") is not None or config.get("beta_schedule") in BETA_SCHEDULES:
        return VP.from_scheduler_config(config)
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        raise ConfigError(
            f"model.path: the scheduler of this checkpoint is {type(scheduler).__name__}, which has no table of noise "
            "levels (alphas_cumprod), so it is no Stable Diffusion 1.x, 2.x or XL model"
        )
    return VP(table)
