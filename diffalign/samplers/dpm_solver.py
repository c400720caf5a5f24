"""DPM-Solver++ (Lu et al. 2022): a multistep solver of second order at one network call a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import Denoiser, split_prediction
from diffalign.denoising.process import coefficients_at
from diffalign.exceptions import ConfigError
from diffalign.samplers.step import Step, Time, time_of_each
from diffalign.types import Condition

_FEW_STEPS = 15  # below it, diffusers' `lower_order_final` makes the last step one of first order


class History(NamedTuple):
    """Of the step before: the clean sample that it saw, and its lambda [batch, 1, ...]."""

    x0: Tensor
    lambda_: Tensor


@dataclass(frozen=True)
class DPMSolverPP:
    """x_next = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) (x0 + h / (2 h_before) (x0 - x0_before)).

    Primes are at t_next, lambda = log(alpha / sigma), h = lambda' - lambda, h_before = lambda - lambda_before. For any
    process and prediction type; times may be each sample's own. Deterministic: its steps have no log-probability, and each
    but the first needs the `state` of the one before it.

    A step without a step before it, and one to sigma = 0, where h is infinite, is of first order, which is DDIM's. So is
    the step after a start without any signal (zero-terminal SNR, a flow's t = 1), where h_before is infinite.

    Attributes:
        order: 2, or 1, which is DDIM.
        last: a step that ends at or below this time is of first order too.

    Raises:
        ConfigError: another order.

    Source: Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", algorithm 2
    in its midpoint form; diffusers' DPMSolverMultistepScheduler.
    """

    order: Literal[1, 2] = 2
    last: float = 0.0

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ConfigError(f"order: must be 1 or 2, got {self.order}")

    @classmethod
    def for_times(cls, times: Float[Tensor, "states *members"], order: Literal[1, 2] = 2) -> DPMSolverPP:
        """As diffusers does by default: where there are fewer than 15 steps, the last one is of first order."""
        return cls(order, float(times[-1].max()) if len(times) - 1 < _FEW_STEPS else 0.0)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "batch *sample"],
        t: Time,
        t_next: Time,
        condition: Condition,
        state: History | None = None,
    ) -> Step:
        t, t_next = time_of_each(t, x_t), time_of_each(t_next, x_t)
        output = denoiser(x_t, t, condition)
        x0, _ = split_prediction(denoiser.process, denoiser.prediction, output, x_t, t)
        alpha, sigma = coefficients_at(denoiser.process, t, x_t.ndim)
        alpha_next, sigma_next = coefficients_at(denoiser.process, t_next, x_t.ndim)
        lambda_ = alpha.log() - sigma.log()
        guess = x0
        if state is not None and self.order == 2:
            h = alpha_next.log() - sigma_next.log() - lambda_
            first_order = (sigma_next == 0) | (t_next <= self.last).reshape(sigma_next.shape)
            slope = torch.where(first_order, 0.0, h / (lambda_ - state.lambda_))
            guess = x0 + 0.5 * slope * (x0 - state.x0)
        mean = sigma_next / sigma * x_t + (alpha_next - alpha * sigma_next / sigma) * guess
        return Step(mean=mean, std=torch.zeros_like(sigma), x0=x0, prediction=output, state=History(x0, lambda_))
