"""Denoisers that wrap a denoiser, so that every sampler composes with every guidance."""

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


@dataclass(frozen=True)
class Chunked:
    """The same answers, at most `most` samples in one call: a network answers alike wherever it is asked in such pieces.

    Attributes:
        denoiser: a network, guided or not (guidance doubles what it is asked).
        most: samples of one call.
    """

    denoiser: Denoiser
    most: int

    @property
    def process(self) -> Process:
        return self.denoiser.process

    @property
    def prediction(self) -> Prediction:
        return self.denoiser.prediction

    def __call__(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        if len(x_t) <= self.most:
            return self.denoiser(x_t, t, condition)
        parts = [slice(start, start + self.most) for start in range(0, len(x_t), self.most)]
        return torch.cat([self.denoiser(x_t[part], t[part], condition[part]) for part in parts])
