"""GDPO-SR (Yi et al. 2026): group advantages inside the logistic loss of Diffusion-DPO, for one-step super-resolution."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def gdpo_sr(
    policy: Float[Tensor, "groups members"],
    *,
    reference: Float[Tensor, "groups members"],
    advantage: Float[Tensor, "groups members"],
    beta: float,
) -> ObjectiveOutput:
    """Logistic loss on the advantage-weighted sum of the members' denoising gains.

        loss = -log sigmoid(beta/2 sum_i advantage_i (reference_i - policy_i))

    Args:
        policy: denoising error of the trained model at the network's own (unequal) timestep.
        reference: the frozen model's on the same x_t.
        advantage: standardised within each group: `group_advantage(reward, convention="gdpo_sr")`. (1, -1) for a pair
            is Diffusion-DPO; the unbiased deviation gives (0.707, -0.707) there.
        beta: strength of the pull to the reference (> 0).

    Returns:
        loss [groups]; the sum over members grows with their number. Metrics `margin` (what is inside the sigmoid),
        `group_accuracy` (share of groups whose margin is > 0, as the authors count it) and `silent_groups` (share of
        groups whose advantages are all 0).

    Source: Yi et al. 2026, "GDPO-SR: Group Direct Preference Optimization for One-Step Generative Image
    Super-Resolution", the loss block of the authors' train_GDPOSR.py, where beta is fixed at 5000.
    """
    margin = 0.5 * beta * (advantage.detach() * (reference - policy)).sum(1)
    seen = margin.detach()
    return ObjectiveOutput(
        loss=-F.logsigmoid(margin),
        metrics={
            "margin": seen.mean(),
            "group_accuracy": (seen > 0).to(seen.dtype).mean(),
            "silent_groups": (advantage == 0).all(1).float().mean(),
        },
    )
