"""Settings of the rewards of shapes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, model_validator

from diffalign.config.sample_rewards import SampleRewardParams


class StabilityParams(SampleRewardParams):
    """Does the object stay standing as it was put down: a rigid-body simulation (extra sim)."""

    medium: ClassVar[str | None] = "mesh"

    name: Literal["stability"] = "stability"
    form: Literal["stands", "tilt", "margin"] = "stands"  # 1 or 0; -degrees; of the centre of mass, without simulation
    mode: Literal["exact", "dso"] = "exact"  # dso: the recipe of the paper's labels
    threshold: Annotated[float, Field(gt=0, le=180)] = 20.0  # degrees from which on it does not stand; the paper's
    nudge: Annotated[float, Field(ge=0, lt=45)] = 1.0  # degrees by which the ground leans at first; of mode exact
    seed: NonNegativeInt = 0  # of the side to which it leans
    pieces: Literal["joined", "fall"] = "joined"  # parts that do not touch: one body, as the paper has it, or it falls
    up: Literal["auto", "x", "y", "z"] = "auto"  # the axis that points up in a file; auto: as its format says
    filled: bool = False  # of grids: cells that no path of empty cells joins to the outside count as filled

    @model_validator(mode="after")
    def _margin_knows_no_falling(self) -> StabilityParams:
        if self.form == "margin" and self.pieces == "fall":
            raise ValueError("pieces: fall says nothing of a margin; take form stands or tilt, or leave it out")
        return self
