"""Settings of every reward."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffalign.config.params import Params


class SceneParams(Params):
    name: Literal["scene"] = "scene"
    form: Literal["strict", "graded"] = "strict"  # all or nothing, or how much of the caption is there


class JPEGParams(Params):
    name: Literal["jpeg"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)
    direction: Literal["compressible", "incompressible"] = "compressible"  # the sign: -kB or +kB


RewardParams = Annotated[SceneParams | JPEGParams, Field(discriminator="name")]
