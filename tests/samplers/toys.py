"""The optimal denoiser of a Gaussian, for which every answer is known."""

from __future__ import annotations

import torch
from torch import Tensor

from diffalign.denoising import Prediction, Process
from diffalign.denoising.process import coefficients_at
from diffalign.types import Condition


class GaussianData:
    """Data are normal with this mean and std in every element: x0 and noise given x_t in closed form."""

    def __init__(self, process: Process, prediction: Prediction, mean: float = 0.7, std: float = 0.4) -> None:
        self.process, self.prediction = process, prediction
        self.mean, self.std = mean, std
        self.batches: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.batches.append(len(x_t))
        alpha, sigma = (each.to(x_t.dtype) for each in coefficients_at(self.process, t, x_t.ndim))
        variance = alpha**2 * self.std**2 + sigma**2
        away = (x_t - alpha * self.mean) / variance
        x0, noise = self.mean + alpha * self.std**2 * away, sigma * away
        a, b = self.prediction.coefficients(alpha, sigma, self.process.sigma_data)
        return a * x0 + b * noise


def no_condition(batch: int) -> Condition:
    return Condition({"nothing": torch.zeros(batch, 1)}, null={"nothing": torch.zeros(batch, 1)})
