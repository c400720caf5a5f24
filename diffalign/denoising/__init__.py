"""The shared primitive: (x0, noise, t) -> denoising errors on [groups, members]."""

from diffalign.denoising.denoiser import Denoiser
from diffalign.denoising.draw import NoiseDraw, draw_noise
from diffalign.denoising.errors import DenoisingErrors, denoising_errors
from diffalign.denoising.prediction import Prediction, conversion_factor, split_prediction, target_of
from diffalign.denoising.process import BETA_SCHEDULES, EDM, VP, LinearFlow, Process, add_noise
from diffalign.denoising.time import (
    GridTime,
    LogitNormalTime,
    SampleTime,
    ShiftedTime,
    StratifiedTime,
    default_time,
    shift_time,
    uniform_time,
)

__all__ = [
    "BETA_SCHEDULES",
    "EDM",
    "VP",
    "Denoiser",
    "DenoisingErrors",
    "GridTime",
    "LinearFlow",
    "LogitNormalTime",
    "NoiseDraw",
    "Prediction",
    "Process",
    "SampleTime",
    "ShiftedTime",
    "StratifiedTime",
    "add_noise",
    "conversion_factor",
    "default_time",
    "denoising_errors",
    "draw_noise",
    "shift_time",
    "split_prediction",
    "target_of",
    "uniform_time",
]
