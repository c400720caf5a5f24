"""Centered Reward Distillation (arXiv 2603.14128): regression of the implicit reward onto the given one in each group."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.divergence import weighted_divergence
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32

SMALLEST_SCALE = 1e-5  # of the self-normalisation
SMALLEST_KL_WEIGHT = 1e-4  # what the reward-adaptive KL keeps of its weight at the worst reward


@at_least_float32
def crd(
    policy: Float[Tensor, "groups members"],
    *,
    behaviour: Float[Tensor, "groups members"],
    advantage: Float[Tensor, "groups members"],
    policy_residual: Float[Tensor, "groups members *sample"] | None = None,
    behaviour_residual: Float[Tensor, "groups members *sample"] | None = None,
    divergence: Float[Tensor, "groups members"] | None = None,
    beta: float,
    loss: Literal["mse", "bce"],
    temperature: float | None,
    adaptive: bool,
    advantage_clip: float,
    kl_weight: float,
    adaptive_kl: bool,
) -> ObjectiveOutput:
    """What the policy prefers in a group, learnt to equal what the reward prefers, both without their mean.

        R_i = behaviour_i / m_i' - policy_i / m_i     implicit reward; m = mean |residual|, no gradient, or 1
        a_i = clip(A_i / (2 c) + 1/2, 0, 1)           c = advantage_clip
        mse: mean_i (beta (R_i - centre(R)) - (a_i - centre(a)))^2 c / beta
        bce: the cross-entropy of sigmoid(beta (R_i - centre(R))) to sigmoid(a_i - centre(a)), c / beta times

    where centre is the group's mean, without gradient, or the half-sum of two losses, with centre the mean weighted by
    softmax(a / temperature) and by softmax(-a / temperature).

    Args:
        policy: velocity error of the trained model.
        behaviour: that of a slow copy of the policy, on the same x_t.
        advantage: of each member within its group.
        policy_residual: velocity - target of the trained model; needed where `adaptive`, without gradient.
        behaviour_residual: the same of the slow copy.
        divergence: squared velocity difference from the (guided) reference, with gradient (`residual_divergence`).
        beta: scale of the implicit reward (> 0): the optimum is at R_i - mean R = (a_i - mean a) / beta.
        loss: "mse" or "bce".
        temperature: of the weighted centres (> 0); None: the plain mean.
        adaptive: divide each error by its mean absolute residual.
        advantage_clip: the advantage that counts as certainly good (> 0).
        kl_weight: of the divergence (>= 0).
        adaptive_kl: more KL to the members with more reward: from 1e-4 at a = 0 to kl_weight at a = 1.

    Returns:
        loss [groups]; metrics `implicit_reward`, `reward_gap` (root mean square of beta (R - mean R) - (a - mean a)),
        and `kl` where given.

    Raises:
        ConfigError: no such loss, or an option without the input that it needs.

    Source: "Diffusion Reinforcement Learning via Centered Reward Distillation", as in Flow-Factory's trainers/crd.py,
    which centres over the batch of all processes, gathered prompt by prompt; we over the group.
    """
    if loss not in ("mse", "bce"):
        raise ConfigError(f"loss: must be mse or bce, got {loss!r}")
    reward = (
        (behaviour.detach() - policy)
        if not adaptive
        else _adaptive(policy, behaviour.detach(), policy_residual, behaviour_residual)
    )
    target = (advantage.detach() / (2 * advantage_clip) + 0.5).clamp(0, 1)
    even = torch.full_like(target, 1 / target.shape[1])
    weights = [even]
    if temperature is not None:
        weights = [torch.softmax(sign * target / temperature, 1) for sign in (1, -1)]
    losses = [_matched(reward, target, weight, beta, loss) for weight in weights]
    pull = torch.stack(losses).mean(0) * advantage_clip / beta
    if adaptive_kl and divergence is not None and kl_weight:
        least = SMALLEST_KL_WEIGHT / kl_weight
        penalty = kl_weight * (least + target * (1 - least)) * divergence
        pull = pull + penalty
    else:
        pull = pull + weighted_divergence(divergence, kl_weight, name="divergence", weight_name="kl_weight")
    metrics = {
        "implicit_reward": reward.detach().mean(),
        "reward_gap": _gap(reward.detach(), target, even, beta).square().mean(1).sqrt().mean(),
    }
    if divergence is not None:
        metrics["kl"] = divergence.detach().mean()
    return ObjectiveOutput(loss=pull.mean(1), metrics=metrics)


def _centred(values: Tensor, weight: Tensor) -> Tensor:
    return values - (values.detach() * weight).sum(1, keepdim=True)


def _gap(reward: Tensor, target: Tensor, weight: Tensor, beta: float) -> Tensor:
    return beta * _centred(reward, weight) - _centred(target, weight)


def _matched(reward: Tensor, target: Tensor, weight: Tensor, beta: float, loss: str) -> Tensor:
    if loss == "mse":
        return _gap(reward, target, weight, beta).square()
    logit, wanted = beta * _centred(reward, weight), torch.sigmoid(_centred(target, weight))
    return F.softplus(logit) - wanted * logit


def _adaptive(policy: Tensor, behaviour: Tensor, residual: Tensor | None, behaviour_residual: Tensor | None) -> Tensor:
    if residual is None or behaviour_residual is None:
        raise ConfigError("adaptive: needs policy_residual and behaviour_residual; give both, or set adaptive to false")
    sizes = [it.detach().abs().flatten(2).mean(2).clamp(min=SMALLEST_SCALE) for it in (residual, behaviour_residual)]
    return behaviour / sizes[1] - policy / sizes[0]
