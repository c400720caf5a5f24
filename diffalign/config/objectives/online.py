"""Settings of the objectives on the policy's own trajectories and samples: online reinforcement learning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from diffalign.config.objectives.facts import ObjectiveFacts

_SAMPLES = "prompts and a reward; it learns from groups of the policy's own samples"


class FlowGRPOParams(ObjectiveFacts):
    layout = "groups"
    first = "log_prob"
    needs = ("behaviour_log_prob", "advantage")
    optional = ("divergence", "behaviour_divergence", "std")
    online = True
    data = "prompts and a reward; it learns from groups of the policy's own trajectories"
    beta_factor = None
    paper = "Liu et al. 2025, Flow-GRPO: Training Flow Matching Models via Online RL"

    # flow_grpo's config/base.py, but for what is None or off there too
    name: Literal["flow_grpo"] = "flow_grpo"
    clip: PositiveFloat | None = 1e-4  # of the ratio; FLUX fast 1e-5, Wan 1e-3; null with max_divergence
    advantage_clip: PositiveFloat | None = 5.0
    guard: bool = False  # GRPO-Guard's ratio
    max_divergence: PositiveFloat | None = None  # Flow-DPPO's mask; 1e-5 in its code
    kl_weight: NonNegativeFloat = 0.0  # 0.04 GenEval and OCR, 0.01 PickScore, for a divergence by s_t^2 alone

    def inputs(self) -> tuple[str, ...]:
        about_behaviour = self.guard or self.max_divergence is not None
        return (
            *self.needs,
            *(["divergence"] if self.kl_weight else []),
            *(["behaviour_divergence"] if about_behaviour else []),
            *(["std"] if self.guard else []),
        )


class NFTParams(ObjectiveFacts):
    layout = "groups"
    first = "policy_residual"
    needs = ("behaviour_residual", "advantage", "t")
    optional = ("reference_residual",)
    online = True
    data = _SAMPLES
    beta_factor = None  # its beta mixes two networks and weighs no error gap
    paper = "Zheng et al. 2025, DiffusionNFT: Online Diffusion Reinforcement with Forward Process"
    families = "flow"

    # DiffusionNFT's config/nft.py and base.py
    name: Literal["nft"] = "nft"
    beta: PositiveFloat = 1.0  # GenEval, PickScore, HPS; 0.1 for OCR and several rewards
    advantage_clip: PositiveFloat = 5.0
    normalise: bool = True  # each error by its own mean size
    kl_weight: NonNegativeFloat = 1e-4

    def inputs(self) -> tuple[str, ...]:
        return (*self.needs, *(["reference_residual"] if self.kl_weight else []))


class AWMParams(ObjectiveFacts):
    layout = "groups"
    needs = ("behaviour", "advantage", "t")
    optional = ("divergence", "ema_divergence")
    online = True
    data = _SAMPLES
    beta_factor = None
    paper = "Xue et al. 2025, Advantage Weighted Matching: Aligning RL with Pretraining in Diffusion Models"

    # advantage_weighted_matching's config/dgx_awm.py, GenEval
    name: Literal["awm"] = "awm"
    weighting: Literal["uniform", "t", "t_squared", "huber", "ghuber"] = "ghuber"
    power: Annotated[float, Field(gt=0, le=1)] = 0.25  # of ghuber
    clip: PositiveFloat | None = 1.0  # hardly ever reached
    advantage_clip: PositiveFloat = 5.0
    advantage_scale: PositiveFloat = 1.0  # the largest advantage after clipping
    kl_weight: NonNegativeFloat = 1e-3  # to the reference; 3e-3 for OCR
    ema_weight: NonNegativeFloat = 1.0  # to a moving average of the policy, decay min(0.3, 0.001 step)

    def inputs(self) -> tuple[str, ...]:
        return (
            *self.needs,
            *(["divergence"] if self.kl_weight else []),
            *(["ema_divergence"] if self.ema_weight else []),
        )


class DGPOParams(ObjectiveFacts):
    layout = "groups"
    needs = ("reference", "behaviour", "advantage")
    optional = ("divergence",)
    online = True
    data = _SAMPLES
    beta_factor = 0.5  # for a pair with advantages 1 and -1; 1 / members in general
    paper = "Luo et al. 2025, Reinforcing Diffusion Models by Direct Group Preference Optimization"

    # DGPO's config/dgpo.py, SD3.5 medium
    name: Literal["dgpo"] = "dgpo"
    beta: PositiveFloat = 100.0
    clip: PositiveFloat | None = 1e-2  # of exp(behaviour - policy); 1e-5 to 1e-3 without guidance
    advantage_clip: PositiveFloat | None = 5.0
    kl_weight: NonNegativeFloat = 0.02
    form: Literal["weighted", "logistic"] = "weighted"  # the code's; logistic is the paper's, beta times its gradient

    def inputs(self) -> tuple[str, ...]:
        return (*self.needs, *(["divergence"] if self.kl_weight else []))


class CRDParams(ObjectiveFacts):
    layout = "groups"
    needs = ("behaviour", "advantage")
    optional = ("policy_residual", "behaviour_residual", "divergence")
    online = True
    data = _SAMPLES
    beta_factor = 1.0
    paper = "Diffusion Reinforcement Learning via Centered Reward Distillation, 2026 (arXiv 2603.14128)"

    # Flow-Factory's CRDTrainingArguments
    name: Literal["crd"] = "crd"
    beta: PositiveFloat = 1.0
    loss: Literal["mse", "bce"] = "mse"
    temperature: PositiveFloat | None = None  # of the weighted centres; null: the group's mean
    adaptive: bool = True  # each error by its own mean size
    advantage_clip: PositiveFloat = 5.0
    kl_weight: NonNegativeFloat = 0.1  # to the reference, guided at 4.5 there
    adaptive_kl: bool = True  # more KL to the members with more reward

    def inputs(self) -> tuple[str, ...]:
        return (
            *self.needs,
            *(["policy_residual", "behaviour_residual"] if self.adaptive else []),
            *(["divergence"] if self.kl_weight else []),
        )
