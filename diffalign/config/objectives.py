"""Settings of every objective. The functions in `diffalign.objectives` have no defaults: these are the defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from diffalign.config.params import Params


class DiffusionDPOParams(Params):
    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    beta: PositiveFloat = 5000.0  # authors' released setting for SD1.5; larger stays closer to the reference


class FlowDPOParams(Params):
    name: Literal["flow_dpo"] = "flow_dpo"
    beta: PositiveFloat = 100.0  # flow_grpo config/dpo.py for SD3.5-medium, with mean-reduced errors
    schedule: Literal["constant", "one_minus_t_sq"] = "constant"  # Flow-DPO eq 6: constant is the recommended form


class SFTParams(Params):
    name: Literal["sft"] = "sft"


ObjectiveParams = Annotated[DiffusionDPOParams | FlowDPOParams | SFTParams, Field(discriminator="name")]
