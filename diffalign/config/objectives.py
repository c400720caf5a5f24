"""Settings of every objective, and what can be said about it without importing torch.

The functions in `diffalign.objectives` have no defaults: these are the defaults. `diffalign list objectives`, the
trainer, the docs and the tests read the facts from here through `diffalign.objectives.OBJECTIVES`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from diffalign.config.params import Params

Layout = Literal["points", "pairs", "groups"]


class ObjectiveFacts(Params):
    """The base of every objective's settings.

    Class attributes:
        layout: how many members a group has: 1 (points), 2 with the preferred first (pairs), any (groups).
        needs: the inputs that the function takes by keyword besides the policy's errors.
        data: what records it learns from, in words.
        beta_factor: what multiplies beta inside the loss, or None where there is no beta.
        paper: where it comes from.
        families: "any", or "flow" where only flow models fit.
    """

    layout: ClassVar[Layout]
    needs: ClassVar[tuple[str, ...]]
    data: ClassVar[str]
    beta_factor: ClassVar[float | None]
    paper: ClassVar[str]
    families: ClassVar[Literal["any", "flow"]] = "any"


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


OBJECTIVE_PARAMS: tuple[type[ObjectiveFacts], ...] = (DiffusionDPOParams, FlowDPOParams, SFTParams)

ObjectiveParams = Annotated[DiffusionDPOParams | FlowDPOParams | SFTParams, Field(discriminator="name")]
