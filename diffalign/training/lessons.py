"""From the rewards of a round to what is learnt from it: which members, with which advantages, in which groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.data import (
    Contrast,
    SwapResult,
    WithMean,
    greedy_swap,
    paired_by_reward,
    pareto_preference,
    share_of_rivals_beaten,
)
from diffalign.objectives.advantages import (
    Advantage,
    aggregated_advantage,
    decoupled_advantage,
    global_advantage,
    group_advantage,
)
from diffalign.rewards import SetReward


@dataclass(frozen=True)
class Lesson:
    """What a round teaches, by the place of each prompt in the round.

    Attributes:
        reward: of each member [prompts, members], all rewards as one; NaN where unscored.
        order: the members that are trained on, the better ones first [prompts, trained]; a pair's winner and loser.
        valid: prompts that say something [prompts]: a pair or ranking whose rewards are equal does not.
        advantage: of each member [prompts, members], or None.
        by_reward: whether `order` is a pair of the best and the worst by `reward`, among equal ones the first.
    """

    reward: Float[Tensor, "prompts members"]
    order: Int[Tensor, "prompts trained"]
    valid: Bool[Tensor, " prompts"]
    advantage: Float[Tensor, "prompts members"] | None = None
    by_reward: bool = False

    @property
    def informative(self) -> Bool[Tensor, " prompts"]:
        """Prompts whose rewards teach something: of advantages, those that are not all 0 (the others keep their KL)."""
        return self.valid if self.advantage is None else (self.advantage != 0).any(1)

    def members(self, places: slice, draws: Sequence[torch.Generator]) -> Int[Tensor, "groups trained"]:
        """Who is trained on, of the prompts at these places.

        Args:
            draws: one per prompt: which of several best (and of several worst) members are its pair this time.
        """
        return _pairs(paired_by_reward(self.reward[places], draws)) if self.by_reward else self.order[places]

    def taught(self, places: slice, draws: Sequence[torch.Generator]) -> Taught:
        """Of the prompts at these places, with `draws` as for `members`."""
        order, valid = self.members(places, draws), self.valid[places]
        reward = self.reward[places].gather(1, order)
        advantage = None if self.advantage is None else self.advantage[places].gather(1, order)
        blank = reward.isnan() & ~valid[:, None]
        return Taught(order, reward.masked_fill(blank, 0.0), ~blank, advantage)

    def weights(self, groups_per_step: int) -> Float[Tensor, " prompts"] | None:
        """What each prompt's loss is multiplied by, so that a step's mean is over its valid prompts; None: 1 for all."""
        if bool(self.valid.all()):
            return None
        steps = self.valid.reshape(-1, groups_per_step).float()
        return (steps * (groups_per_step / steps.sum(1, keepdim=True).clamp(min=1))).flatten()


@dataclass(frozen=True)
class Taught:
    """What is learnt of some prompts of a round, in the order of `Lesson.order`: [groups, trained].

    Attributes:
        order: the members.
        reward: theirs; 0 where it is unscored and its group is not valid, for the sake of the arithmetic.
        told: where the reward is one, and not that 0.
        advantage: theirs, or None.
    """

    order: Int[Tensor, "groups trained"]
    reward: Float[Tensor, "groups trained"]
    told: Bool[Tensor, "groups trained"]
    advantage: Float[Tensor, "groups trained"] | None


def lesson_of(
    config: RunConfig, rewards: Float[Tensor, "rewards prompts members"], contrast: Contrast | None = None
) -> Lesson:
    """What is learnt from a round's rewards, of all processes; `contrast` where a set reward has chosen who wins."""
    online, objective = config.online, config.objective
    assert online is not None
    weights = [1.0] * len(rewards) if online.weights is None else list(online.weights)
    reward = combined(rewards, weights, online.combine)
    if online.good_from is not None:  # every member that has a reward is good or bad by itself
        return Lesson(reward, torch.arange(reward.shape[1]).expand(reward.shape), (~reward.isnan()).any(1))
    if contrast is not None or objective.layout == "pairs":
        if online.combine == "pareto":
            contrast = _dominating(rewards)
        by_reward = contrast is None
        return _paired(reward, contrast or paired_by_reward(reward), by_reward=by_reward)
    if objective.on_trajectories:  # as they were drawn: scored again at the same places of the batch
        order = torch.arange(reward.shape[1]).expand(reward.shape)
        return Lesson(reward, order, (~reward.isnan()).any(1), _advantage(config, rewards, reward, weights).values)
    order = reward.nan_to_num(-torch.inf, posinf=torch.inf).argsort(dim=1, descending=True, stable=True)
    if "advantage" in objective.inputs():
        advantage = _advantage(config, rewards, reward, weights)
        return Lesson(reward, order, (~reward.isnan()).any(1), advantage.values)
    if "label" in objective.inputs():  # those above the group's mean are good, those below it bad
        return Lesson(reward, order, paired_by_reward(reward).valid)
    if {"reward", "reference"} <= set(objective.inputs()):  # gdro, rank_dpo: only differences count
        return Lesson(reward, order, paired_by_reward(reward).valid)
    return Lesson(reward, order, (~reward.isnan()).sum(1) >= (1 if objective.name == "sft" else 2))


