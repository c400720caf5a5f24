"""DGPO (Luo et al. 2025): direct group preference optimisation, DPO between the good and the bad half of a group."""

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
from diffalign.objectives.surrogate import clip_advantage, ratio_of


@at_least_float32
def dgpo(
    policy: Float[Tensor, "groups members"],
    *,
    reference: Float[Tensor, "groups members"],
    behaviour: Float[Tensor, "groups members"],
    advantage: Float[Tensor, "groups members"],
    divergence: Float[Tensor, "groups members"] | None = None,
    beta: float,
    clip: float | None,
    advantage_clip: float | None,
    kl_weight: float,
    form: Literal["weighted", "logistic"],
) -> ObjectiveOutput:
    """Errors weighted by their advantage and by how much of the group's preference is not yet learnt.

        S = beta mean_i A_i (policy_i - reference_i)                          < 0 once it is learnt
        loss = mean_i stop_gradient(sigmoid(S)) A_i policy_i                  (weighted)
        loss = -log sigmoid(-S)                                               (logistic: beta times its gradient)
        and no gradient through member i where exp(behaviour_i - policy_i) is past 1 +- clip the way A_i pushes

    A group's advantages sum to 0, which cancels the unknown normaliser. A pair with A = (1, -1) is Diffusion-DPO.

    Args:
        policy: velocity error of the trained model; noise and time shared by the group.
        reference: that of the frozen model on the same x_t.
        behaviour: that of a fast moving average of the policy, from which the clip counts.
        advantage: of each member within its group.
        divergence: squared velocity difference from the reference, with gradient (`residual_divergence`). The clip
            leaves it alone, as in the authors' runs.
        beta: strength of the pull to the reference (> 0).
        clip: how far a member may go from the behaviour (> 0); None: any way.
        advantage_clip: advantages are first clipped to +- this; None: not.
        kl_weight: of the divergence (>= 0).
        form: "weighted" is the authors' code, "logistic" the paper's loss.

    Returns:
        loss [groups]; metrics `margin` (-S), `group_accuracy` (share of groups with margin > 0), `weight` (sigmoid(S)),
        and as they apply `clip_fraction`, `kl`.

    Raises:
        ConfigError: no such form, or kl_weight without divergence.

    Source: Luo et al. 2025, "Reinforcing Diffusion Models by Direct Group Preference Optimization", and its code,
    scripts/train_sd3_dgpo.py.
    """
    advantage = clip_advantage(advantage, advantage_clip)
    metrics: dict[str, Tensor] = {}
    if clip is not None:
        ratio = ratio_of(behaviour.detach() - policy.detach())
        stopped = torch.where(advantage > 0, ratio > 1 + clip, ratio < 1 - clip)
        policy = torch.where(stopped, policy.detach(), policy)
        metrics["clip_fraction"] = stopped.to(policy.dtype).mean()
    total = beta * (advantage * (policy - reference.detach())).mean(1)
    if form == "weighted":
        loss = torch.sigmoid(total.detach()) * (advantage * policy).mean(1)
    elif form == "logistic":
        loss = F.softplus(total)
    else:
        raise ConfigError(f"form: must be weighted or logistic, got {form!r}")
    # which the comparisons above hide, and which nothing reads without a clip
    loss = loss.masked_fill(behaviour.isnan().any(1), torch.nan)
    penalty = weighted_divergence(divergence, kl_weight, name="divergence", weight_name="kl_weight")
    if divergence is not None:
        metrics["kl"] = divergence.detach().mean()
    seen = total.detach()
    metrics |= {
        "margin": -seen.mean(),
        "group_accuracy": (seen < 0).to(seen.dtype).mean(),
        "weight": torch.sigmoid(seen).mean(),
    }
    return ObjectiveOutput(loss=loss + (penalty if isinstance(penalty, float) else penalty.mean(1)), metrics=metrics)
