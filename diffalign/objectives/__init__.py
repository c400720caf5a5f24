"""Objectives as pure functions of denoising errors [groups, members], and the one table of all of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from diffalign.config.objectives import (
    AlphaDPOParams,
    AWMParams,
    CPOParams,
    CRDParams,
    D3POParams,
    DGPOParams,
    DiffusionDPOParams,
    DiffusionDROParams,
    DiffusionKTOParams,
    DMPOParams,
    DRAGONParams,
    DSODROParams,
    DSPOParams,
    FDPOParams,
    FlowDPOParams,
    FlowGRPOParams,
    FlowRWRParams,
    GDPOSRParams,
    GDROParams,
    IPOParams,
    MaPOParams,
    NFTParams,
    ObjectiveFacts,
    RankDPOParams,
    SDPOParams,
    SFTParams,
    SimPOParams,
    SmPOParams,
)
from diffalign.exceptions import ConfigError
from diffalign.objectives.alpha_dpo import alpha_dpo, alpha_dpo_baseline
from diffalign.objectives.awm import awm
from diffalign.objectives.cpo import cpo
from diffalign.objectives.crd import crd
from diffalign.objectives.d3po import d3po
from diffalign.objectives.dgpo import dgpo
from diffalign.objectives.diffusion_dpo import diffusion_dpo, flow_dpo
from diffalign.objectives.diffusion_dro import diffusion_dro
from diffalign.objectives.diffusion_kto import diffusion_kto, kto_baseline
from diffalign.objectives.dmpo import dmpo
from diffalign.objectives.dragon import dragon
from diffalign.objectives.dso_dro import dso_dro
from diffalign.objectives.dspo import dspo
from diffalign.objectives.f_dpo import f_dpo
from diffalign.objectives.flow_grpo import flow_grpo
from diffalign.objectives.flow_rwr import flow_rwr
from diffalign.objectives.gdpo_sr import gdpo_sr
from diffalign.objectives.gdro import gdro
from diffalign.objectives.ipo import ipo
from diffalign.objectives.mapo import mapo
from diffalign.objectives.nft import nft
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.pair_weights import curriculum_weight, margin_weight
from diffalign.objectives.rank_dpo import rank_dpo
from diffalign.objectives.sdpo import sdpo
from diffalign.objectives.sft import sft
from diffalign.objectives.simpo import simpo
from diffalign.objectives.smpo import smoothed_preference, smpo

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ObjectiveOutput",
    "alpha_dpo",
    "alpha_dpo_baseline",
    "awm",
    "cpo",
    "crd",
    "curriculum_weight",
    "d3po",
    "dgpo",
    "diffusion_dpo",
    "diffusion_dro",
    "diffusion_kto",
    "dmpo",
    "dragon",
    "dso_dro",
    "dspo",
    "f_dpo",
    "flow_dpo",
    "flow_grpo",
    "flow_rwr",
    "gdpo_sr",
    "gdro",
    "get_objective",
    "ipo",
    "kto_baseline",
    "mapo",
    "margin_weight",
    "nft",
    "rank_dpo",
    "sdpo",
    "sft",
    "simpo",
    "smoothed_preference",
    "smpo",
]


@dataclass(frozen=True)
class Objective:
    """One row of the table.

    Attributes:
        function: the objective.
        params: its settings class, which holds the facts (layout, needs, paper, ...).
        measure: the space its paper measures errors in; None: the network's own prediction.
        baseline: of the accumulated, all-process batch: (policy, reference, label, settings) -> what the function
            takes as `baseline`.
        advantage: how rewards become what it takes as `advantage`: a name in advantages.CONVENTIONS, within groups.
    """

    function: Callable[..., ObjectiveOutput]
    params: type[ObjectiveFacts]
    measure: Literal["noise", "sample", "v", "flow", "edm"] | None = None
    baseline: Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor] | None = None
    advantage: str | None = None


def _usual_gain(policy: Tensor, reference: Tensor, label: Tensor, settings: dict[str, Any]) -> Tensor:
    return kto_baseline(policy, reference=reference, label=label, offset="batch")


def _mean_preference(policy: Tensor, reference: Tensor, label: Tensor, settings: dict[str, Any]) -> Tensor:
    return alpha_dpo_baseline(policy, reference=reference, beta=settings["beta"])


OBJECTIVES: dict[str, Objective] = {
    "diffusion_dpo": Objective(diffusion_dpo, DiffusionDPOParams),
    "flow_dpo": Objective(flow_dpo, FlowDPOParams),
    "sft": Objective(sft, SFTParams),
    "flow_grpo": Objective(flow_grpo, FlowGRPOParams),
    "nft": Objective(nft, NFTParams, measure="flow"),
    "awm": Objective(awm, AWMParams),
    "dgpo": Objective(dgpo, DGPOParams),
    "crd": Objective(crd, CRDParams),
    "gdro": Objective(gdro, GDROParams),
    "flow_rwr": Objective(flow_rwr, FlowRWRParams),
    "rank_dpo": Objective(rank_dpo, RankDPOParams),
    "gdpo_sr": Objective(gdpo_sr, GDPOSRParams, advantage="gdpo_sr"),
    "dragon": Objective(dragon, DRAGONParams, baseline=_usual_gain),
    "dso_dro": Objective(dso_dro, DSODROParams),
    "smpo": Objective(smpo, SmPOParams),
    "diffusion_dro": Objective(diffusion_dro, DiffusionDROParams),
    "d3po": Objective(d3po, D3POParams),
    "diffusion_kto": Objective(diffusion_kto, DiffusionKTOParams, baseline=_usual_gain),
    "mapo": Objective(mapo, MaPOParams),
    "dmpo": Objective(dmpo, DMPOParams),
    "dspo": Objective(dspo, DSPOParams),
    "sdpo": Objective(sdpo, SDPOParams),
    "ipo": Objective(ipo, IPOParams),
    "simpo": Objective(simpo, SimPOParams),
    "cpo": Objective(cpo, CPOParams),
    "f_dpo": Objective(f_dpo, FDPOParams),
    "alpha_dpo": Objective(alpha_dpo, AlphaDPOParams, baseline=_mean_preference),
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
