"""What several rewards prefer, by votes: no scale is compared with another, so none has to be set.

An unscored reward is NaN. What it leaves undecided is NaN too, not a tie and not a loss: 1/2 and 0 are answers.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ShapeError


def pareto_preference(reward_a: Float[Tensor, "*batch rewards"], reward_b: Float[Tensor, "*batch rewards"]) -> Tensor:
    """Whether sample a is preferred to b by all rewards together.

    Args:
        reward_a, reward_b: of each sample, higher is better, each reward on its own scale; NaN where unscored.

    Returns:
        [*batch]: 1 where a is as good as b by every reward and better by one, 0 where b is so, else 1/2; NaN where a
        reward of either is missing. With one reward: which is higher.

    Raises:
        ShapeError: the two differ in shape.

    Source: Yang et al. 2024, "Using Human Feedback to Fine-tune Diffusion Models without Any Reward Model", the
    authors' `compare`.
    """
    if reward_a.shape != reward_b.shape:
        raise ShapeError(f"reward_a is {list(reward_a.shape)}, reward_b {list(reward_b.shape)}; they must be alike")
    wins = (reward_a >= reward_b).all(-1) & (reward_a > reward_b).any(-1)
    loses = (reward_b >= reward_a).all(-1) & (reward_b > reward_a).any(-1)
    missing = (reward_a.isnan() | reward_b.isnan()).any(-1)
    return ((1 + wins.to(reward_a.dtype) - loses.to(reward_a.dtype)) / 2).masked_fill(missing, torch.nan)


def share_of_rivals_beaten(reward: Float[Tensor, "rewards groups members"]) -> Float[Tensor, "groups members"]:
    """Share of the comparisons (reward, rival) that each member wins: RankDPO's label phi.

    Args:
        reward: one reward after the other, higher is better, each on its own scale; NaN where unscored.

    Returns:
        In [0, 1]. Of the comparisons in which both were scored; that is rewards x (members - 1) where nothing is
        missing, as in the paper. Ties score nobody. NaN for a member that was in no comparison.

    Source: Karthik et al. 2024, "Scalable Ranked Preference Optimization for Text-to-Image Generation", algorithm 1
    (five reward models label 4 pictures of each prompt).
    """
    scored = ~reward.isnan()
    wins = (reward[..., :, None] > reward[..., None, :]).sum((0, -1))
    compared = (scored[..., :, None] & scored[..., None, :]).sum((0, -1)) - scored.sum(0)  # not with oneself
    return (wins.to(reward.dtype) / compared.clamp(min=1)).masked_fill(compared == 0, torch.nan)
