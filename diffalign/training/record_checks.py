"""Whether the records hold what the objective learns from: said before anything is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from diffalign.config import RunConfig
from diffalign.config.objectives import DRAGONParams, FlowRWRParams
from diffalign.data import GroupData
from diffalign.exceptions import ConfigError
from diffalign.objectives import Objective
from diffalign.rewards import Reward

log = logging.getLogger(__name__)
_FROM_REWARDS = ("reward", "advantage")
_LARGEST_EXPONENT = 50.0  # of exp(reward / temperature): beyond, one sample is the whole batch, and at 88 float32 ends


def check_records(config: RunConfig, objective: Objective, data: GroupData) -> None:
    """Refuse records that lack what the objective learns from, and warn of those that say less than it can take.

    Raises:
        ConfigError: names the setting, what the records hold and what is wanted.
    """
    if config.objective.experts:  # the best member of a record is all that it takes
        _refuse_bad_experts(config, data)
        return
    name, wanted, batch = config.objective.name, config.objective.inputs(), data.batch([(0, 0)])
    if batch.reward is None and set(_FROM_REWARDS) & set(wanted):
        raise ConfigError(
            f"objective.name: {name!r} learns from rewards, and the records of {config.data.path} have none; "
            "docs/data.md shows the columns of kind groups"
        )
    if batch.label is not None:
        _check_labels(config, objective, data)
    elif objective.params.layout == "pairs" and batch.members != 2:
        raise ConfigError(
            f"objective.name: {name!r} learns from pairs, and the records of {config.data.path} have {batch.members} "
            "members; diffalign list objectives shows what each method takes"
        )
    elif "label" in wanted and batch.members == 1:
        raise ConfigError(
            f"objective.name: {name!r} learns from good and bad samples, and the records of {config.data.path} are "
            "single samples without labels"
        )
    elif "reference" in wanted and batch.members == 1:
        raise ConfigError(
            f"objective.name: {name!r} compares the members of a group, and the records of {config.data.path} have one each"
        )
    by_rewards = {"data.reward_range": config.data.reward_range, "training.pair_weight": config.training.pair_weight}
    for setting, given in by_rewards.items():
        if given is not None and batch.reward is None:
            raise ConfigError(
                f"{setting}: goes by rewards, and the records of {config.data.path} have none; set it to null, or see "
                "docs/data.md for groups with rewards (for pairs: kind groups, members: 2)"
            )
    if batch.reward is not None:
        if batch.members == 2 and (objective.params.layout == "pairs" or "label" in wanted):
            _refuse_unscored(config, data)
        _check_scale(config, data)
    if "preference" in wanted and config.data.reward_range is None:
        _warn_of_hard_preferences(config, data)


def check_rewards(config: RunConfig, rewards: Sequence[Reward]) -> None:
    """Refuse rewards of an online run that are not on the scale that the objective takes, where none is set.

    Raises:
        ConfigError: names the setting, the rewards' range and what is wanted.
    """
    online, objective = config.online, config.objective
    assert online is not None
    if config.data.reward_range is not None or not rewards:
        return
    if "preference" in objective.inputs() and not objective.on_trajectories:
        log.warning(
            "data.reward_range is not set, so every preference of %s is 1, however close the rewards are",
            objective.name,
        )
    if online.combine == "votes":  # shares of rivals beaten
        return
    known = len(rewards) == 1 and online.weights is None
    least, most = rewards[0].spec.range if known else (-math.inf, math.inf)
    shown = ", ".join(f"{reward.spec.name} {list(reward.spec.range)}" for reward in rewards)
    if most > _largest_reward(config):
        raise ConfigError(
            f"objective.weighting: exp(reward / temperature) of these rewards ({shown}) can be more than "
            f"exp({_LARGEST_EXPONENT:g}); set data.reward_range: [low, high], a higher temperature, or softmax"
        )
    if objective.unit_rewards and (least < 0 or most > 1):
        raise ConfigError(
            f"online.rewards: {objective.name!r} takes one number in [0, 1] for each picture, and these are {shown}; set "
            "data.reward_range: [low, high], the rewards that shall count as 0 and 1, or online.combine: votes"
        )


def _refuse_bad_experts(config: RunConfig, data: GroupData) -> None:
    bad = sum(int((said.labels != 1).sum()) for said in data.latents.said() if said.labels is not None)
    if bad:
        raise ConfigError(
            f"data.path: {bad} of the {len(data)} samples of {config.data.path} are bad, and {config.objective.name!r} "
            "would learn them as experts; leave them out (diffalign pair --kind experts)"
        )


def _rewards(data: GroupData) -> Iterator[tuple[int, Tensor]]:
    """(number of the first, rewards [records, longest]) of some thousand records at a time."""
    for said in data.latents.said():
        if said.rewards is not None:
            yield said.first, said.rewards


def _first(data: GroupData, wrong: Tensor, first: int) -> tuple[str, str]:
    """The first record that is marked [records], and its rewards."""
    number = first + int(wrong.nonzero()[0])
    reward = data.latents.reward(number)
    assert reward is not None
    return data.records[number][0], ", ".join(f"{value:.4g}" for value in reward.tolist())


def _check_labels(config: RunConfig, objective: Objective, data: GroupData) -> None:
    """Of labelled records.

    Raises:
        ConfigError: the objective makes nothing of labels, or nothing of single samples.
    """
    name = config.objective.name
    every = len(data)
    bad = sum(int((said.labels != 1).sum()) for said in data.latents.said() if said.labels is not None)
    if "label" in (*config.objective.inputs(), *objective.params.optional):
        if isinstance(config.objective, DRAGONParams) and config.objective.contrast == "dpo":
            raise ConfigError(
                "objective.contrast: dpo compares the members of a group, and labelled records are single samples; take kto"
            )
        if bad in (0, every):
            log.warning(
                "%s: all %d samples are %s: there is nothing to tell apart",
                config.data.path,
                every,
                "bad" if bad else "good",
            )
    elif objective.params.layout != "groups" or objective.params.needs:
        raise ConfigError(
            f"objective.name: {name!r} makes nothing of labels, and data.kind is labelled; take diffusion_kto, dso_dro or "
            "dragon with contrast: kto, or sft where all samples are good"
        )
    elif bad:
        raise ConfigError(
            f"objective.name: {name!r} would learn bad samples like good ones, and {bad} of the {every} samples of "
            f"{config.data.path} are bad; leave them out, or take diffusion_kto, dso_dro or dragon with contrast: kto"
        )


def _refuse_unscored(config: RunConfig, data: GroupData) -> None:
    """In a group of two, the member without a reward would count as the worse one.

    Raises:
        ConfigError: names the first such record.
    """
    for first, rewards in _rewards(data) if config.data.members is None else ():
        wrong = rewards.isnan().any(1)
        if bool(wrong.any()):
            name, _ = _first(data, wrong, first)
            raise ConfigError(
                f"objective.name: {config.objective.name!r} compares two members, and record {name!r} has one without a "
                "reward; set data.members: 2 and data.on_bad: skip to leave such records out"
            )


def _check_scale(config: RunConfig, data: GroupData) -> None:
    """Rewards must be on the scale that the settings are made for.

    Raises:
        ConfigError: most of them lie outside data.reward_range, or they are raw scores where a method cannot take these.
    """
    objective, span, largest = config.objective, config.data.reward_range, _largest_reward(config)
    if span is not None:
        count = outside = 0
        lowest, highest = math.inf, -math.inf
        for _, rewards in _rewards(data):
            seen = rewards[~rewards.isnan()]
            count, outside = count + len(seen), outside + int(((seen < span[0]) | (seen > span[1])).sum())
            lowest, highest = min(lowest, float(seen.min())), max(highest, float(seen.max()))
        if outside > count / 2:
            raise ConfigError(
                f"data.reward_range: {outside} of the {count} rewards of {config.data.path} are not in [{span[0]:g}, "
                f"{span[1]:g}], the ends of what counts as 0 and 1; they go from {lowest:.4g} to {highest:.4g}: name "
                "a range that most of them lie in"
            )
        if largest < 1.0:  # what the highest reward counts as
            raise ConfigError(
                f"objective.temperature: exp(1 / {largest / _LARGEST_EXPONENT:g}), the weight of the highest reward, "
                f"is more than exp({_LARGEST_EXPONENT:g}); take a higher one, or weighting: softmax"
            )
        return
    if not objective.unit_rewards and largest == math.inf:
        return
    for first, rewards in _rewards(data):
        wrong = ((rewards < 0) | (rewards > 1)).any(1)
        if objective.unit_rewards and bool(wrong.any()):
            name, shown = _first(data, wrong, first)
            raise ConfigError(
                f"objective.name: {objective.name!r} takes rewards in [0, 1], and record {name!r} has {shown}; set "
                "data.reward_range: [low, high], the rewards that shall count as 0 and 1"
            )
        wrong = (rewards > largest).any(1)
        if bool(wrong.any()):
            name, shown = _first(data, wrong, first)
            raise ConfigError(
                f"objective.weighting: exp(reward / temperature) of record {name!r} (rewards {shown}) is more than "
                f"exp({_LARGEST_EXPONENT:g}); set data.reward_range: [low, high], a higher temperature, or softmax"
            )


def _largest_reward(config: RunConfig) -> float:
    """That the objective can weigh by."""
    objective = config.objective
    if isinstance(objective, FlowRWRParams) and objective.weighting == "exp":
        return objective.temperature * _LARGEST_EXPONENT
    return math.inf


def _warn_of_hard_preferences(config: RunConfig, data: GroupData) -> None:
    if all(bool((said.preferences == 1.0).all()) for said in data.latents.said()):
        log.warning(
            "%s: no record has votes that differ or a column preference, so every preference is 1: %s then pulls all pairs "
            "alike; give votes or preferences, or set data.reward_range where the records have rewards",
            config.data.path,
            config.objective.name,
        )
