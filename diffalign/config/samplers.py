"""Settings of every sampler."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from diffalign.config.params import Params


class DDIMParams(Params):
    name: Literal["ddim"] = "ddim"
    steps: PositiveInt = 50
    eta: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class FlowEulerParams(Params):
    name: Literal["flow_euler"] = "flow_euler"
    steps: PositiveInt = 28


SamplerParams = Annotated[DDIMParams | FlowEulerParams, Field(discriminator="name")]
