"""Settings of the objectives on preference pairs, and of plain supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat

from diffalign.config.objectives.facts import ObjectiveFacts


def _fits_the_loss(value: float, info: Any) -> float:  # pydantic's ValidationInfo, which beartype cannot check
    loss = info.data.get("loss")
    if loss == "robust" and value == 0:
        raise ValueError("must be > 0 with loss: robust, got 0")
    if loss == "hinge" and value != 0:
        raise ValueError(f"must be 0 with loss: hinge, got {value:g}")
    return value


# After a field `loss`: the probability that a label is wrong
LabelSmoothing = Annotated[float, Field(ge=0, lt=0.5), AfterValidator(_fits_the_loss)]


class DiffusionDPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference",)
    data = "pairs"
    beta_factor = 0.5
    paper = "Wallace et al. 2023, Diffusion Model Alignment Using Direct Preference Optimization"

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    beta: PositiveFloat = 5000.0  # authors' released setting for SD1.5; larger stays closer to the reference
    loss: Literal["sigmoid", "hinge", "robust"] = "sigmoid"  # the paper's
    label_smoothing: LabelSmoothing = 0.0  # with sigmoid it is cDPO; robust needs it


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
    loss: Literal["sigmoid", "hinge", "robust"] = "sigmoid"  # the paper's
    label_smoothing: LabelSmoothing = 0.0  # with sigmoid it is cDPO; robust needs it


class SFTParams(ObjectiveFacts):
    layout = "groups"
    needs = ()
    data = "pairs or groups, best member first; the others, such as a pair's loser, are not used"
    beta_factor = None
    paper = "supervised fine-tuning on the best member: the baseline beside every method"

    name: Literal["sft"] = "sft"


class SmPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference", "preference")
    data = "pairs with preferences in [0, 1], such as a softmax of both members' rewards"
    beta_factor = 0.5
    paper = "Lu et al. 2025, Smoothed Preference Optimization via ReNoise Inversion"

    name: Literal["smpo"] = "smpo"
    beta: PositiveFloat = 2000.0  # authors' setting for SD1.5; 5000 for SDXL
    scale: PositiveFloat = 10.0  # the paper's gamma; authors' train.py


class DiffusionDROParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference",)
    online = True
    experts = True
    data = "good samples only (experts); the policy's own samples are the other members"
    beta_factor = None
    paper = "Wu et al. 2025, Ranking-based Preference Optimization from Implicit User Feedback"

    name: Literal["diffusion_dro"] = "diffusion_dro"
    margin: NonNegativeFloat = 0.001  # authors' train.py and paper; in units of the error


class D3POParams(ObjectiveFacts):
    layout = "pairs"
    first = "log_prob"
    needs = ("reference_log_prob", "preference")
    online = True
    data = "prompts: two trajectories of each are compared, by a reward or by people"
    beta_factor = 1.0
    paper = "Yang et al. 2024, Using Human Feedback to Fine-tune Diffusion Models without Any Reward Model"

    name: Literal["d3po"] = "d3po"
    beta: PositiveFloat = 0.1  # authors' setting; SPO has 10
    clip: float = Field(default=0.1, gt=0, lt=1)  # authors' setting, for log-densities that are means over elements


class DiffusionKTOParams(ObjectiveFacts):
    layout = "points"
    needs = ("reference", "label", "baseline")
    data = "labelled: single samples, good or bad"
    beta_factor = 1.0
    paper = "Li et al. 2024, Aligning Diffusion Models by Optimizing Human Utility"

    name: Literal["diffusion_kto"] = "diffusion_kto"
    beta: PositiveFloat = 1000.0  # authors' default, without a 1/2
    desirable: NonNegativeFloat = 1.0  # authors' default; weight of good samples
    undesirable: NonNegativeFloat = 1.0  # authors' default; weight of bad samples


class MaPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ()
    data = "pairs"
    beta_factor = None
    paper = "Hong et al. 2024, Margin-aware Preference Optimization for Aligning Diffusion Models without Reference"

    name: Literal["mapo"] = "mapo"
    weight: NonNegativeFloat = 0.1  # authors' beta_mapo
    scale: PositiveFloat = 1000.0  # authors' number of training timesteps
    snr: PositiveFloat = 0.5  # authors' snr_value


class DMPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference",)
    data = "pairs"
    beta_factor = 0.5
    paper = "Li et al. 2025, Divergence Minimization Preference Optimization for Diffusion Model Alignment"

    name: Literal["dmpo"] = "dmpo"
    beta: PositiveFloat = 2000.0  # launcher for SD1.5 in Diffusion-SDPO; 6000 for SDXL
    alpha: float = Field(default=0.01, gt=0, lt=1)  # the same launcher


class DSPOParams(ObjectiveFacts):
    layout = "pairs"
    first = "policy_residual"
    needs = ("reference_residual",)
    data = "pairs"
    beta_factor = 0.5  # inside the sigmoid; the shift has beta itself
    paper = "Zhu et al. 2025, DSPO: Direct Score Preference Optimization for Diffusion Model Alignment"

    name: Literal["dspo"] = "dspo"
    beta: PositiveFloat = 0.001  # authors' launcher for SD1.5; 5000 with form sdxl
    form: Literal["sd15", "sdxl"] = "sd15"  # the two branches of the authors' code


class SDPOParams(ObjectiveFacts):
    layout = "pairs"
    first = "policy_residual"
    needs = ("reference_residual",)
    data = "pairs"
    beta_factor = 0.5
    paper = "Fu et al. 2025, Diffusion-SDPO: Safeguarded Direct Preference Optimization for Diffusion Models"

    name: Literal["sdpo"] = "sdpo"
    beta: PositiveFloat = 5000.0  # authors' launchers with inner diffusion_dpo; dmpo 2000, dspo 0.001
    mu: float = Field(default=0.9, ge=0, le=1)  # authors' launcher for SD1.5; 0.6 for SDXL, 0.2 with dspo
    scope: Literal["pair", "batch"] = "pair"  # the authors' code has one scale for the batch of a process
    inner: Literal["diffusion_dpo", "dmpo", "dspo"] = "diffusion_dpo"
    alpha: float = Field(default=0.01, gt=0, lt=1)  # for dmpo: its default
    form: Literal["sd15", "sdxl"] = "sd15"  # for dspo: its default


class IPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference",)
    data = "pairs"
    beta_factor = 0.5
    paper = "Azar et al. 2023, A General Theoretical Paradigm to Understand Learning from Human Preferences"

    name: Literal["ipo"] = "ipo"
    beta: PositiveFloat = 5000.0  # Diffusion-DPO's; none is published for diffusion
    unit: Literal["margin", "error"] = "margin"  # error is the paper's own scale: losses of about 1e-7


class SimPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ()
    data = "pairs"
    beta_factor = 0.5
    paper = "Meng et al. 2024, SimPO: Simple Preference Optimization with a Reference-Free Reward"

    name: Literal["simpo"] = "simpo"
    beta: PositiveFloat = 5000.0  # Diffusion-DPO's; none is published for diffusion
    gamma: NonNegativeFloat = 0.5  # none is published for diffusion; language models have 0.3 to 1.6


class CPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ()
    data = "pairs"
    beta_factor = 0.5
    paper = "Xu et al. 2024, Contrastive Preference Optimization"

    name: Literal["cpo"] = "cpo"
    beta: PositiveFloat = 5000.0  # Diffusion-DPO's; none is published for diffusion
    weight: NonNegativeFloat = 1.0  # the paper's eq 5, for language models


class FDPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference",)
    data = "pairs"
    beta_factor = 0.5
    paper = "Wang et al. 2023, Beyond Reverse KL: Generalizing Direct Preference Optimization"

    name: Literal["f_dpo"] = "f_dpo"
    beta: PositiveFloat = 5000.0  # Diffusion-DPO's, with which reverse_kl is diffusion_dpo
    strength: PositiveFloat = 1.0  # likewise
    f_divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "jensen_shannon"
    alpha: float = Field(default=0.5, gt=0, le=1)  # for the alpha divergence


class AlphaDPOParams(ObjectiveFacts):
    layout = "pairs"
    needs = ("reference", "baseline")
    data = "pairs, also with wrong labels among them"
    beta_factor = 0.5
    paper = "Li et al. 2026, alpha-DPO: Robust Preference Alignment for Diffusion Models via alpha Divergence"

    name: Literal["alpha_dpo"] = "alpha_dpo"
    beta: PositiveFloat = 4000.0  # authors' launcher, SDXL
    alpha: float = Field(default=0.9999, gt=0, lt=1)  # authors' launcher
    adaptive: bool = True  # authors' launcher (reweight_step -1): the order is alpha times the batch's mean preference
