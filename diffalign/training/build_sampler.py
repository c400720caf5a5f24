"""From a sampler's settings to the sampler."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffalign.config.samplers import (
    DDIMParams,
    DPMSolverPPParams,
    FlowEulerParams,
    FlowHeunParams,
    SamplerParams,
    WindowParams,
)
from diffalign.samplers import DDIM, DPMSolverPP, FlowEuler, FlowHeun, FlowSDE, Sampler, Windowed, window_first


def build_sampler(
    params: SamplerParams, times: Float[Tensor, " states"], *, round_number: int = 0, seed: int = 0
) -> Sampler:
    """The sampler of these settings.

    Args:
        times: process times that it will go through: they say which step is the last, and where a window lies.
        round_number: of training, from 0: where a sliding window is.
        seed: of windows at random places.

    Raises:
        ConfigError: the window does not lie within the steps.
    """
    if isinstance(params, DDIMParams):
        return DDIM(params.eta)
    if isinstance(params, DPMSolverPPParams):
        return DPMSolverPP.for_times(times, params.solver_order)
    if isinstance(params, FlowEulerParams):
        return FlowEuler()
    if isinstance(params, FlowHeunParams):
        return FlowHeun()
    noisy, window = FlowSDE(params.form, params.eta, params.guard), params.window
    if window is None:
        return noisy
    first = _first(window, len(times) - 1, round_number, seed)
    outside = DPMSolverPP.for_times(times) if window.outside == "dpm_solver_pp" else FlowEuler()
    return Windowed.of_steps(noisy, outside, times, first, window.length)


def _first(window: WindowParams, steps: int, round_number: int, seed: int) -> int:
    if window.schedule == "fixed":
        return window.first
    settings = window.model_dump(exclude={"first", "outside", "leave_last"})
    return window_first(round_number, steps=steps - window.leave_last, seed=seed, **settings)
