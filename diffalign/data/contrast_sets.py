"""A better and a worse set out of groups of samples: DRAGON's D+ and D-, also for rewards of whole sets.

Rewards come in as numbers or as a callable object, so any will do. The authors published no code, and of their algorithm
only the outline was to be read; what is done here is written out below.

Source: Bai et al. 2025, "DRAGON: Distributional Rewards Optimize Diffusion Generative Models", arXiv 2504.15217.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffalign.exceptions import ConfigError, DataError, ShapeError

State = TypeVar("State")
_RISE = 1e-12  # of the value: less is rounding, and no reason to exchange


@dataclass(frozen=True)
class Contrast:
    """One member of each group for D+, one for D-.

    Attributes:
        positive: [groups] index of the member in D+; -1 in a group that is not valid.
        negative: [groups] index of the member in D-; -1 in a group that is not valid.
        valid: [groups]: False where the rewards say nothing; there is nothing to contrast in such a group.
    """

    positive: Int[Tensor, " groups"]
    negative: Int[Tensor, " groups"]
    valid: Bool[Tensor, " groups"]

    def labels(self, members: int) -> Float[Tensor, "groups members"]:
        """+1 in D+, -1 in D-, 0 in neither: what the objective `dragon` takes as `label`."""
        places = torch.arange(members, device=self.positive.device)
        return (places == self.positive[:, None]).float() - (places == self.negative[:, None]).float()

    def pick(self, values: Tensor) -> Tensor:
        """The valid groups' members of `values` [groups, members, ...], as pairs [valid groups, 2, ...], D+ first."""
        rows = self.valid.nonzero()[:, 0]
        return torch.stack([values[rows, self.positive[rows]], values[rows, self.negative[rows]]], dim=1)


@runtime_checkable
class IncrementalSetReward(Protocol[State]):
    """A reward of a set that knows what it becomes when one sample is exchanged. `diffalign.rewards.SetReward` is one."""

    def start(self, features: Float[Tensor, "samples features"]) -> State:
        """All that the value of this set depends on."""
        ...

    def value(self, state: State) -> float:
        """The reward of the set, higher is better."""
        ...

    def swap(self, state: State, place: int, row: Float[Tensor, " features"]) -> State:
        """The set with another sample at `place`; `state` itself stays as it was."""
        ...


@dataclass(frozen=True)
class WithMean(Generic[State]):
    """A reward of sets and the mean of one number per sample: what keeps the search for a set from paying in quality.

    Features have the number as their last column; `reward` sees the others.

    Attributes:
        reward: of the set.
        weight: what the mean is multiplied by.
    """

    reward: IncrementalSetReward[State]
    weight: float

    def start(self, features: Float[Tensor, "samples features"]) -> tuple[State, Tensor]:
        return self.reward.start(features[:, :-1]), features[:, -1].clone()

    def value(self, state: tuple[State, Tensor]) -> float:
        return self.reward.value(state[0]) + self.weight * state[1].mean().item()

    def swap(self, state: tuple[State, Tensor], place: int, row: Float[Tensor, " features"]) -> tuple[State, Tensor]:
        column = state[1].clone()
        column[place] = row[-1]
        return self.reward.swap(state[0], place, row[:-1]), column


@dataclass(frozen=True)
class SwapResult:
    """What a greedy exchange came to.

    Attributes:
        contrast: who is in D+ and D-.
        positive_reward, negative_reward: r(D+) and r(D-).
        first_reward, second_reward: r of the sets of all first and of all second candidates, before any exchange.
        swaps: exchanges that were kept.
    """

    contrast: Contrast
    positive_reward: float
    negative_reward: float
    first_reward: float
    second_reward: float
    swaps: int


def paired_by_reward(
    reward: Float[Tensor, "groups members"], draws: Sequence[torch.Generator] | None = None
) -> Contrast:
    """The best member of each group to D+, the worst to D-.

    Args:
        reward: of each sample, higher is better; NaN where unscored, and never chosen.
        draws: one per group: which of equally good (or equally bad) members is taken. None: the first of them.

    Returns:
        A group is valid where two scored members differ: with all equal, argmax and argmin are one member.

    Raises:
        ShapeError: fewer than 2 members.
    """
    if reward.shape[1] < 2:
        raise ShapeError(f"reward must be [groups, members] with 2 members or more, got {list(reward.shape)}")
    scored = ~reward.isnan()
    high = reward.masked_fill(~scored, -torch.inf).amax(1, keepdim=True)
    low = reward.masked_fill(~scored, torch.inf).amin(1, keepdim=True)
    valid = (scored.sum(1) >= 2) & (high != low)[:, 0]
    lots = torch.arange(reward.shape[1], 0, -1).expand(reward.shape)  # of equal ones the first
    if draws is not None:
        lots = torch.stack([torch.randperm(reward.shape[1], generator=each) + 1 for each in draws])
    lots = lots.to(reward.device)
    best, worst = (((reward == bound) * lots).argmax(1) for bound in (high, low))
    return Contrast(best.masked_fill(~valid, -1), worst.masked_fill(~valid, -1), valid)


