"""Euler's and Heun's methods on a flow's ordinary differential equation."""

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


def flow_velocity(
    denoiser: Denoiser,
    x_t: Float[Tensor, "batch *sample"],
    t: Float[Tensor, " batch"],
    condition: Condition,
    *,
    name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The network's output, and the x0, the noise and the velocity noise - x0 that it means; one call.

    Raises:
        ConfigError: the process is not a linear flow; `name` says which step needs one.
    """
    if not isinstance(denoiser.process, LinearFlow):
        raise ConfigError(f"{name} needs a linear flow, got {type(denoiser.process).__name__}; use DDIM")
    output = denoiser(x_t, t, condition)
    x0, noise = split_prediction(denoiser.process, denoiser.prediction, output, x_t, t)
    velocity = output.to(x_t.dtype) if denoiser.prediction is Prediction.FLOW else noise - x0
    return output, x0, noise, velocity


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
        t, t_next = time_of_each(t, x_t), time_of_each(t_next, x_t)
        output, x0, _, velocity = flow_velocity(denoiser, x_t, t, condition, name="the flow Euler step")
        _, now = coefficients_at(denoiser.process, t, x_t.ndim)
        _, after = coefficients_at(denoiser.process, t_next, x_t.ndim)
        return Step(mean=x_t + (after - now) * velocity, std=torch.zeros_like(now), x0=x0, prediction=output)


@dataclass(frozen=True)
class FlowHeun:
    """x_next = x_t + (t_next - t) (v + v') / 2, with v' the velocity at t_next where Euler's step leads.

    Of second order, at two network calls a step; a step to t = 0, where there is no noise left to predict, is Euler's
    and takes one. Needs a linear flow. Deterministic: its steps have no log-probability. `Step.x0` and
    `Step.prediction` are of the first call.

    Source: diffusers' FlowMatchHeunDiscreteScheduler, without its churn.
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
        t, t_next = time_of_each(t, x_t), time_of_each(t_next, x_t)
        output, x0, _, start = flow_velocity(denoiser, x_t, t, condition, name="the flow Heun step")
        _, now = coefficients_at(denoiser.process, t, x_t.ndim)
        _, after = coefficients_at(denoiser.process, t_next, x_t.ndim)
        velocity, dt, last = start, after - now, t_next == 0
        if not bool(last.all()):
            # rows on their last step go through the second call too, at a time that the network knows, and stay Euler's
            there = torch.where(last, t, t_next)
            _, _, _, end = flow_velocity(denoiser, x_t + dt * start, there, condition, name="the flow Heun step")
            velocity = torch.where(after == 0, start, 0.5 * (start + end))
        return Step(mean=x_t + dt * velocity, std=torch.zeros_like(now), x0=x0, prediction=output)
