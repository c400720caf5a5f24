"""Diffusion-DPO (Wallace et al. 2023) and Flow-DPO (Liu et al. 2025): preference pairs scored by denoising error.

Member 0 of each pair is the preferred one. Errors are means over elements, so beta is per element too: the same pull
with summed errors has beta / elements (0.1526 instead of 5000 * 0.5 for a 4x64x64 latent).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def diffusion_dpo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    beta: float | Float[Tensor, " pairs"],
) -> ObjectiveOutput:
    """Logistic loss on the difference in denoising gain between the two members of each pair.

        loss = -log sigmoid(beta/2 ((reference_w - policy_w) - (reference_l - policy_l)))

    Args:
        policy: denoising error of the trained model; carries the gradient.
        reference: denoising error of the frozen model on the same x_t; carries none.
        beta: strength of the pull to the reference (> 0).

    Returns:
        loss [pairs], not averaged; metrics `margin` (what is inside the sigmoid) and `pair_accuracy` (share of pairs
        whose margin is > 0; a tie counts 0, as in the authors' code), detached scalars.

    Source: Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference Optimization", the loss for the
    noise-prediction bound; the authors' train.py folds T and the weighting into beta, and so do we.
    """
    gain = reference - policy  # > 0 where the policy denoises better than the reference
    margin = 0.5 * beta * (gain[:, 0] - gain[:, 1])
    seen = margin.detach()
    return ObjectiveOutput(
        loss=-F.logsigmoid(margin),
        metrics={"margin": seen.mean(), "pair_accuracy": (seen > 0).to(seen.dtype).mean()},
    )


@at_least_float32
def flow_dpo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    t: Float[Tensor, "pairs 2"],
    beta: float,
    schedule: Literal["constant", "one_minus_t_sq"],
) -> ObjectiveOutput:
    """`diffusion_dpo` on velocity errors, with beta constant or beta (1 - t)^2.

    Args:
        policy: velocity error of the trained model.
        reference: velocity error of the frozen model on the same x_t.
        t: process time of both members; the schedule uses member 0's (pairs share their time).
        beta: strength of the pull to the reference (> 0).
        schedule: "constant" is the paper's recommended form; "one_minus_t_sq" is what the derivation from
            Diffusion-DPO gives, and is the same as measuring the errors in noise space.

    Raises:
        ConfigError: no such schedule.

    Source: Liu et al. 2025, "Improving Video Generation with Human Feedback", eq 6. The paper's pseudo-code sums over
    elements; the authors' released code (flow_grpo) takes the mean, and so do we.
    """
    if schedule not in ("constant", "one_minus_t_sq"):  # or a typo would train on the other form
        raise ConfigError(f"schedule: must be constant or one_minus_t_sq, got {schedule!r}")
    beta_t = beta if schedule == "constant" else beta * (1 - t[:, 0]) ** 2
    return diffusion_dpo(policy, reference=reference, beta=beta_t)
