"""The Euler method on a flow's ordinary differential equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import Denoiser, LinearFlow, Prediction, split_prediction
from diffalign.denoising.process import coefficients_at
from diffalign.exceptions import ConfigError
from diffalign.samplers.step import Step, Time, time_of_each
from diffalign.types import Condition


@dataclass(frozen=True)
class FlowEuler:
    """x_next = x_t + (t_next - t) v, with v = dx_t/dt = noise - x0.

    Needs a linear flow. Deterministic: its steps have no log-probability.
    """

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "batch *sample"],
        t: Time,
        t_next: Time,
        condition: Condition,
        state: Any = None,
    ) -> Step:
        """One step.

        Raises:
            ConfigError: the denoiser's process is not a linear flow.
        """
        if not isinstance(denoiser.process, LinearFlow):
            raise ConfigError(
                f"the flow Euler step needs a linear flow, got {type(denoiser.process).__name__}; use DDIM"
            )
        t, t_next = time_of_each(t, x_t), time_of_each(t_next, x_t)
        output = denoiser(x_t, t, condition)
        x0, noise = split_prediction(denoiser.process, denoiser.prediction, output, x_t, t)
        velocity = output.to(x_t.dtype) if denoiser.prediction is Prediction.FLOW else noise - x0
        _, now = coefficients_at(denoiser.process, t, x_t.ndim)
        _, after = coefficients_at(denoiser.process, t_next, x_t.ndim)
        return Step(mean=x_t + (after - now) * velocity, std=torch.zeros_like(now), x0=x0, prediction=output)