def unpaired_by_reward(
    reward: Float[Tensor, "groups members"], *, share: float = 0.5
) -> Float[Tensor, "groups members"]:
    """The upper part of the whole pool to D+, the rest to D-, whatever their groups.

    Args:
        reward: of each sample, higher is better; NaN where unscored.
        share: of the scored samples that go to D+, in (0, 1).

    Returns:
        Labels +1 and -1, 0 where unscored. Equal rewards are never parted: the cut moves to the nearest place where
        rewards differ (of two equally near to the one with the smaller D+). All equal: every label is 0.

    Raises:
        ConfigError: share is not in (0, 1).
    """
    if not 0 < share < 1:
        raise ConfigError(f"share: must be between 0 and 1, got {share:g}")
    scored = ~reward.isnan()
    falling = reward[scored].sort(descending=True).values
    cuts = (falling[:-1] > falling[1:]).nonzero()[:, 0] + 1  # sizes of D+ that part no equal rewards
    if not len(cuts):
        return torch.zeros_like(reward)
    size = int(cuts[(cuts - share * len(falling)).abs().argmin()])
    label = torch.where(reward >= falling[size - 1], 1.0, -1.0).to(reward.dtype)
    return label.masked_fill(~scored, 0.0)


def greedy_swap(
    reward: IncrementalSetReward[State],
    features: Float[Tensor, "groups members features"],
    *,
    passes: int = 1,
    order: torch.Generator | None = None,
) -> SwapResult:
    """D+ and D- for a reward of whole sets: exchange one group's two samples wherever r(D+) rises.

    D+ starts as the better of D1, the first samples of all groups, and D2, the second ones. Then each group in turn
    exchanges its two samples between D+ and D-, and keeps that if r(D+) has risen. A pass asks for the reward once
    per group; it is greedy and does not always find the best of the 2^groups splits, but is never worse than D1 and D2.

    Args:
        reward: of the sets; a mean of rewards of single samples gives what `paired_by_reward` gives.
        features: of each sample, as the reward reads them. A sample with a value that is not finite takes no part. Of
            more than two, the first two take part: they are draws of one model and alike in all but their seeds.
        passes: over all groups; a pass without an exchange is the last.
        order: draws the order of the groups anew for each pass; None: as they stand.

    Returns:
        The sets, and what they are worth. Not valid are groups with fewer than two samples to take part, and those
        whose two have equal features: these stand in both sets, alike.

    Raises:
        ConfigError: passes < 1.
        DataError: no group can take part, or the reward of the first sets is not a number.

    Source: DRAGON's outline (collect D1 and D2, build D+ and D- by the set's reward); one-sided greedy passes.
    """
    if passes < 1:
        raise ConfigError(f"passes: must be >= 1, got {passes}")
    usable = features.isfinite().all(2)
    rows = (usable.sum(1) >= 2).nonzero()[:, 0]
    if not len(rows):
        raise DataError("no group has two samples with finite features")
    members = usable[rows].int().argsort(dim=1, descending=True, stable=True)[:, :2]  # the first two usable ones
    pairs = features[rows[:, None], members]
    states = [reward.start(pairs[:, side]) for side in (0, 1)]
    first, second = (reward.value(state) for state in states)
    if not (first == first and second == second):
        raise DataError(f"the reward of the first samples is {first:g}, of the second ones {second:g}: no numbers")
    better = int(second > first)
    state, best = states[better], max(first, second)
    chosen = torch.full((len(rows),), better)
    swaps = 0
    for _ in range(passes):
        before = swaps
        turns = torch.arange(len(rows)) if order is None else torch.randperm(len(rows), generator=order)
        for place in turns.tolist():
            other = 1 - int(chosen[place])
            tried = reward.swap(state, place, pairs[place, other])
            value = reward.value(tried)
            if value > best + _RISE * max(1.0, abs(best)):
                state, best, chosen[place] = tried, value, other
                swaps += 1
        if swaps == before:
            break
    sides = torch.stack([chosen, 1 - chosen])
    plus, minus = (reward.value(reward.start(pairs[torch.arange(len(rows)), side])) for side in sides)
    differ = (pairs[:, 0] != pairs[:, 1]).any(1)
    index = torch.full((2, len(features)), -1, device=features.device)
    index[:, rows[differ]] = members.gather(1, sides.T.to(members.device))[differ].T
    return SwapResult(Contrast(index[0], index[1], index[0] >= 0), plus, minus, first, second, swaps)
