"""Settings of the objectives on groups, scores and labels."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat

from diffalign.config.objectives.facts import ObjectiveFacts


class GDROParams(ObjectiveFacts):
    layout = "groups"
    needs = ("reference", "reward")
    optional = ("valid",)
    data = "groups with rewards, drawn once from the reference model"
    beta_factor = 1.0
    paper = "Wang et al. 2026, GDRO: Group-level Reward Post-training Suitable for Diffusion Models"

    name: Literal["gdro"] = "gdro"
    # FLUX.1-dev on text rendering, with 6 members; GenEval there has beta 6, gamma 1. Whether the authors' errors are
    # sums or means is not published: with means only beta * tau counts, so set it to the reward's spread / wanted gap
    beta: PositiveFloat = 12.0
    tau: NonNegativeFloat = 0.05  # 0: plain ranking; the authors found 0.5 too weak, 0.025 unstable
    gamma: NonNegativeFloat = 0.5  # 0 collapses, by the authors
    ranking: Literal["full", "top1"] = "full"
    ties: Literal["order", "average"] = "order"
    normalise: Literal["none", "steps"] = "none"


class FlowRWRParams(ObjectiveFacts):
    layout = "groups"
    needs = ("reward",)
    optional = ("valid",)
    data = "samples or groups with rewards"
    beta_factor = None
    paper = "Liu et al. 2025, Improving Video Generation with Human Feedback, eq 9"
    families = "flow"

    name: Literal["flow_rwr"] = "flow_rwr"
    weighting: Literal["exp", "softmax", "raw"] = "exp"  # the paper's; the authors' image code (flow_grpo) has raw
    temperature: PositiveFloat = 1.0  # the paper's has none: it is absorbed in the reward
    negative: Literal["zero", "keep"] = "zero"  # flow_grpo keeps weights below 0, which push away without bound


class RankDPOParams(ObjectiveFacts):
    layout = "groups"
    needs = ("reference", "reward")
    optional = ("valid",)
    unit_rewards = True
    data = "groups with rewards in [0, 1], such as the share of comparisons won"
    beta_factor = 0.5
    paper = "Karthik et al. 2024, Scalable Ranked Preference Optimization for Text-to-Image Generation"

    name: Literal["rank_dpo"] = "rank_dpo"
    beta: PositiveFloat = 5000.0  # Diffusion-DPO's; the paper's own was not to be read
    normalise: Literal["none", "pairs", "sum"] = "none"  # none is the paper's sum over pairs
    rank_by: Literal["reward", "model"] = "reward"


class GDPOSRParams(ObjectiveFacts):
    layout = "groups"
    needs = ("reference", "advantage")
    data = "groups drawn from the reference for one low-resolution input, with rewards"
    beta_factor = 0.5
    paper = (
        "Yi et al. 2026, GDPO-SR: Group Direct Preference Optimization for One-Step Generative Image Super-Resolution"
    )

    name: Literal["gdpo_sr"] = "gdpo_sr"
    beta: PositiveFloat = 5000.0  # fixed in the authors' training code; their flag beta_dpo is not used


class DRAGONParams(ObjectiveFacts):
    layout = "groups"
    needs = ("reference", "label")
    optional = ("baseline",)  # kto needs it, dpo does not
    data = "groups or samples labelled +1 (positive set) or -1 (negative set), drawn from the current policy"
    beta_factor = 0.5  # of dpo; kto has 1
    paper = "Bai et al. 2025, DRAGON: Distributional Rewards Optimize Diffusion Generative Models"

    name: Literal["dragon"] = "dragon"
    contrast: Literal["dpo", "kto"] = "dpo"  # the paper compares both; which is its default was not to be read
    beta: PositiveFloat = 5000.0  # Diffusion-DPO's, and Diffusion-KTO has 1000: DRAGON's own was not to be read
    desirable: NonNegativeFloat = 1.0  # Diffusion-KTO's
    undesirable: NonNegativeFloat = 1.0  # Diffusion-KTO's

    def inputs(self) -> tuple[str, ...]:
        return (*self.needs, "baseline") if self.contrast == "kto" else self.needs


class DSODROParams(ObjectiveFacts):
    layout = "pairs"  # with labels any number of members
    needs = ()
    optional = ("label",)
    data = "pairs, or samples labelled good (+1) or bad (-1)"
    beta_factor = None
    unbounded = True
    paper = "Li et al. 2025, DSO: Aligning 3D Generators with Simulation Feedback for Physical Soundness"

    name: Literal["dso_dro"] = "dso_dro"
    max_bad_error: PositiveFloat | None = None  # no bound, as the authors: they stop after 4000 steps
    # ours: a bad sample is pushed no further than to so many times the error of its group's good one; None: as the authors
    max_bad_ratio: PositiveFloat | None = 3.0
    bad_weight: NonNegativeFloat = 1.0  # of the bad half; the authors' is 1
