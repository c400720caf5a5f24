"""PPO's clipped surrogate, shared by the objectives that weigh a ratio of probabilities by an advantage."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# e^20 is far outside every clip. Further out exp overflows in float32, and an infinity behind a clip has NaN gradient.
LOG_RATIO_LIMIT = 20.0


def ratio_of(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(log_ratio), finite whatever the log-ratio; a NaN stays one."""
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def clip_advantage(advantage: Float[Tensor, "groups members"], limit: float | None) -> Float[Tensor, "groups members"]:
    """The advantage within [-limit, limit], without gradient; None leaves it as it is."""
    advantage = advantage.detach()
    return advantage if limit is None else advantage.clamp(-limit, limit)


def clipped_surrogate(
    ratio: Float[Tensor, "*steps groups members"],
    *,
    advantage: Float[Tensor, "groups members"],
    clip: float | None,
) -> Float[Tensor, "*steps groups members"]:
    """max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip)), without the second where `clip` is None.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", eq 7, as a loss.
    """
    plain = -advantage * ratio
    if clip is None:
        return plain
    return torch.maximum(plain, -advantage * ratio.clamp(1 - clip, 1 + clip))


def clip_fraction(ratio: Float[Tensor, "*shape"], clip: float) -> Float[Tensor, ""]:
    """Share of ratios outside the clip, on either side and whatever the advantage, as the papers' code logs it."""
    return ((ratio.detach() - 1).abs() > clip).to(ratio.dtype).mean()
