"""What an objective is given besides the policy's errors: from the primitive, the records, or statistics of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.config.objectives import CurriculumWeightParams, DRAGONParams, MarginWeightParams
from diffalign.data import GroupData
from diffalign.denoising import DenoisingErrors
from diffalign.exceptions import ConfigError
from diffalign.objectives import Objective, curriculum_weight, margin_weight
from diffalign.objectives.advantages import group_advantage
from diffalign.objectives.smpo import smoothed_preference
from diffalign.types import GroupBatch

_FROM_REWARDS = ("reward", "advantage")


def check_inputs(config: RunConfig, objective: Objective, data: GroupData) -> None:
    """Refuse records that lack what the objective learns from, before anything is trained.

    Raises:
        ConfigError: names the setting, what the records hold and what is wanted.
    """
    name, wanted, batch = config.objective.name, config.objective.inputs(), data.batch([(0, 0)])
    lacks = [each for each in wanted if each in _FROM_REWARDS and batch.reward is None]
    if lacks:
        raise ConfigError(
            f"objective.name: {name!r} learns from rewards, and the records of {config.data.path} have none; "
            "docs/data.md shows the columns of kind groups"
        )
    takes_labels = "label" in (*wanted, *objective.params.optional)
    if batch.label is not None and not takes_labels:
        raise ConfigError(
            f"objective.name: {name!r} makes nothing of labels, and data.kind is labelled: it would learn bad samples like "
            "good ones; take diffusion_kto, dso_dro or dragon with contrast: kto"
        )
    if batch.label is not None and isinstance(config.objective, DRAGONParams) and config.objective.contrast == "dpo":
        raise ConfigError(
            "objective.contrast: dpo compares the members of a group, and labelled records are single samples; take kto"
        )
    if objective.params.layout == "pairs" and batch.members != 2 and batch.label is None:
        raise ConfigError(
            f"objective.name: {name!r} learns from pairs, and the records of {config.data.path} have {batch.members} "
            "members; diffalign list objectives shows what each method takes"
        )
    if "valid" not in objective.params.optional and batch.reward is not None and batch.members == 2:
        _refuse_unscored(config, data)
    if config.data.reward_range is not None and batch.reward is None:
        raise ConfigError(f"data.reward_range: the records of {config.data.path} have no rewards; leave it out")
    if config.objective.unit_rewards and config.data.reward_range is None:
        _refuse_raw_scores(config, data)
    if config.training.pair_weight is not None and batch.reward is None:
        raise ConfigError(
            f"training.pair_weight: weighs pairs by their rewards, and the records of {config.data.path} have none; "
            "docs/data.md shows pairs with rewards (kind groups, members: 2)"
        )
    if "label" in wanted and batch.label is None and batch.members == 1:
        raise ConfigError(
            f"objective.name: {name!r} learns from good and bad samples, and the records of {config.data.path} are "
            "single samples without labels"
        )


def _refuse_unscored(config: RunConfig, data: GroupData) -> None:
    """In a group of two, the member without a reward would count as the worse one.

    Raises:
        ConfigError: names the first such record.
    """
    for number, (name, _) in enumerate(data.records):
        reward = data.latents.reward(number)
        if config.data.members is None and reward is not None and bool(reward.isnan().any()):
            raise ConfigError(
                f"objective.name: {config.objective.name!r} compares two members, and record {name!r} has one without a "
                "reward; set data.members: 2 and data.on_bad: skip to leave such records out"
            )


def _refuse_raw_scores(config: RunConfig, data: GroupData) -> None:
    """RankDPO's gain of 2^reward - 1, for one, explodes on raw scores.

    Raises:
        ConfigError: names the first record whose rewards are not in [0, 1].
    """
    for number, (name, _) in enumerate(data.records):
        reward = data.latents.reward(number)
        if reward is not None and bool(((reward < 0) | (reward > 1)).any()):
            raise ConfigError(
                f"objective.name: {config.objective.name!r} takes rewards in [0, 1], and record {name!r} has "
                f"{', '.join(f'{value:.4g}' for value in reward.tolist())}; set data.reward_range: [low, high], the "
                "rewards that shall count as 0 and 1"
            )


def objective_inputs(
    config: RunConfig, objective: Objective, errors: DenoisingErrors, batch: GroupBatch, baseline: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the function takes by position, and what by keyword."""
    residuals = errors.residuals or {}
    wanted = config.objective.inputs()
    available: dict[str, Tensor | None] = {
        "policy": errors.policy,
        "reference": errors.reference,
        "policy_residual": residuals.get("policy"),
        "reference_residual": residuals.get("reference"),
        "t": errors.t,
        "reward": _scaled_rewards(config, batch),
        "label": batch.label,
        "valid": batch.valid if batch.reward is None else batch.valid & ~batch.reward.isnan(),
        "baseline": baseline,
    }
    if "label" in wanted:
        available["label"] = labels_of(batch)
    if "preference" in wanted:
        available["preference"] = _preferences_of(config, batch)
    if "advantage" in wanted:
        available["advantage"] = _advantages_of(objective, batch)
    inputs = {
        name: value for name in (*wanted, *objective.params.optional) if (value := available.get(name)) is not None
    }
    first: Any = available[objective.params.first]
    return first, inputs


def labels_of(batch: GroupBatch) -> Tensor:
    """+1 good, -1 bad [groups, members]: the records' own, else what a pair or a group's rewards say.

    The preferred member of a pair is good and the other bad, as Diffusion-KTO reads Pick-a-Pic. In a larger group those
    above the mean reward of the group are good and those below it bad; 0 is neither.
    """
    if batch.label is not None:
        return batch.label
    if batch.members == 2 or batch.reward is None:
        signs = torch.full(batch.x0.shape[:2], -1.0, device=batch.x0.device)
        signs[:, 0] = 1.0
        return signs
    reward = batch.reward
    return torch.sign(reward - reward.nanmean(1, keepdim=True)).nan_to_num(0.0)


def pair_weight(
    settings: MarginWeightParams | CurriculumWeightParams | None, batch: GroupBatch, progress: float
) -> Tensor | None:
    """What each pair's loss is multiplied by [pairs]; None: nothing."""
    if settings is None:
        return None
    assert batch.reward is not None  # check_inputs has looked
    if isinstance(settings, MarginWeightParams):
        return margin_weight(batch.reward, threshold=settings.threshold, strength=settings.strength)
    gap = (batch.reward[:, 0] - batch.reward[:, 1]) / settings.largest_gap
    return curriculum_weight(gap, progress=progress, stages=settings.stages)


def _scaled_rewards(config: RunConfig, batch: GroupBatch) -> Tensor | None:
    span = config.data.reward_range
    if span is None or batch.reward is None:
        return batch.reward
    return ((batch.reward - span[0]) / (span[1] - span[0])).clamp(0.0, 1.0)  # NaN stays


def _preferences_of(config: RunConfig, batch: GroupBatch) -> Tensor | None:
    span = config.data.reward_range
    if span is None or batch.reward is None:
        return batch.preference
    return smoothed_preference(batch.reward, low=span[0], high=span[1])


def _advantages_of(objective: Objective, batch: GroupBatch) -> Tensor:
    assert batch.reward is not None and objective.advantage is not None  # check_inputs has looked
    return group_advantage(batch.reward, convention=objective.advantage).values
