"""The noise of a training step, where `training.noise` asks for another than the drawn one."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.config.noise import InversionNoise
from diffalign.denoising import NoiseDraw
from diffalign.samplers import EVERY_PASS, ReNoise, inverted_draw
from diffalign.training.sharding import shards
from diffalign.types import GroupBatch


def training_noise(
    config: RunConfig, backbone: Backbone, accelerator: Accelerator, batch: GroupBatch, draw: NoiseDraw
) -> NoiseDraw:
    """The draw of a batch, with the noise found by inversion where the config says so; the times stay.

    The policy as it is answers, without gradient or dropout, given the group's own prompt alone: so the noise follows from
    weights, records and times, and a resumed run finds the same.

    Args:
        batch: on the device.
        draw: of this batch, on the device.
    """
    noise = config.training.noise
    if not isinstance(noise, InversionNoise):
        return draw
    with torch.no_grad(), accelerator.autocast():
        return inverted_draw(
            backbone.view("policy"),
            batch.x0,
            batch.condition,
            draw.t,
            steps=noise.steps,
            snap=noise.snap,
            renoise=ReNoise(noise.renoise, EVERY_PASS if noise.average == "all" else None),
            max_batch=config.training.max_batch,
            every_row=shards(config, accelerator),
        )
