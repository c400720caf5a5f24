"""DDIM (Song et al. 2020), for any process and prediction type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import Denoiser, split_prediction
from diffalign.denoising.process import coefficients_at
from diffalign.samplers.step import Step, Time, time_of_each
from diffalign.types import Condition


@dataclass(frozen=True)
class DDIM:
    """x_next = alpha_next x0 + sqrt(sigma_next^2 - std^2) noise + std z.

    Attributes:
        eta: 0 is deterministic, 1 has the variance of DDPM (eq 16).
    """

    eta: float = 0.0

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "batch *sample"],
        t: Time,
        t_next: Time,
        condition: Condition,
        state: Any = None,
    ) -> Step:
        t, t_next = time_of_each(t, x_t), time_of_each(t_next, x_t)
        output = denoiser(x_t, t, condition)
        x0, noise = split_prediction(denoiser.process, denoiser.prediction, output, x_t, t)
        alpha, sigma = coefficients_at(denoiser.process, t, x_t.ndim)
        alpha_next, sigma_next = coefficients_at(denoiser.process, t_next, x_t.ndim)
        std = torch.zeros_like(sigma)
        if self.eta:
            kept = alpha * sigma_next / (alpha_next * sigma)  # of the noise at t, what was there at t_next already
            std = self.eta * sigma_next * (1 - kept**2).clamp(min=0).sqrt()
        mean = alpha_next * x0 + (sigma_next**2 - std**2).clamp(min=0).sqrt() * noise
        return Step(mean=mean, std=std, x0=x0, prediction=output)
