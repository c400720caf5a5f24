"""Samplers: one `step` each, and the loop over steps. Times are process times: 1 is noise, 0 is data."""

from diffalign.samplers.ddim import DDIM
from diffalign.samplers.guidance import ClassifierFree
from diffalign.samplers.ode import FlowEuler
from diffalign.samplers.step import Sampler, Step, sample

__all__ = ["DDIM", "ClassifierFree", "FlowEuler", "Sampler", "Step", "sample"]
