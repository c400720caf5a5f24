"""Settings of every objective: one class each, told apart by `name`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from diffalign.config.objectives.facts import Layout, ObjectiveFacts
from diffalign.config.objectives.pairs import DiffusionDPOParams, FlowDPOParams, SFTParams

__all__ = [
    "OBJECTIVE_PARAMS",
    "DiffusionDPOParams",
    "FlowDPOParams",
    "Layout",
    "ObjectiveFacts",
    "ObjectiveParams",
    "SFTParams",
]

OBJECTIVE_PARAMS: tuple[type[ObjectiveFacts], ...] = (DiffusionDPOParams, FlowDPOParams, SFTParams)

ObjectiveParams = Annotated[DiffusionDPOParams | FlowDPOParams | SFTParams, Field(discriminator="name")]
