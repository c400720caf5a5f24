"""Settings of every objective: one class each, told apart by `name`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from diffalign.config.objectives.facts import Layout, ObjectiveFacts
from diffalign.config.objectives.groups import (
    DRAGONParams,
    DSODROParams,
    FlowRWRParams,
    GDPOSRParams,
    GDROParams,
    RankDPOParams,
)
from diffalign.config.objectives.online import AWMParams, CRDParams, DGPOParams, FlowGRPOParams, NFTParams
from diffalign.config.objectives.pair_weights import CurriculumWeightParams, MarginWeightParams, PairWeightParams
from diffalign.config.objectives.pairs import (
    AlphaDPOParams,
    CPOParams,
    D3POParams,
    DiffusionDPOParams,
    DiffusionDROParams,
    DiffusionKTOParams,
    DMPOParams,
    DSPOParams,
    FDPOParams,
    FlowDPOParams,
    IPOParams,
    MaPOParams,
    SDPOParams,
    SFTParams,
    SimPOParams,
    SmPOParams,
)

__all__ = [
    "OBJECTIVE_PARAMS",
    "AWMParams",
    "AlphaDPOParams",
    "CPOParams",
    "CRDParams",
    "CurriculumWeightParams",
    "D3POParams",
    "DGPOParams",
    "DMPOParams",
    "DRAGONParams",
    "DSODROParams",
    "DSPOParams",
    "DiffusionDPOParams",
    "DiffusionDROParams",
    "DiffusionKTOParams",
    "FDPOParams",
    "FlowDPOParams",
    "FlowGRPOParams",
    "FlowRWRParams",
    "GDPOSRParams",
    "GDROParams",
    "IPOParams",
    "Layout",
    "MaPOParams",
    "MarginWeightParams",
    "NFTParams",
    "ObjectiveFacts",
    "ObjectiveParams",
    "PairWeightParams",
    "RankDPOParams",
    "SDPOParams",
    "SFTParams",
    "SimPOParams",
    "SmPOParams",
]

OBJECTIVE_PARAMS: tuple[type[ObjectiveFacts], ...] = (
    DiffusionDPOParams,
    FlowDPOParams,
    SFTParams,
    FlowGRPOParams,
    NFTParams,
    AWMParams,
    DGPOParams,
    CRDParams,
    GDROParams,
    FlowRWRParams,
    RankDPOParams,
    GDPOSRParams,
    DRAGONParams,
    DSODROParams,
    SmPOParams,
    DiffusionDROParams,
    D3POParams,
    DiffusionKTOParams,
    MaPOParams,
    DMPOParams,
    DSPOParams,
    SDPOParams,
    IPOParams,
    SimPOParams,
    CPOParams,
    FDPOParams,
    AlphaDPOParams,
)

ObjectiveParams = Annotated[
    DiffusionDPOParams
    | FlowDPOParams
    | SFTParams
    | FlowGRPOParams
    | NFTParams
    | AWMParams
    | DGPOParams
    | CRDParams
    | GDROParams
    | FlowRWRParams
    | RankDPOParams
    | GDPOSRParams
    | DRAGONParams
    | DSODROParams
    | SmPOParams
    | DiffusionDROParams
    | D3POParams
    | DiffusionKTOParams
    | MaPOParams
    | DMPOParams
    | DSPOParams
    | SDPOParams
    | IPOParams
    | SimPOParams
    | CPOParams
    | FDPOParams
    | AlphaDPOParams,
    Field(discriminator="name"),
]
