"""The section `online`: what the policy draws while it trains, and what is learnt from that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from diffalign.config.fields import ShareBelowOne
from diffalign.config.params import Params
from diffalign.config.rewards import SampleRewards, SetRewardParams
from diffalign.config.samplers import SamplerParams


class DecayParams(Params):
    """What share a running average keeps of itself at its n-th renewal: min(slope max(n - start, 0), largest)."""

    largest: ShareBelowOne = 0.0
    slope: NonNegativeFloat | None = None  # None: `largest` from the first one on
    start: NonNegativeInt = 0

    def at(self, number: int) -> float:
        """At renewal `number`, counted from 0."""
        if self.slope is None:
            return self.largest
        return min(self.slope * max(number - self.start, 0), self.largest)


class AdvantageConfig(Params):
    """How rewards become advantages, for the methods that take them (diffalign.objectives.advantages)."""

    convention: Literal["flow_grpo", "dance_grpo", "flow_factory", "gdpo", "gdpo_sr"] = "flow_grpo"
    scope: Literal["group", "batch"] = "group"  # whose standard deviation divides: the group's, or all of the round's
    min_std: NonNegativeFloat = 0.0  # groups that differ by less say nothing


class OnlineConfig(Params):
    # prompts of a round, over all processes: a multiple of the groups of a step; None: as many as these
    prompts: PositiveInt | None = None
    members: PositiveInt = 2  # pictures of each prompt
    # who judges: `rewards`, or people by diffalign annotate, for whom the run stops in every round
    preference: Literal["reward", "human"] = "reward"
    rewards: SampleRewards = ()  # judge the pictures
    weights: tuple[float, ...] | None = None  # of the rewards; None: 1 each
    # several rewards as one: sum (of raw values by weight), votes (share of rivals beaten, RankDPO), pareto (better by all,
    # D3PO); for advantages also standardised (each within its group, MixGRPO) and decoupled (then over the batch, GDPO)
    combine: Literal["sum", "standardised", "decoupled", "votes", "pareto"] = "sum"
    # DRAGON: which picture of a prompt wins follows from the reward of the set of all winners
    set_reward: SetRewardParams | None = None
    swap_passes: PositiveInt = 1  # over the prompts of a round, in search of that set
    quality_weight: NonNegativeFloat = 0.0  # of the mean of `rewards`, added to the reward of the set
    sampler: SamplerParams | None = None  # None: the family's own
    guidance_scale: NonNegativeFloat = 1.0  # of the drawing; methods on log-probabilities train with it too
    same_start: bool = False  # the members of a group start from the same noise (D3PO, DanceGRPO)
    passes: PositiveInt = 1  # how often a round's groups are trained on
    draws: PositiveInt = 1  # times and noises that a group is trained on in one step, for methods on denoising errors
    # of a trajectory, how many of its stochastic steps are trained on, drawn for each group; None: all
    trained_steps: PositiveInt | None = None
    skip_last: NonNegativeInt = 0  # stochastic steps at the end of a trajectory that are never trained on
    keep_rounds: PositiveInt = 1  # rounds that all passes but the first draw their groups from
    advantage: AdvantageConfig = AdvantageConfig()
    # of methods on labels: what has this reward or more is good, and prompts of which all or none are good teach too; None:
    # those above the mean of their prompt are good (dso_dro: the best against the worst)
    good_from: float | None = None
    # the network that draws is the policy as it was at the last of these rounds, or an average of it
    policy_sync_every: PositiveInt = 1
    policy_decay: DecayParams = DecayParams()  # share that the drawing network keeps of itself then
    # of the running average that awm is held to, renewed after every step; None: its authors', min(0.001 step, 0.3)
    average_decay: DecayParams | None = None
    reference_every: PositiveInt | None = None  # rounds after which the policy becomes the reference; None: never
    branch_norms: bool = True  # diffusion_dro: log the gradient norms of experts and own samples apart

    def problems(self) -> Iterator[str]:
        """What does not fit together, with dotted paths."""
        for number, reward in enumerate(self.rewards):
            if reward in self.rewards[:number]:
                yield f"online.rewards: {reward.name!r} stands there twice with the same settings; leave one out"
        if self.weights is not None and len(self.weights) != len(self.rewards):
            yield f"online.weights: one for each of online.rewards ({len(self.rewards)}), got {len(self.weights)}"
        elif self.weights is not None and not any(self.weights):
            yield "online.weights: must not all be 0"
        if self.weights is not None and self.combine in ("votes", "pareto"):
            yield f"online.weights: combine: {self.combine} counts each reward once; leave them out"
        if self.set_reward is None and (self.swap_passes != 1 or self.quality_weight):
            yield "online.set_reward: swap_passes and quality_weight are of a reward of sets, and none is named; name one"
        if self.quality_weight and not self.rewards:
            yield "online.quality_weight: is of the mean of online.rewards, and none is named; name one, or leave it out"
        if self.keep_rounds > 1 and self.passes == 1:
            yield "online.keep_rounds: kept rounds come in from the second pass on, and online.passes is 1; leave it out"

    @property
    def averaging(self) -> DecayParams:
        """How the running average is renewed."""
        return DecayParams(slope=0.001, largest=0.3) if self.average_decay is None else self.average_decay

    @property
    def draws_with_policy(self) -> bool:
        """Whether the policy itself draws every round; else a copy of it, which is renewed as the settings say."""
        return self.policy_sync_every == 1 and self.policy_decay == DecayParams()
