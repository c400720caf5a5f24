"""Flow-RWR (Liu et al. 2025): reward-weighted regression, flow matching with the reward as weight of the loss."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32
from diffalign.objectives.ranking import counted_members


@at_least_float32
def flow_rwr(
    policy: Float[Tensor, "groups members"],
    *,
    reward: Float[Tensor, "groups members"],
    valid: Bool[Tensor, "groups members"] | None = None,
    weighting: Literal["exp", "softmax", "raw"],
    temperature: float,
    negative: Literal["zero", "keep"],
) -> ObjectiveOutput:
    """Each member's error times a weight that grows with its reward; no reference, no negatives.

        exp      loss = mean_i exp(reward_i / temperature) policy_i
        softmax  loss = sum_i softmax_i(reward / temperature) policy_i
        raw      loss = mean_i reward_i policy_i

    Args:
        policy: velocity error of the trained model.
        reward: higher is better. Standardise it for "exp": exp(22) of a raw PickScore drowns the rest of the batch.
        valid: which members take part; None: all.
        weighting: "exp" is the paper's; "softmax" within the group bounds the weights and is what the Flow-GRPO paper
            compares with; "raw" is what the authors' flow_grpo code does.
        temperature: of the KL problem that the weights solve (> 0); "raw" has none.
        negative: weights below 0 (raw rewards only) push the model away from a sample without bound: set them to
            "zero", or "keep" them as the code does.

    Returns:
        loss [groups]; metrics `weight_mean`, `effective_share` ((sum w)^2 / (k sum w^2): 1 where all weigh the same)
        and `negative_share` (of the members whose reward asks for a weight below 0).

    Raises:
        ConfigError: no such option.

    Source: Liu et al. 2025, "Improving Video Generation with Human Feedback", eq 9, without code for it; flow_grpo
    stat_tracking.py (type "rwr"); Liu et al. 2025, "Flow-GRPO", appendix C.1 (softmax).
    """
    if weighting not in ("exp", "softmax", "raw"):
        raise ConfigError(f"weighting: must be exp, softmax or raw, got {weighting!r}")
    if negative not in ("zero", "keep"):
        raise ConfigError(f"negative: must be zero or keep, got {negative!r}")
    counted = counted_members(valid, policy)
    members = counted.sum(1).clamp(min=1)
    seen = reward.detach().masked_fill(~counted, 0.0)
    if weighting == "softmax":
        # a group without members is left whole: its weights are finite, and its errors count 0 below
        among = seen.masked_fill(~counted & counted.any(1, keepdim=True), -float("inf"))
        weight = (among / temperature).softmax(1)
    else:
        weight = (seen / temperature).exp() if weighting == "exp" else seen
    below = (weight < 0) & counted
    if negative == "zero":
        weight = weight.masked_fill(below, 0.0)
    weight = weight.masked_fill(~counted, 0.0)
    squares = weight.square().sum(1)
    effective = weight.abs().sum(1).square() / (members * squares.masked_fill(squares == 0, 1.0))
    total = (weight * policy.masked_fill(~counted, 0.0)).sum(1)
    return ObjectiveOutput(
        loss=total if weighting == "softmax" else total / members,
        metrics={
            "weight_mean": (weight.sum(1) / members).mean(),
            "effective_share": effective.mean(),
            "negative_share": (below.sum(1) / members).mean(),
        },
    )
