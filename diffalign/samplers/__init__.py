"""Samplers: one `step` each, the loop over steps, trajectories whose steps are scored again, and inversion.

Times are process times: 1 is noise, 0 is data.
"""

from diffalign.samplers.ddim import DDIM
from diffalign.samplers.density import log_density
from diffalign.samplers.dpm_solver import DPMSolverPP
from diffalign.samplers.flow_sde import FlowSDE
from diffalign.samplers.guidance import Chunked, ClassifierFree
from diffalign.samplers.ode import FlowEuler, FlowHeun
from diffalign.samplers.renoise import Inversion, invert, invert_along, inverted_draw, inverted_noise, retrace
from diffalign.samplers.renoise_regularise import Regularise
from diffalign.samplers.renoise_step import EVERY_PASS, WINDOWS, Average, ReNoise
from diffalign.samplers.rollout import rollout, step_log_prob
from diffalign.samplers.step import Sampler, Step, sample
from diffalign.samplers.trajectory import StepScores, Trajectory
from diffalign.samplers.window import Windowed, window_first, window_times

__all__ = [
    "DDIM",
    "EVERY_PASS",
    "WINDOWS",
    "Average",
    "Chunked",
    "ClassifierFree",
    "DPMSolverPP",
    "FlowEuler",
    "FlowHeun",
    "FlowSDE",
    "Inversion",
    "ReNoise",
    "Regularise",
    "Sampler",
    "Step",
    "StepScores",
    "Trajectory",
    "Windowed",
    "invert",
    "invert_along",
    "inverted_draw",
    "inverted_noise",
    "log_density",
    "retrace",
    "rollout",
    "sample",
    "step_log_prob",
    "window_first",
    "window_times",
]
