"""How training times are drawn, all in process time: 0 is data, 1 is noise."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PlainValidator, PositiveFloat

from diffalign.config.params import Params


class UniformTime(Params):
    """Uniform: over the grid for a process with one (Stable Diffusion's integer timesteps), else over [0, 1]."""

    sampling: Literal["uniform"] = "uniform"


def _shift(value: object) -> float | str:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    if value == "model":
        return "model"
    raise ValueError(f"must be a number > 0, or 'model', got {value!r}")


# "model": as the checkpoint's own scheduler shifts at data.resolution (FLUX.1-dev: exp(1.15) at 1024 pixels; SD3: 3)
Shift = Annotated[float | Literal["model"], PlainValidator(_shift)]


class LogitNormalTime(Params):
    """t = sigmoid(normal(mean, std)), as SD3."""

    sampling: Literal["logit_normal"]
    mean: float = 0.0
    std: PositiveFloat = 1.0
    shift: Shift = 1.0  # then t -> shift t / (1 + (shift - 1) t)


class ShiftedTime(Params):
    """Uniform, then t -> shift t / (1 + (shift - 1) t)."""

    sampling: Literal["shifted"]
    shift: Shift


class StratifiedTime(Params):
    """One draw in each of as many equal strata as there are groups in an optimizer step."""

    sampling: Literal["stratified"]


class ScheduleTime(Params):
    """The times at which `online.sampler` calls the network, each once before one comes again."""

    sampling: Literal["schedule"]
    skip_first: NonNegativeInt = 0  # times nearest to noise that are left out
    skip_last: NonNegativeInt = 0  # times nearest to data that are left out


TimeParams = Annotated[
    UniformTime | LogitNormalTime | ShiftedTime | StratifiedTime | ScheduleTime, Field(discriminator="sampling")
]