def labels_from(
    threshold: float | None, reward: Float[Tensor, "groups members"], told: Bool[Tensor, "groups members"]
) -> Float[Tensor, "groups members"] | None:
    """+1 where a reward is `threshold` or more, -1 where it is less, 0 where there is none; None without a threshold."""
    if threshold is None:
        return None
    return torch.where(reward >= threshold, 1.0, -1.0).masked_fill(~told | reward.isnan(), 0.0)


def combined(
    rewards: Float[Tensor, "rewards prompts members"], weights: list[float], combine: str
) -> Float[Tensor, "prompts members"]:
    """Several rewards as one number; NaN where one of those that count is."""
    if combine == "votes":
        return share_of_rivals_beaten(rewards)
    parts = [weight * each for weight, each in zip(weights, rewards, strict=True) if weight]
    return torch.stack(parts).sum(0) if parts else torch.zeros(rewards.shape[1:])


def contrast_of_sets(
    config: RunConfig, reward: SetReward, features: Float[Tensor, "prompts members features"], rewards: Tensor
) -> SwapResult:
    """DRAGON's D+ and D- of a round by the reward of a set, held to the mean of the other rewards where asked.

    Where no prompt has two pictures that the rewards can take, nobody is in either.
    """
    online = config.online
    assert online is not None
    held: SetReward | WithMean = reward
    if online.quality_weight:
        weights = [1.0] * len(rewards) if online.weights is None else list(online.weights)
        quality = combined(rewards, weights, online.combine)[..., None].to(features.dtype)
        held, features = WithMean(reward, online.quality_weight), torch.cat([features, quality], -1)
    if not bool((features.isfinite().all(2).sum(1) >= 2).any()):
        nobody = torch.full((len(features),), -1)
        return SwapResult(Contrast(nobody, nobody, nobody >= 0), math.nan, math.nan, math.nan, math.nan, 0)
    return greedy_swap(held, features, passes=online.swap_passes)


def _paired(reward: Tensor, contrast: Contrast, *, by_reward: bool) -> Lesson:
    return Lesson(reward, _pairs(contrast), contrast.valid, by_reward=by_reward)


def _pairs(contrast: Contrast) -> Int[Tensor, "groups 2"]:
    """A pair of each prompt; of one that is not valid, which counts for nothing, the first two members."""
    chosen = torch.stack([contrast.positive, contrast.negative], 1)
    return torch.where(contrast.valid[:, None], chosen, torch.tensor([[0, 1]]))


def _dominating(rewards: Float[Tensor, "rewards prompts 2"]) -> Contrast:
    """Who of two is as good by every reward and better by one; else the pair is not valid."""
    preference = pareto_preference(*rewards.permute(2, 1, 0)).nan_to_num(0.5)
    valid = preference != 0.5
    winner = (preference < 0.5).long()
    return Contrast(winner.masked_fill(~valid, -1), (1 - winner).masked_fill(~valid, -1), valid)


def _advantage(config: RunConfig, rewards: Tensor, reward: Tensor, weights: list[float]) -> Advantage:
    online = config.online
    assert online is not None
    settings = online.advantage
    convention, min_std = settings.convention, settings.min_std
    if online.combine == "standardised":
        return aggregated_advantage(rewards, weights=weights, convention=convention, min_std=min_std)
    if online.combine == "decoupled":
        return decoupled_advantage(rewards, weights=weights, convention=convention, min_std=min_std)
    within = group_advantage if settings.scope == "group" else global_advantage
    return within(reward, convention=convention, min_std=min_std)


def round_figures(
    lesson: Lesson,
    rewards: Float[Tensor, "rewards prompts members"],
    names: Sequence[str],
    found: SwapResult | None,
) -> dict[str, float]:
    """What metrics.jsonl says of a round: each reward's mean (`names`), all as one, and how the sets came out."""
    figures: dict[str, float] = {}
    if found is not None:
        figures |= {"positive_set": found.positive_reward, "negative_set": found.negative_reward}
        figures |= {"first_set": found.first_reward, "swaps": float(found.swaps)}
    for name, values in zip(names, rewards, strict=False):  # people have no name
        figures[f"round_{name}"] = values.nanmean().item()
    if len(rewards):
        figures["round_reward"] = lesson.reward.nanmean().item()
    figures |= {"silent_prompts": float((~lesson.informative).sum()), "unscored": float(rewards.isnan().sum())}
    return {name: value for name, value in figures.items() if math.isfinite(value)}
