"""Advantages from rewards [groups, members]: standardised, by each paper's convention; and several rewards as one.

NaN rewards (unscored) get advantage 0, enter no statistic and are counted. A group whose scored rewards are all equal
says nothing: its advantages are exactly 0 (not rounding noise over epsilon), and it is counted. Statistics over the
batch want the rewards of all processes, gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffalign.exceptions import ConfigError, ShapeError
from diffalign.objectives.precision import at_least_float32


@dataclass(frozen=True)
class Convention:
    """How a standard deviation divides.

    Attributes:
        ddof: 0 divides the squares by n (population), 1 by n - 1 (sample).
        epsilon: what keeps the division finite.
        form: "add" divides by std + epsilon, "max" by max(std, epsilon).
    """

    ddof: Literal[0, 1]
    epsilon: float
    form: Literal["add", "max"] = "add"


CONVENTIONS = MappingProxyType(
    {
        "flow_grpo": Convention(0, 1e-4),  # yifan123/flow_grpo; DiffusionNFT, AWM and DGPO took it over
        "dance_grpo": Convention(1, 1e-8),  # DanceGRPO, MixGRPO and UniRL
        "flow_factory": Convention(0, 1e-6, "max"),  # Flow-Factory, its GDPO too
        "gdpo": Convention(1, 1e-4),  # NVIDIA's reward-decoupled normalisation
        "gdpo_sr": Convention(1, 1e-8),  # one-step super-resolution
    }
)


@dataclass(frozen=True)
class Advantage:
    """Advantages, and what was left out.

    Attributes:
        values: [groups, members]; 0 for unscored members and in groups that say nothing.
        informative: [groups]: False where fewer than two members are scored or none differs; such a group can be
            skipped, for its gradient is 0.
        silent_groups: how many groups are not informative.
        unscored: how many members have no reward (or, of several rewards, none at all).
    """

    values: Float[Tensor, "groups members"]
    informative: Bool[Tensor, " groups"]
    silent_groups: Int[Tensor, ""]
    unscored: Int[Tensor, ""]


@at_least_float32
def group_advantage(
    reward: Float[Tensor, "groups members"], *, convention: str | Convention, min_std: float = 0.0
) -> Advantage:
    """Rewards less their group's mean, over their group's standard deviation.

    Args:
        reward: higher is better; NaN where unscored.
        convention: a name in CONVENTIONS, or one's own.
        min_std: groups whose deviation is smaller are skipped too: division by it would blow noise up to full size.

    Source: GRPO as in DanceGRPO, MixGRPO and flow_grpo (`global_std` off).
    """
    scored = ~reward.isnan()
    apart, std = _centred(reward, scored), _deviation(reward, scored, _get(convention).ddof)
    informative = _differ(reward, scored) & ~(std[:, 0] < min_std)  # a NaN is no skipped group
    return _advantage(_divided(apart, std, _get(convention)), informative, scored)


@at_least_float32
def global_advantage(
    reward: Float[Tensor, "groups members"], *, convention: str | Convention, min_std: float = 0.0
) -> Advantage:
    """Rewards less their group's mean, over the standard deviation of the whole batch (not centred per group).

    Args:
        reward: of the whole batch, all processes; NaN where unscored.
        convention: a name in CONVENTIONS, or one's own.
        min_std: of the batch; below it every group is skipped.

    Source: flow_grpo with `global_std`, the default of its SD3.5 runs and of DiffusionNFT and AWM.
    """
    scored = ~reward.isnan()
    std = _deviation(reward.reshape(1, -1), scored.reshape(1, -1), _get(convention).ddof)
    informative = _differ(reward, scored) & ~(std[0] < min_std)
    return _advantage(_divided(_centred(reward, scored), std, _get(convention)), informative, scored)


@at_least_float32
def leave_one_out_advantage(reward: Float[Tensor, "groups members"]) -> Advantage:
    """Rewards less the mean of the group's other members; no division, so unbiased.

    Source: Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human
    Feedback in LLMs" (RLOO).
    """
    scored = ~reward.isnan()
    count = scored.sum(1, keepdim=True)
    return _advantage(_centred(reward, scored) * count / (count - 1).clamp(min=1), _differ(reward, scored), scored)


@at_least_float32
def aggregated_advantage(
    reward: Float[Tensor, "rewards groups members"],
    *,
    weights: Sequence[float],
    convention: str | Convention,
    min_std: float = 0.0,
) -> Advantage:
    """Each reward standardised within its group, then their mean by weight; no second normalisation.

    Args:
        reward: one reward after the other, each on its own scale; NaN where unscored (that reward adds 0 there).
        weights: one per reward, not all 0; divided by their sum.
        convention: a name in CONVENTIONS, or one's own.
        min_std: as in `group_advantage`, for each reward.

    Source: MixGRPO, "advantage_aggr" (convention "dance_grpo").
    """
    total = sum(weights)
    if total == 0:
        raise ConfigError(f"weights: must not sum to 0, got {list(weights)}")
    return _weighted(reward, [weight / total for weight in weights], convention, min_std)


@at_least_float32
def decoupled_advantage(
    reward: Float[Tensor, "rewards groups members"],
    *,
    weights: Sequence[float],
    convention: str | Convention,
    min_std: float = 0.0,
    silent: Literal["skip", "keep"] = "keep",
) -> Advantage:
    """Each reward standardised within its group, summed by weight, then standardised over the batch.

    Args:
        reward: as in `aggregated_advantage`, of the whole batch, all processes.
        weights: one per reward; their scale cancels.
        convention: "gdpo" for NVIDIA's, "flow_factory" for theirs; both normalisations use it.
        min_std: as in `group_advantage`, for each reward within its group.
        silent: whether the zeros of groups that say nothing "keep" their place in the batch's deviation, as in NVIDIA's
            and Flow-Factory's code and in `global_advantage`, so that the other groups' advantages are larger the
            fewer they are; or "skip" them, which gives the others unit spread however many are silent.

    Returns:
        Groups that say nothing and unscored members stay at 0; the unscored are out of the statistics. The authors'
        code takes a NaN reward for 0, and for one reward alone takes plain group advantages.

    Raises:
        ConfigError: no such convention or word for `silent`.

    Source: "GDPO: Group reward-Decoupled Normalization Policy Optimization", NVIDIA's grpo_trainer.py; Flow-Factory's
    advantage_processor.py.
    """
    if silent not in ("skip", "keep"):
        raise ConfigError(f"silent: must be skip or keep, got {silent!r}")
    summed = _weighted(reward, weights, convention, min_std)
    scored = ~reward.isnan().all(0)
    counted = scored if silent == "keep" else scored & summed.informative[:, None]
    flat, mask = summed.values.reshape(1, -1), counted.reshape(1, -1)
    values = _divided(_centred(flat, mask), _deviation(flat, mask, _get(convention).ddof), _get(convention))
    return _advantage(values.reshape_as(summed.values), summed.informative, scored)


@at_least_float32
def ensemble_mean(reward: Float[Tensor, "models groups members"]) -> Float[Tensor, "groups members"]:
    """Mean over reward models on one scale (standardise each on a fixed set first); NaN unless all scored."""
    return reward.mean(0)


@at_least_float32
def ensemble_worst_case(reward: Float[Tensor, "models groups members"]) -> Float[Tensor, "groups members"]:
    """What the most sceptical reward model says; NaN unless all scored.

    Source: Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization" (WCO).
    """
    return reward.amin(0)


@at_least_float32
def ensemble_uncertainty_weighted(
    reward: Float[Tensor, "models groups members"], *, penalty: float, ddof: Literal[0, 1]
) -> Float[Tensor, "groups members"]:
    """Mean over reward models less penalty times their variance; NaN unless all scored.

    Args:
        reward: one model after the other, on one scale.
        penalty: the authors' best-of-n has 0.5 with ddof 0, their PPO 0.1 with ddof 1.
        ddof: of the variance; 1 needs at least two models.

    Source: Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization" (UWO).
    """
    return reward.mean(0) - penalty * reward.var(0, correction=ddof)


def _get(convention: str | Convention) -> Convention:
    if isinstance(convention, Convention):
        return convention
    if convention not in CONVENTIONS:
        raise ConfigError(f"convention: must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    return CONVENTIONS[convention]


def _centred(
    reward: Float[Tensor, "groups members"], scored: Bool[Tensor, "groups members"]
) -> Float[Tensor, "groups members"]:
    mean = reward.masked_fill(~scored, 0.0).sum(1, keepdim=True) / scored.sum(1, keepdim=True).clamp(min=1)
    return (reward - mean).masked_fill(~scored, 0.0)


def _deviation(
    reward: Float[Tensor, "groups members"], scored: Bool[Tensor, "groups members"], ddof: int
) -> Float[Tensor, "groups 1"]:
    squares = _centred(reward, scored).square().sum(1, keepdim=True)
    return (squares / (scored.sum(1, keepdim=True) - ddof).clamp(min=1)).sqrt()


def _divided(
    apart: Float[Tensor, "groups members"], std: Float[Tensor, "rows 1"], convention: Convention
) -> Float[Tensor, "groups members"]:
    epsilon = convention.epsilon
    return apart / (std + epsilon if convention.form == "add" else std.clamp(min=epsilon))


def _differ(reward: Float[Tensor, "groups members"], scored: Bool[Tensor, "groups members"]) -> Bool[Tensor, " groups"]:
    """Whether any two scored rewards differ, exactly: the deviation of equal numbers can be rounding noise."""
    high = reward.masked_fill(~scored, -torch.inf).amax(1)
    low = reward.masked_fill(~scored, torch.inf).amin(1)
    return (scored.sum(1) >= 2) & (high != low)


def _weighted(
    reward: Float[Tensor, "rewards groups members"],
    weights: Sequence[float],
    convention: str | Convention,
    min_std: float,
) -> Advantage:
    """Sum over rewards of weight times the group advantage; informative where any reward is."""
    if len(weights) != len(reward):
        raise ShapeError(f"{len(weights)} weights for rewards of shape {tuple(reward.shape)}; give one per reward")
    each = [group_advantage(one, convention=convention, min_std=min_std) for one in reward]
    values = torch.stack([weight * one.values for weight, one in zip(weights, each, strict=True)]).sum(0)
    informative = torch.stack([one.informative for one in each]).any(0)
    return _advantage(values, informative, ~reward.isnan().all(0))


def _advantage(
    values: Float[Tensor, "groups members"],
    informative: Bool[Tensor, " groups"],
    scored: Bool[Tensor, "groups members"],
) -> Advantage:
    return Advantage(
        values.masked_fill(~(informative[:, None] & scored), 0.0),
        informative,
        (~informative).sum(),
        (~scored).sum(),
    )
