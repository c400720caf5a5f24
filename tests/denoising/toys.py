"""Small denoisers with known answers, and the processes and sample ranks that the primitive is tried on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffalign.denoising import EDM, VP, LinearFlow, Prediction, Process
from diffalign.denoising.process import coefficients_at
from diffalign.types import Condition

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
PROCESSES: dict[str, Process] = {
    "vp": VP.from_scheduler_config(STABLE_DIFFUSION),
    "vp_zero_snr": VP.from_scheduler_config({**STABLE_DIFFUSION, "rescale_betas_zero_snr": True}),
    "linear_flow": LinearFlow(),
    "edm": EDM(),
}
SAMPLES = {"image": (3, 4, 5), "video": (2, 3, 4, 2), "audio": (3, 7), "volume": (1, 3, 3, 2)}


def condition_of(groups: int) -> Condition:
    """One number per group, and another for the empty prompt."""
    return Condition(
        {"shift": torch.linspace(-0.5, 0.5, groups)[:, None]}, null={"shift": torch.full((groups, 1), 0.25)}
    )


class Seen:
    """One underlying guess of the clean sample, seen through a prediction type; it counts how it is called.

    The guess depends on x_t, t, a condition and a weight, so that a mistake in any of them shows.
    """

    def __init__(
        self,
        process: Process,
        prediction: Prediction,
        *,
        weight: float = 0.4,
        dtype: torch.dtype | None = None,
        look: Callable[[Tensor, Tensor, Condition], None] | None = None,
    ) -> None:
        self.process, self.prediction, self.dtype, self.look = process, prediction, dtype, look
        self.weight = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
        self.batches: list[int] = []
        self.had_grad: list[bool] = []

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.batches.append(len(x_t))
        self.had_grad.append(torch.is_grad_enabled())
        if self.look is not None:
            self.look(x_t, t, condition)
        shape = (-1,) + (1,) * (x_t.ndim - 1)
        alpha, sigma = coefficients_at(self.process, t, x_t.ndim)
        told = condition.leaves["shift"].reshape(shape) + t.reshape(shape)
        size = (alpha**2 + sigma**2).sqrt()
        x0 = torch.tanh(self.weight.to(x_t.dtype) * x_t / size + told)
        noise = (x_t - alpha * x0) / sigma
        a, b = self.prediction.coefficients(alpha, sigma, self.process.sigma_data)
        output = a * x0 + b * noise
        return output if self.dtype is None else output.to(self.dtype)


class Fixed:
    """Answers with given numbers, whatever it is asked."""

    def __init__(self, process: Process, prediction: Prediction, output: Tensor) -> None:
        self.process, self.prediction, self.output = process, prediction, output

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.output.reshape(x_t.shape)
