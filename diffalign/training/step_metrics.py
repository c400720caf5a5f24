"""The figures of one forward, and what becomes of them over a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffalign.denoising import DenoisingErrors
from diffalign.types import GroupBatch

_REWARD_SUMS = ("reward_count", "reward_sum", "reward_squares")
_HALVES = ("good", "bad")


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


def half_sums(errors: DenoisingErrors, batch: GroupBatch, weight: Tensor | None = None) -> dict[str, float]:
    """Count and sum of the errors of good and of bad members, by their labels or as pairs; sums, as a step may have none.

    `weight` as for `error_figures`: what is 0 is not counted.
    """
    seen = errors.policy.detach().double()
    sign = batch.label
    if sign is None:
        sign = seen.new_tensor([[1.0, -1.0]]).expand_as(seen)
    counted = torch.ones_like(sign, dtype=torch.bool) if weight is None else (weight != 0)[:, None].expand_as(sign)
    sums: dict[str, float] = {}
    for half, of_half in zip(_HALVES, (sign > 0, sign < 0), strict=True):
        chosen = seen[of_half & counted]
        sums |= {f"{half}_count": float(len(chosen)), f"{half}_sum": chosen.sum().item()}
    return sums


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


def without_sums(metrics: dict[str, float]) -> dict[str, float]:
    """What a step's sums come to, in their place.

    Mean and spread (standard deviation) of the records' rewards; and `good_error` and `bad_error`, the means over all good
    and all bad members of the step, instead of a mean of the means over its forwards. What nobody has is left out.
    """
    sums = (*_REWARD_SUMS, *(f"{half}_{what}" for half in _HALVES for what in ("count", "sum")))
    rest = {name: value for name, value in metrics.items() if name not in sums}
    for half in _HALVES:
        if (members := metrics.get(f"{half}_count")) is not None:
            rest.pop(f"{half}_error", None)
            rest |= {f"{half}_error": metrics[f"{half}_sum"] / members} if members else {}
    count, total, squares = (metrics.get(name, 0.0) for name in _REWARD_SUMS)
    if not count:
        return rest
    mean = total / count
    return rest | {"reward_mean": mean, "reward_spread": math.sqrt(max(0.0, squares / count - mean**2))}
