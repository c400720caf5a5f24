"""f-DPO (Wang et al. 2023): Diffusion-DPO with another divergence to the reference than the reverse KL."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives._margin import margin_metrics
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32

_LARGEST_LOG_RATIO = 10.0  # where an exponential of it is taken: exp(10) is 22,026


@at_least_float32
def f_dpo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    beta: float,
    strength: float,
    f_divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"],
    alpha: float,
) -> ObjectiveOutput:
    """Logistic loss on the difference of f'(u) between the members, u being the ratio of policy to reference.

        log u = beta/2 (reference - policy)
        loss = -log sigmoid(strength (f'(u_w) - f'(u_l)))
        f'(u) = log u (reverse_kl), -1/u (forward_kl), log(2u / (1 + u)) (jensen_shannon), (1 - u^-alpha) / alpha (alpha)

    With reverse_kl and strength 1 it is `diffusion_dpo`; alpha tends to that as alpha tends to 0, and is forward_kl at
    alpha = 1. All but reverse_kl are bounded above: what the policy already prefers is pushed less and less. Where u
    itself is needed, log u is held in [-10, 10], and there is no gradient outside.

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        beta: from error to log u (> 0).
        strength: of the pull to the reference in the paper's sense (> 0); apart from reverse_kl it is not the same as
            beta.
        f_divergence: which f.
        alpha: of the alpha divergence (in (0, 1]); the others leave it unused.

    Returns:
        loss [pairs], not averaged; metrics `margin` (what is inside the sigmoid) and `pair_accuracy`, detached scalars.

    Raises:
        ConfigError: no such divergence, or alpha is not in (0, 1].

    Source: Wang et al. 2023, "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence
    Constraints", table 1, with Diffusion-DPO's log u.
    """
    log_u = 0.5 * beta * (reference - policy)
    slope = _slope(log_u, f_divergence, alpha)
    margin = strength * (slope[:, 0] - slope[:, 1])
    return ObjectiveOutput(loss=-F.logsigmoid(margin), metrics=margin_metrics(margin))


def _slope(log_u: Float[Tensor, "pairs 2"], f_divergence: str, alpha: float) -> Float[Tensor, "pairs 2"]:
    """f'(u)."""
    held = log_u.clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    if f_divergence == "reverse_kl":
        return log_u
    if f_divergence == "forward_kl":
        return -torch.exp(-held)
    if f_divergence == "jensen_shannon":
        return math.log(2) + F.logsigmoid(log_u)  # u / (1 + u) is a sigmoid
    if f_divergence == "alpha":
        if not 0 < alpha <= 1:
            raise ConfigError(f"alpha: must be in (0, 1], got {alpha:g}")
        return -torch.expm1(-alpha * held) / alpha
    raise ConfigError(f"f_divergence: must be reverse_kl, forward_kl, jensen_shannon or alpha, got {f_divergence!r}")
