"""Objectives as pure functions of denoising errors [groups, members], and the one table of all of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from diffalign.config.objectives import (
    DiffusionDPOParams,
    FlowDPOParams,
    ObjectiveFacts,
    SFTParams,
)
from diffalign.exceptions import ConfigError
from diffalign.objectives.diffusion_dpo import diffusion_dpo, flow_dpo
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.sft import sft

__all__ = ["OBJECTIVES", "Objective", "ObjectiveOutput", "diffusion_dpo", "flow_dpo", "get_objective", "sft"]


@dataclass(frozen=True)
class Objective:
    """One row of the table: the function, and its settings class, which holds the facts (layout, needs, paper, ...)."""

    function: Callable[..., ObjectiveOutput]
    params: type[ObjectiveFacts]
    measure: Literal["noise", "sample", "v", "flow", "edm"] | None = (
        None  # the space its paper measures errors in; None: the network's own prediction
    )


OBJECTIVES: dict[str, Objective] = {
    "diffusion_dpo": Objective(diffusion_dpo, DiffusionDPOParams),
    "flow_dpo": Objective(flow_dpo, FlowDPOParams),
    "sft": Objective(sft, SFTParams),
}


def get_objective(name: str) -> Objective:
    """Look up a row of the table.

    Raises:
        ConfigError: no such objective; lists the valid names.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    close = difflib.get_close_matches(name, OBJECTIVES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"no objective {name!r}; there are {', '.join(OBJECTIVES)}{hint}")
