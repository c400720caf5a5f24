"""RankDPO (Karthik et al. 2024): all pairs of a ranked group, weighted by what a swap would cost in DCG.

The reward is meant to be a share in [0, 1], such as `data.reward_votes.share_of_rivals_beaten` makes from several
reward models: the gain is 2^reward - 1, which explodes on raw scores.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32
from diffalign.objectives.ranking import counted_members, mean_over_pairs, preferred_pairs, rank_members, silent_groups


@at_least_float32
def rank_dpo(
    policy: Float[Tensor, "groups members"],
    *,
    reference: Float[Tensor, "groups members"],
    reward: Float[Tensor, "groups members"],
    valid: Bool[Tensor, "groups members"] | None = None,
    beta: float,
    normalise: Literal["none", "pairs", "sum"],
    rank_by: Literal["reward", "model"],
) -> ObjectiveOutput:
    """Logistic loss on every pair i preferred to j, times the change in DCG if the two changed places.

        loss  = sum_{i over j} D_ij (-log sigmoid(beta/2 ((reference_i - policy_i) - (reference_j - policy_j))))
        D_ij  = |2^reward_i - 2^reward_j| |1 / ln(1 + rank_i) - 1 / ln(1 + rank_j)|,  best rank 1

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        reward: in [0, 1], higher is better; pairs with equal rewards drop out, NaN spoils its group.
        valid: which members take part; None: all.
        beta: strength of the pull to the reference (> 0). The half makes it that of `diffusion_dpo`.
        normalise: "none" sums over pairs as in the paper (about 1 for 4 members); "pairs" divides by the number of
            pairs k (k - 1) / 2; "sum" by the sum of the weights, so that beta and learning rate carry over from DPO.
        rank_by: ranks by "reward" (the paper's definition and algorithm 2), or by the "model"'s own gain (as its
            section 3.3 and figure 2 can be read). Tied members rank in the order they stand in: permute them before.

    Returns:
        loss [groups]; metrics `margin` and `pair_accuracy` (means over the pairs that the reward orders), `weight_sum`
        (sum of D over a group) and `silent_groups` (share of groups in which the reward orders no pair).

    Raises:
        ConfigError: no such option.

    Source: Karthik et al. 2024, "Scalable Ranked Preference Optimization for Text-to-Image Generation", eqs 5-7. No
    code was published, nor beta; the paper writes sums over elements and beta without the half.
    """
    if normalise not in ("none", "pairs", "sum"):
        raise ConfigError(f"normalise: must be none, pairs or sum, got {normalise!r}")
    if rank_by not in ("reward", "model"):
        raise ConfigError(f"rank_by: must be reward or model, got {rank_by!r}")
    counted = counted_members(valid, policy)
    gain = (reference - policy).masked_fill(~counted, 0.0)
    seen = reward.masked_fill(~counted, 0.0)
    pairs = preferred_pairs(reward, counted)
    weight = _dcg_weight(seen, seen if rank_by == "reward" else gain.detach(), counted) * pairs  # NaN * False is NaN
    margin = 0.5 * beta * (gain[:, :, None] - gain[:, None, :])
    loss = (weight * F.softplus(-margin)).sum((1, 2))
    total = weight.sum((1, 2))
    if normalise == "pairs":
        members = counted.sum(1)
        loss = loss / (members * (members - 1) / 2).clamp(min=1)
    elif normalise == "sum":
        loss = loss / total.masked_fill(total == 0, 1.0)
    return ObjectiveOutput(
        loss=loss,
        metrics={
            "margin": mean_over_pairs(margin, pairs),
            "pair_accuracy": mean_over_pairs((margin > 0).to(margin.dtype), pairs),
            "weight_sum": total.detach().mean(),
            "silent_groups": silent_groups(pairs),
        },
    )


def _dcg_weight(
    reward: Float[Tensor, "groups members"],
    ranked: Float[Tensor, "groups members"],
    counted: Bool[Tensor, "groups members"],
) -> Float[Tensor, "groups members rivals"]:
    """Change in discounted cumulative gain if members i and j changed places; no gradient."""
    gain = torch.expm1(math.log(2) * reward.detach())
    discount = 1 / torch.log1p(rank_members(ranked, counted).to(gain.dtype) + 1)  # natural; log2 is a loss scale
    apart = gain[:, :, None] - gain[:, None, :]
    return apart.abs() * (discount[:, :, None] - discount[:, None, :]).abs()
