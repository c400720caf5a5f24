"""From the rewards of a round to what is learnt from it: which members, with which advantages, in which groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.objectives.advantages import (
    Advantage,
    aggregated_advantage,
    decoupled_advantage,
    global_advantage,
    group_advantage,
)


@dataclass(frozen=True)
class Lesson:
    """What a round teaches, by the place of each prompt in the round.

    Attributes:
        reward: of each member [prompts, members], all rewards as one; NaN where unscored.
        order: the members that are trained on, the better ones first [prompts, trained]; a pair's winner and loser.
        valid: prompts that say something [prompts]: a pair whose rewards are equal does not.
        advantage: of each member [prompts, members], or None.
        preference: probability that member 0 wins [prompts], of pairs of trajectories, or None.
    """

    reward: Float[Tensor, "prompts members"]
    order: Int[Tensor, "prompts trained"]
    valid: Bool[Tensor, " prompts"]
    advantage: Float[Tensor, "prompts members"] | None = None
    preference: Float[Tensor, " prompts"] | None = None

    def weights(self, groups_per_step: int) -> Float[Tensor, " prompts"] | None:
        """What each prompt's loss is multiplied by, so that a step's mean is over its valid prompts; None: 1 for all."""
        if bool(self.valid.all()):
            return None
        steps = self.valid.reshape(-1, groups_per_step).float()
        return (steps * (groups_per_step / steps.sum(1, keepdim=True).clamp(min=1))).flatten()


def lesson_of(config: RunConfig, rewards: Float[Tensor, "rewards prompts members"]) -> Lesson:
    """What is learnt from a round's rewards, of all processes."""
    online, objective = config.online, config.objective
    assert online is not None
    weights = [1.0] * len(rewards) if online.weights is None else list(online.weights)
    reward = combined(rewards, weights, online.combine)
    if objective.on_trajectories and objective.layout == "pairs":
        preference = _preference(rewards, reward, pareto=online.combine == "pareto")
        every = torch.arange(reward.shape[1]).expand(reward.shape)
        return Lesson(reward, every, preference != 0.5, preference=preference)
    if objective.layout == "pairs":
        order, valid = best_and_worst(reward)
        return Lesson(reward, order, valid)
    order = reward.nan_to_num(-torch.inf).argsort(dim=1, descending=True, stable=True)
    scored = (~reward.isnan()).sum(1)
    if "advantage" in objective.inputs():
        advantage = _advantage(config, rewards, reward, weights)
        return Lesson(reward, order, scored >= 1, advantage.values)
    if "label" in objective.inputs():  # those above the group's mean are good, those below it bad
        return Lesson(reward, order, _spread(reward) > 0)
    return Lesson(reward, order, scored >= (1 if objective.name == "sft" else 2))


def combined(
    rewards: Float[Tensor, "rewards prompts members"], weights: list[float], combine: str
) -> Float[Tensor, "prompts members"]:
    """Several rewards as one number; NaN where one of those that count is."""
    if combine == "votes":
        return share_of_rivals_beaten(rewards)
    return sum((weight * each for weight, each in zip(weights, rewards, strict=True) if weight), torch.zeros(()))


def best_and_worst(
    reward: Float[Tensor, "prompts members"],
) -> tuple[Int[Tensor, "prompts 2"], Bool[Tensor, " prompts"]]:
    """The best and the worst scored member of each group, and whether one of them is better.

    Where all rewards are equal, argmax and argmin are one member, or the order of the file would pass for a preference:
    such a group is not valid, nor is one with fewer than two scored members.
    """
    best = reward.nan_to_num(-torch.inf).argmax(1)
    worst = reward.nan_to_num(torch.inf, posinf=torch.inf).argmin(1)
    valid = _spread(reward) > 0
    worst = torch.where(best == worst, (best + 1) % reward.shape[1], worst)  # of groups that are not valid
    return torch.stack([best, worst], 1), valid


def _spread(reward: Tensor) -> Tensor:
    scored = ~reward.isnan()
    high = reward.masked_fill(~scored, -torch.inf).amax(1)
    low = reward.masked_fill(~scored, torch.inf).amin(1)
    return torch.where(scored.sum(1) >= 2, high - low, torch.zeros_like(high))


def _preference(rewards: Tensor, reward: Tensor, *, pareto: bool) -> Tensor:
    """1 where member 0 is preferred, 0 where member 1 is, 1/2 where neither is or one is unscored."""
    if pareto:
        apart = rewards[..., 0] - rewards[..., 1]
        wins, loses = ((sign * apart >= 0).all(0) & (sign * apart > 0).any(0) for sign in (1, -1))
    else:
        apart = reward[:, 0] - reward[:, 1]
        wins, loses = apart > 0, apart < 0
    return 0.5 + 0.5 * (wins.float() - loses.float())


def _advantage(config: RunConfig, rewards: Tensor, reward: Tensor, weights: list[float]) -> Advantage:
    online = config.online
    assert online is not None
    settings = online.advantage
    if online.combine == "standardised":
        return aggregated_advantage(rewards, weights=weights, convention=settings.convention, min_std=settings.min_std)
    if online.combine == "decoupled":
        return decoupled_advantage(rewards, weights=weights, convention=settings.convention, min_std=settings.min_std)
    within = group_advantage if settings.scope == "group" else global_advantage
    return within(reward, convention=settings.convention, min_std=settings.min_std)


def share_of_rivals_beaten(rewards: Float[Tensor, "rewards prompts members"]) -> Float[Tensor, "prompts members"]:
    """Of all comparisons of a member with its rivals, by each reward, the share that it wins (RankDPO, algorithm 1).

    Strictly: a tie scores for nobody, and neither does a comparison with a NaN. NaN where a member has no reward at all.
    """
    members = rewards.shape[2]
    won = (rewards[..., :, None] > rewards[..., None, :]).sum((0, 3)).float() / (len(rewards) * (members - 1))
    return won.masked_fill(rewards.isnan().all(0), torch.nan)
