"""Samplers: one `step` each, the loop over steps, and their inversion. Times are process times: 1 is noise, 0 is data."""

from diffalign.samplers.ddim import DDIM
from diffalign.samplers.guidance import ClassifierFree
from diffalign.samplers.ode import FlowEuler
from diffalign.samplers.renoise import Inversion, invert, invert_along, inverted_draw, inverted_noise, retrace
from diffalign.samplers.renoise_regularise import Regularise
from diffalign.samplers.renoise_step import EVERY_PASS, WINDOWS, Average, ReNoise
from diffalign.samplers.step import Sampler, Step, sample

__all__ = [
    "DDIM",
    "EVERY_PASS",
    "WINDOWS",
    "Average",
    "ClassifierFree",
    "FlowEuler",
    "Inversion",
    "ReNoise",
    "Regularise",
    "Sampler",
    "Step",
    "invert",
    "invert_along",
    "inverted_draw",
    "inverted_noise",
    "retrace",
    "sample",
]
