"""Settings of the objectives on preference pairs, and of plain supervised fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from diffalign.config.objectives.facts import ObjectiveFacts


class DiffusionDPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference",)
    data = "pairs"
    beta_factor = 0.5
    paper = "Wallace et al. 2023, Diffusion Model Alignment Using Direct Preference Optimization"

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    beta: PositiveFloat = 5000.0  # authors' released setting for SD1.5; larger stays closer to the reference


class FlowDPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference", "t")
    data = "pairs"
    beta_factor = 0.5
    paper = "Liu et al. 2025, Improving Video Generation with Human Feedback, eq 6"
    families = "flow"

    name: Literal["flow_dpo"] = "flow_dpo"
    beta: PositiveFloat = 100.0  # flow_grpo config/dpo.py for SD3.5-medium, with mean-reduced errors
    schedule: Literal["constant", "one_minus_t_sq"] = "constant"  # the paper's recommended form is constant


class SFTParams(ObjectiveFacts):
    layout = "groups"
    needs = ()
    data = "pairs or groups, best member first; the others, such as a pair's loser, are not used"
    beta_factor = None
    paper = "supervised fine-tuning on the best member: the baseline beside every method"

    name: Literal["sft"] = "sft"
