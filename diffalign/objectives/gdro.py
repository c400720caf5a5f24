"""GDRO (Wang et al. 2026): group-level direct reward optimisation, offline, on rewards of whole groups.

The reward enters raw: the optimum has beta (reference - policy) = reward / tau + const, so beta * tau sets how far it
sits from the reference. beta here is twice as strong as in `diffusion_dpo`, which halves it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32
from diffalign.objectives.ranking import counted_members, mean_over_pairs, preferred_pairs, rank_members, silent_groups

_MOST_AVERAGED = 12  # members: the average over tied orders visits all 2^members sets


@at_least_float32
def gdro(
    policy: Float[Tensor, "groups members"],
    *,
    reference: Float[Tensor, "groups members"],
    reward: Float[Tensor, "groups members"],
    valid: Bool[Tensor, "groups members"] | None = None,
    beta: float,
    tau: float,
    gamma: float,
    ranking: Literal["full", "top1"],
    ties: Literal["order", "average"],
    normalise: Literal["none", "steps"],
) -> ObjectiveOutput:
    """Cross entropy between softmax(reward / tau) and softmax(score), as the best is removed again and again.

        s_i  = beta (reference_i - policy_i)
        loss = sum_{i < k} [ logsumexp_{m >= i} s_m - sum_{j >= i} q_i(j) s_j ] + gamma policy_1
        q_i  = softmax of reward / tau over the members {i..k}, which are sorted by falling reward

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        reward: any scale; higher is better. NaN in a member that counts spoils its group.
        valid: which k of the n members take part; None: all.
        beta: strength of the pull to the reference (> 0).
        tau: temperature of the target (>= 0); 0 is the plain ranking loss, uniform over the tied best.
        gamma: weight of the error of the best member, which keeps its likelihood from falling (>= 0).
        ranking: "full" is the paper's loss; "top1" its first term alone, which fits the same optimum.
        ties: tied members in the "order" they stand in (permute them at random beforehand), or the exact "average"
            over all their orders; the regulariser takes the first of the tied best, or their mean.
        normalise: "none" sums over i as printed; "steps" takes the mean, for groups of different k.

    Returns:
        loss [groups], ln k! + gamma policy_1 at the reference; a group with fewer than 2 members keeps the last term
        alone. Metrics: `margin` (s of the best less s of the worst), `reward_margin` (the same of the reward: at the
        optimum margin = reward_margin / tau), `pair_accuracy` (over the pairs that the reward orders), `best_error`,
        `silent_groups` (share of groups in which the reward orders no pair).

    Raises:
        ConfigError: no such option; more than 12 members with ties="average".

    Source: Wang et al. 2026, "GDRO: Group-level Reward Post-training Suitable for Diffusion Models", eqs 5-9 (plain
    ranking eq 12, top-1 eq 6). No code was published, nor whether errors are sums or means: ours are means.
    """
    _check(ranking, ties, normalise, policy.shape[1])
    counted = counted_members(valid, policy)
    score = beta * (reference - policy).masked_fill(~counted, 0.0)
    seen = reward.masked_fill(~counted, 0.0)
    rank = rank_members(reward, counted)
    if ranking == "top1":
        remaining, weight = counted[:, None], (counted.sum(1, keepdim=True) >= 2).to(score.dtype)
    elif ties == "order":
        remaining = (rank[:, None, :] >= rank[:, :, None]) & counted[:, None, :] & counted[:, :, None]
        weight = (remaining.sum(-1) >= 2).to(score.dtype)
    else:
        remaining, weight = _average_over_orders(reward, counted)
    loss = (weight * _cross_entropy(score, seen, tau, remaining | (weight == 0)[..., None])).sum(1)
    if normalise == "steps":
        loss = loss / weight.sum(1).clamp(min=1)
    best = (rank == 0) & counted
    top = seen.masked_fill(~best, 0.0).sum(1, keepdim=True)
    tied_best = counted & (seen == top) if ties == "average" else best
    share = tied_best / tied_best.sum(1, keepdim=True).clamp(min=1)
    best_error = (share * policy.masked_fill(~counted, 0.0)).sum(1)
    loss = loss + gamma * best_error
    loss = loss.masked_fill(seen.isnan().any(1), torch.nan)  # a NaN reward is not for the comparisons above to hide
    pairs = preferred_pairs(reward, counted)
    last = rank == (counted.sum(1, keepdim=True) - 1)
    ends = (best.to(score.dtype) - (last & counted).to(score.dtype)).detach()
    return ObjectiveOutput(
        loss=loss,
        metrics={
            "margin": (ends * score.detach()).sum(1).mean(),
            "reward_margin": (ends * seen).sum(1).mean(),
            "pair_accuracy": mean_over_pairs((score[:, :, None] > score[:, None, :]).to(score.dtype), pairs),
            "best_error": best_error.detach().mean(),
            "silent_groups": silent_groups(pairs),
        },
    )


def _cross_entropy(
    score: Float[Tensor, "groups members"],
    reward: Float[Tensor, "groups members"],
    tau: float,
    remaining: Bool[Tensor, "groups sets members"],
) -> Float[Tensor, "groups sets"]:
    """logsumexp of the scores less their mean under the target, over each set of remaining members."""
    among = reward[:, None, :].masked_fill(~remaining, -torch.inf)
    if tau > 0:
        target = (among / tau).softmax(-1)
    else:
        target = (among == among.amax(-1, keepdim=True)).to(score.dtype)
        target = target / target.sum(-1, keepdim=True)
    scores = score[:, None, :]
    return scores.masked_fill(~remaining, -torch.inf).logsumexp(-1) - (target * scores).sum(-1)


def _average_over_orders(
    reward: Float[Tensor, "groups members"], counted: Bool[Tensor, "groups members"]
) -> tuple[Bool[Tensor, "groups sets members"], Float[Tensor, "groups sets"]]:
    """Every set that may remain when tied members are removed in any order, and its probability to do so."""
    members = reward.shape[1]
    index = torch.arange(members, device=reward.device)
    sets = ((torch.arange(2**members, device=reward.device)[:, None] >> index) & 1).bool()[None]
    inside = sets & counted[:, None, :]
    value = reward[:, None, :]
    top = value.masked_fill(~inside, -torch.inf).amax(-1, keepdim=True)
    skipped = (~sets & counted[:, None, :] & (value < top)).any(-1)  # a worse one left before a better one
    tied = (counted[:, None, :] & (value == top)).sum(-1)
    left = (inside & (value == top)).sum(-1)
    choices = [[math.comb(n, k) or 1 for k in range(members + 1)] for n in range(members + 1)]
    probability = 1 / torch.tensor(choices, dtype=reward.dtype, device=reward.device)[tied, left]
    possible = (inside == sets).all(-1) & ~skipped & (inside.sum(-1) >= 2)
    return inside, probability * possible


def _check(ranking: str, ties: str, normalise: str, members: int) -> None:
    if ranking not in ("full", "top1"):
        raise ConfigError(f"ranking: must be full or top1, got {ranking!r}")
    if ties not in ("order", "average"):
        raise ConfigError(f"ties: must be order or average, got {ties!r}")
    if normalise not in ("none", "steps"):
        raise ConfigError(f"normalise: must be none or steps, got {normalise!r}")
    if ties == "average" and members > _MOST_AVERAGED:
        raise ConfigError(f"ties: average takes at most {_MOST_AVERAGED} members, got {members}; use order")
