"""Diffusion-DRO (Wu et al. 2025): rank expert samples above the policy's own ones, without a reward model.

Neither the DRO of the 3D paper (`dso_dro`) nor the group-level one (`gdro`).
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def diffusion_dro(
    policy: Float[Tensor, "groups 2"],
    *,
    reference: Float[Tensor, "groups 2"],
    margin: float,
) -> ObjectiveOutput:
    """Hinge on how much more the policy gained on the expert's sample than on one of its own.

        loss = max(0, (policy_0 - reference_0) - (policy_1 - reference_1) + margin)

    Member 1 is a sample of the policy: x_t on its own sampling path, and the target is what the sampling policy
    predicted there. `split_prediction` turns such an (x_t, prediction) into the (x0, noise) of the draw. While the
    sampling policy equals the trained one, member 1's error is 0 and carries no gradient: what is left is supervised
    fine-tuning on the experts, switched on and off by the hinge. A repulsive term needs a policy that samples with
    guidance or lags behind.

    Args:
        policy: denoising error of the trained model: member 0 the expert's sample, member 1 the policy's own.
        reference: denoising error of the frozen model on the same x_t; moves the hinge only.
        margin: how far the expert's gain must lead before the loss is 0 (>= 0).

    Returns:
        loss [groups], not averaged; metrics `margin` (by how much the expert's gain leads), `pair_accuracy` (share of
        groups where it leads) and `active` (share of groups whose loss is > 0), detached scalars.

    Source: Wu et al. 2025, "Ranking-based Preference Optimization for Diffusion Models from Implicit User Feedback",
    in the form of the authors' train.py. The paper's Algorithm 1, max(-margin, ...), is this minus margin, and has the
    same gradient.
    """
    lead = (reference[:, 0] - policy[:, 0]) - (reference[:, 1] - policy[:, 1])
    loss = F.relu(margin - lead)
    seen = lead.detach()
    return ObjectiveOutput(
        loss=loss,
        metrics={
            "margin": seen.mean(),
            "pair_accuracy": (seen > 0).to(seen.dtype).mean(),
            "active": (loss.detach() > 0).to(seen.dtype).mean(),
        },
    )
