"""Weights of pairs by how far apart their rewards are: multiply an objective's loss with them, then average.

One of them at a time, and none with `smpo` or `rank_dpo`, whose losses grow with the gap by themselves.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def margin_weight(reward: Float[Tensor, "pairs 2"], *, threshold: float, strength: float) -> Float[Tensor, " pairs"]:
    """Weight in (0, 2), 1 where the gap in reward is `threshold`, falling as the gap grows.

        weight = 2 sigmoid(strength (threshold - (reward_0 - reward_1)))

    Args:
        reward: of a reward model, higher is better; the winner first.
        threshold: the gap that leaves a pair's weight at 1, in units of the reward.
        strength: how fast the weight falls per unit of reward; below 0 it grows with the gap, as in SmPO.

    Source: Rho 2025, "Margin Adaptive DPO: Leveraging Reward Model for Granular Control in Preference Optimization":
    a continuous weight, larger for hard pairs than for easy ones. The function is ours: bounded, 1 at the threshold.
    """
    return 2 * torch.sigmoid(strength * (threshold - (reward[:, 0] - reward[:, 1])))


@at_least_float32
def curriculum_weight(gap: Float[Tensor, " pairs"], *, progress: float, stages: int) -> Float[Tensor, " pairs"]:
    """1 for the pairs that training has reached, 0 for those still too hard: large gaps first, all in the last stage.

        weight = 1 if gap >= 1 - (stage + 1) / stages, with stage = floor(progress stages)

    Args:
        gap: of rank or reward between winner and loser, scaled so that the largest is 1 (its quantile is a good scale).
        progress: share of the training steps done, in [0, 1].
        stages: how many (>= 1).

    Raises:
        ConfigError: progress or stages is out of range.

    Source: Pattnaik et al. 2024, "Curry-DPO: Enhancing Alignment using Curriculum Learning & Ranked Preferences"
    (several pairs of a prompt, easy to hard); Croitoru et al. 2025, "Curriculum Direct Preference Optimization for
    Diffusion and Consistency Models" (pairs bucketed by rank gap). As weights, where they order the data.
    """
    if not 0 <= progress <= 1:
        raise ConfigError(f"progress: must be between 0 and 1, got {progress:g}")
    if stages < 1:
        raise ConfigError(f"stages: must be at least 1, got {stages}")
    stage = min(int(progress * stages), stages - 1)
    reached = gap >= 1 - (stage + 1) / stages
    late = stage == stages - 1  # whatever the gap, even where it was scaled to below 0
    return torch.where(gap.isnan(), gap, (reached | late).to(gap.dtype))
