"""Settings of the weights of pairs, which go with any objective on pairs but `smpo`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from diffalign.config.params import Params


class MarginWeightParams(Params):
    """Pairs with a gap in reward below the threshold count up to twice, those above it less."""

    name: Literal["margin"] = "margin"
    threshold: float  # the gap in reward that leaves a pair's weight at 1
    strength: float  # how fast the weight falls per unit of reward; below 0 it grows with the gap


class CurriculumWeightParams(Params):
    """Pairs far apart in reward first; the close ones join stage by stage."""

    name: Literal["curriculum"] = "curriculum"
    stages: Annotated[int, Field(ge=2)] = 3  # of equal length; all pairs count in the last one
    largest_gap: PositiveFloat  # a gap in reward that hardly a pair exceeds: the first stage has those near it


PairWeightParams = Annotated[MarginWeightParams | CurriculumWeightParams, Field(discriminator="name")]
