"""The figures of one forward, and what becomes of them over a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffalign.denoising import DenoisingErrors
from diffalign.types import GroupBatch

_REWARD_SUMS = ("reward_count", "reward_sum", "reward_squares")


def error_figures(errors: DenoisingErrors, batch: GroupBatch, weight: Tensor | None = None) -> dict[str, float]:
    """Winner and loser errors of policy and reference, and how far the policy has drifted from the reference.

    Members that carry labels of their own are no winners and losers; their objectives report them. `weight` [groups] is
    what a group's loss is multiplied by: one whose rewards say nothing has no winner either, and 0.
    """
    figures: dict[str, float] = {}
    if batch.label is None:
        for prefix, each in (("", errors.policy), ("reference_", errors.reference)):
            if each is not None:
                counted = each.detach() if weight is None else each.detach() * weight[:, None]
                figures[f"{prefix}winner_error"] = counted[:, 0].mean().item()
                if each.shape[1] > 1:
                    figures[f"{prefix}loser_error"] = counted[:, -1].mean().item()
    if errors.residuals is not None and "reference" in errors.residuals:
        apart = errors.residuals["policy"].detach() - errors.residuals["reference"]
        figures["reference_drift"] = apart.square().mean().item()
    return figures


def reward_sums(batch: GroupBatch, told: Tensor | None = None) -> dict[str, float]:
    """Count, sum and sum of squares of the rewards that are there; sums, so that they do not depend on the split.

    `told` says where they are [groups, members], if some only stand in for missing ones.
    """
    if batch.reward is None:
        return {}
    there = torch.isfinite(batch.reward) if told is None else torch.isfinite(batch.reward) & told
    seen = batch.reward[there].double()
    return {
        "reward_count": float(len(seen)),
        "reward_sum": seen.sum().item(),
        "reward_squares": seen.square().sum().item(),
    }


def with_reward_spread(metrics: dict[str, float]) -> dict[str, float]:
    """With mean and spread (standard deviation) of the records' rewards in the place of their sums."""
    rest = {name: value for name, value in metrics.items() if name not in _REWARD_SUMS}
    count, total, squares = (metrics.get(name, 0.0) for name in _REWARD_SUMS)
    if not count:
        return rest
    mean = total / count
    return rest | {"reward_mean": mean, "reward_spread": math.sqrt(max(0.0, squares / count - mean**2))}
