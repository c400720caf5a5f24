"""Stochastic steps on a flow: Flow-GRPO's, DanceGRPO's and Coefficients-Preserving Sampling's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import Denoiser
from diffalign.denoising.process import coefficients_at
from diffalign.exceptions import ConfigError
from diffalign.samplers.ode import flow_velocity
from diffalign.samplers.step import Step, Time, time_of_each
from diffalign.types import Condition

SDEForm = Literal["flow_grpo", "dance", "cps"]


@dataclass(frozen=True)
class FlowSDE:
    """One step with noise on a linear flow, with v = noise - x0, dt = t_next - t < 0 and a noise level s_t.

        flow_grpo, dance: std = s_t sqrt(-dt), mean = x (1 + s_t^2 dt / (2 t)) + v (1 + s_t^2 (1 - t) / (2 t)) dt
        cps:              std = t_next sin(eta pi / 2), mean = (1 - t_next) x0 + sqrt(t_next^2 - std^2) noise

    flow_grpo has s_t = eta sqrt(t / (1 - t)), dance s_t = eta: the mean is one formula, the Euler-Maruyama step of an
    equation that has the flow's marginals. Few steps meet them roughly, and the noise of the last ones stays in the
    picture. cps puts exactly as much noise into x_next as belongs there, given the x0 that the network sees; its last
    step, to t = 0, adds none. Its noise does not shrink with the step, so the spread of the data comes out smaller than it
    is, however many steps there are (on a Gaussian at eta 0.8: two thirds of the variance).

    Attributes:
        form: whose step.
        eta: how much noise (> 0; at most 1 for cps). flow_grpo 0.7 (FLUX 0.9), MixGRPO 0.7, dance 0.3 (FLUX) and 0.25
            (HunyuanVideo), cps 0.8.
        guard: what stands in the place of t in flow_grpo's 1 - t at t = 1, where s_t is infinite. None: t_next, which
            is the second time of the schedule, as flow_grpo's code has it (UniRL trains with 0.99). It is part of the
            sampler, so a step is scored by the very s_t that it was made with.

    Raises:
        ConfigError: no such form, or eta or guard out of range.

    Source: Liu et al. 2025, "Flow-GRPO", appendix A, and flow_grpo's sd3_sde_with_logprob.py; Xue et al. 2025,
    "DanceGRPO", train_grpo_flux.py; Wang & Yu 2025, "Coefficients-Preserving Sampling for Reinforcement Learning with
    Flow Matching".
    """

    form: SDEForm = "flow_grpo"
    eta: float = 0.7
    guard: float | None = None

    def __post_init__(self) -> None:
        if self.form not in get_args(SDEForm):
            raise ConfigError(f"form: must be one of {', '.join(get_args(SDEForm))}, got {self.form!r}")
        if not (self.eta > 0 and (self.form != "cps" or self.eta <= 1)):
            most = " and <= 1 with form cps" if self.form == "cps" else ""
            raise ConfigError(f"eta: must be > 0{most}, got {self.eta:g}; without noise the step is FlowEuler's")
        if self.guard is not None and not 0 < self.guard < 1:
            raise ConfigError(f"guard: must be between 0 and 1, got {self.guard:g}")

    def step(
        self,
        denoiser: Denoiser,
        x_t: Float[Tensor, "batch *sample"],
        t: Time,
        t_next: Time,
        condition: Condition,
        state: Any = None,
    ) -> Step:
        """One step; with a density for every step but cps's last one.

        Raises:
            ConfigError: the denoiser's process is not a linear flow.
        """
        t, t_next = time_of_each(t, x_t), time_of_each(t_next, x_t)
        output, x0, noise, velocity = flow_velocity(denoiser, x_t, t, condition, name="the flow's stochastic step")
        _, now = coefficients_at(denoiser.process, t, x_t.ndim)
        alpha_next, after = coefficients_at(denoiser.process, t_next, x_t.ndim)
        if self.form == "cps":
            std = after * math.sin(self.eta * math.pi / 2)
            mean = alpha_next * x0 + (after**2 - std**2).clamp(min=0).sqrt() * noise
            return Step(mean=mean, std=std, x0=x0, prediction=output, density="unnormalised")
        dt = after - now
        level = self._level(now, after)
        half = level**2 / (2 * now)
        mean = x_t * (1 + half * dt) + velocity * (1 + half * (1 - now)) * dt
        return Step(mean=mean, std=level * (-dt).sqrt(), x0=x0, prediction=output)

    def _level(self, t: Tensor, t_next: Tensor) -> Tensor:
        """s_t."""
        if self.form == "dance":
            return torch.full_like(t, self.eta)
        guarded = t_next if self.guard is None else torch.full_like(t, self.guard)
        return self.eta * (t / (1 - torch.where(t == 1, guarded, t))).sqrt()
