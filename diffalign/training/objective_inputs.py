"""What an objective is given besides the policy's errors: from the primitive, the records, or statistics of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffalign.config import RunConfig
from diffalign.config.objectives import CurriculumWeightParams, MarginWeightParams
from diffalign.denoising import DenoisingErrors
from diffalign.objectives import Objective, curriculum_weight, margin_weight
from diffalign.objectives.advantages import group_advantage
from diffalign.objectives.divergence import residual_divergence
from diffalign.objectives.smpo import smoothed_preference
from diffalign.types import GroupBatch


def objective_inputs(
    config: RunConfig,
    objective: Objective,
    errors: DenoisingErrors,
    batch: GroupBatch,
    baseline: Tensor | None,
    advantage: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the function takes by position, and what by keyword; `advantage` where an online loop has worked it out."""
    residuals = {name: _unpadded(each, batch) for name, each in (errors.residuals or {}).items()}
    wanted = config.objective.inputs()
    available: dict[str, Tensor | None] = {
        "policy": errors.policy,
        "reference": errors.reference,
        "behaviour": errors.others.get("behaviour"),
        "policy_residual": residuals.get("policy"),
        "reference_residual": residuals.get("reference"),
        "behaviour_residual": residuals.get("behaviour"),
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
        available["advantage"] = _advantages_of(objective, batch) if advantage is None else advantage
    for name, other in (("divergence", "reference"), ("ema_divergence", "average")):
        if name in wanted:
            available[name] = residual_divergence(residuals["policy"], other_residual=residuals[other])
    asked = (*wanted, *(name for name in objective.params.optional if not _is_of_a_network(name)))
    inputs = {name: value for name in asked if (value := available.get(name)) is not None}
    first: Any = available[objective.params.first]
    return first, inputs


def _is_of_a_network(name: str) -> bool:
    """Whether an optional input is worked out by a network: such a one is given where the settings ask for it."""
    return name.endswith(("residual", "divergence"))


def _unpadded(residual: Tensor, batch: GroupBatch) -> Tensor:
    """0 where there is padding, and larger elsewhere, so that the mean of squares over all elements is the error."""
    if batch.mask is None:
        return residual
    weight = batch.mask.to(residual.dtype).expand(residual.shape)
    return residual * (weight / weight.flatten(2).mean(2).reshape(*weight.shape[:2], *(1,) * (weight.ndim - 2))).sqrt()


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
    reward = batch.reward.double()
    apart = (reward - reward.nanmean(1, keepdim=True)).nan_to_num(0.0)
    noise = 1e-6 * reward.abs().nan_to_num(0.0).amax(1, keepdim=True)  # of a mean of float32 rewards
    return torch.where(apart.abs() > noise, apart.sign(), 0.0).float()


def pair_weight(
    settings: MarginWeightParams | CurriculumWeightParams | None, batch: GroupBatch, progress: float
) -> Tensor | None:
    """What each pair's loss is multiplied by [pairs]; None: nothing."""
    if settings is None:
        return None
    assert batch.reward is not None  # check_records has looked
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
    assert batch.reward is not None and objective.advantage is not None  # check_records has looked
    return group_advantage(batch.reward, convention=objective.advantage).values
