"""Checkpoints that were distilled to a few steps: their errors are not what an alignment method takes them for."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from diffalign.exceptions import ConfigError

log = logging.getLogger(__name__)
# in the last part of a path or hub id, between anything but letters: "sdxl-turbo", "sdxl_lightning_4step_unet"
_NAMES = re.compile(r"(?<![a-z])(turbo|lightning|schnell|hyper-?sd|lcm|dmd2?|flash)(?![a-z])")


def check_trainable(pipeline: DiffusionPipeline, path: str) -> None:
    """Refuse a consistency model, and warn of a base that was distilled to a few steps.

    A distilled network jumps to a picture instead of predicting the mean over all pictures that x_t may come from. The
    training target is that mean, so training at all times takes the few steps away before it aligns anything.

    Raises:
        ConfigError: a latent consistency model.
    """
    scheduler = type(pipeline.scheduler).__name__
    if scheduler.startswith("LCM"):
        raise ConfigError(
            f"model.path: {path} is a latent consistency model (its scheduler is {scheduler}): it predicts no noise that "
            "an error could be measured of; train on the model that it was made from, and use the LoRA with both"
        )
    sign = _sign_of(pipeline, path)
    if sign:
        log.warning(
            "model.path: %s looks distilled to a few steps (%s): training at all times takes these steps away, and its "
            "errors say little; train on the model that it was made from and use the LoRA with both. If you go on: "
            "data.empty_prompt_share: 0, and evaluation.guidance_scale and sampler.steps as its makers say",
            path,
            sign,
        )


def refuse_guidance_embedding(network_config: Any) -> None:
    """Refuse a UNet that is told a guidance scale.

    Raises:
        ConfigError: it is a latent consistency model.
    """
    if network_config.get("time_cond_proj_dim") is not None:
        raise ConfigError(
            "model.path: this UNet is told a guidance scale (time_cond_proj_dim), so it is a latent consistency model; "
            "take the model that it was made from"
        )


def _sign_of(pipeline: DiffusionPipeline, path: str) -> str | None:
    """What tells that it is distilled."""
    for name in (path, str(pipeline.config.get("_name_or_path") or "")):
        found = _NAMES.search(Path(name).name.lower())
        if found:
            return f"its name has {found[1]!r}"
    settings = pipeline.scheduler.config
    transformer = getattr(pipeline, "transformer", None)
    if transformer is not None and transformer.config.get("guidance_embeds") is False:
        # FLUX.1-schnell; models that were trained back to plain ones keep FLUX.1-dev's scheduler
        return None if settings.get("use_dynamic_shifting") else "no guidance_embeds and no shift, as FLUX.1-schnell"
    euler = type(pipeline.scheduler).__name__.startswith("Euler")
    plain = settings.get("prediction_type") in ("epsilon", "sample") and not settings.get("rescale_betas_zero_snr")
    if euler and plain and settings.get("timestep_spacing") == "trailing":
        return "an Euler scheduler with trailing timesteps, as SDXL-Turbo and SD-Turbo"
    return None
