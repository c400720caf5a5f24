"""Guidance: denoisers that wrap a denoiser, so that every sampler composes with every guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import Denoiser, Prediction, Process
from diffalign.types import Condition


@dataclass(frozen=True)
class ClassifierFree:
    """uncond + scale (cond - uncond), both from one call on a doubled batch (Ho & Salimans 2022).

    At scale 1 the unconditional half is left out: it would not count.

    Attributes:
        denoiser: the network to guide.
        scale: 1 is the conditional prediction alone; diffusers' `guidance_scale`.
    """

    denoiser: Denoiser
    scale: float

    @property
    def process(self) -> Process:
        return self.denoiser.process

    @property
    def prediction(self) -> Prediction:
        return self.denoiser.prediction

    def __call__(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        if self.scale == 1.0:
            return self.denoiser(x_t, t, condition)
        both = condition.unconditional().join(condition)
        without, given = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return without + self.scale * (given - without)
