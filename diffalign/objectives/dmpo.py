"""DMPO (Li et al. 2025): match the preference that the policy implies to a smoothed one, by their KL divergence."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives._margin import margin_metrics, pair_margin
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def dmpo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    beta: float,
    alpha: float,
) -> ObjectiveOutput:
    """KL divergence from the implied preference p to the target 1 - alpha, the reverse of what DPO minimises.

        p = sigmoid(beta/2 ((reference_w - policy_w) - (reference_l - policy_l)))
        loss = p log(p / (1 - alpha)) + (1 - p) log((1 - p) / alpha)

    The loss is 0 at p = 1 - alpha and grows again beyond: pairs are not pushed apart without end.

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        beta: strength of the pull to the reference (> 0).
        alpha: target probability that the loser wins (in (0, 1)).

    Returns:
        loss [pairs], not averaged; metrics `margin` (log odds of p) and `pair_accuracy`, detached scalars.

    Raises:
        ConfigError: alpha is not in (0, 1).

    Source: Li et al. 2025, "Divergence Minimization Preference Optimization for Diffusion Model Alignment", as in the
    train.py of Diffusion-SDPO.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha: must be between 0 and 1, got {alpha:g}")
    margin = pair_margin(policy, reference, beta)
    win, lose = margin.sigmoid(), (-margin).sigmoid()
    loss = win * (F.logsigmoid(margin) - math.log1p(-alpha)) + lose * (F.logsigmoid(-margin) - math.log(alpha))
    return ObjectiveOutput(loss=loss, metrics=margin_metrics(margin))
