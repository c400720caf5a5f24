"""What the objectives on whole groups share: which members count, their ranks, and which pairs are ordered."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def counted_members(
    valid: Bool[Tensor, "groups members"] | None, like: Float[Tensor, "groups members"]
) -> Bool[Tensor, "groups members"]:
    """`valid`, or all members where none is given."""
    return torch.ones_like(like, dtype=torch.bool) if valid is None else valid


def rank_members(
    score: Float[Tensor, "groups members"], counted: Bool[Tensor, "groups members"]
) -> Int[Tensor, "groups members"]:
    """Rank of each member by falling score, the best 0; tied members keep their order, members not counted come last."""
    order = score.masked_fill(~counted, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def preferred_pairs(
    reward: Float[Tensor, "groups members"], counted: Bool[Tensor, "groups members"]
) -> Bool[Tensor, "groups members rivals"]:
    """Whether member i (second axis) has a higher reward than member j (third axis); a tie is no preference."""
    higher = reward[:, :, None] > reward[:, None, :]
    return higher & counted[:, :, None] & counted[:, None, :]


def silent_groups(pairs: Bool[Tensor, "groups members rivals"]) -> Float[Tensor, ""]:
    """Share of the groups in which the reward orders no pair: they teach nothing."""
    return (~pairs.flatten(1).any(1)).float().mean()


def mean_over_pairs(
    value: Float[Tensor, "groups members rivals"], pairs: Bool[Tensor, "groups members rivals"]
) -> Float[Tensor, ""]:
    """Mean of a figure over the ordered pairs of the batch, detached; 0 where no pair is ordered."""
    return value.detach().masked_fill(~pairs, 0.0).sum() / pairs.sum().clamp(min=1)
