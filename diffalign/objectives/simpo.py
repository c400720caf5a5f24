"""SimPO (Meng et al. 2024) for denoising errors: preference pairs without a reference, with a margin to reach."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.objectives._margin import margin_metrics
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def simpo(policy: Float[Tensor, "pairs 2"], *, beta: float, gamma: float) -> ObjectiveOutput:
    """Logistic loss on the difference in error between the two members, less a margin.

        loss = -log sigmoid(beta/2 (policy_l - policy_w) - gamma)

    Without a reference nothing holds the winner's error down: only the difference counts, and time and noise must be
    shared, or it says more about the time than about the members. Watch the winner's error.

    Args:
        policy: denoising error of the trained model.
        beta: scale of the difference (> 0).
        gamma: margin to reach before the loss is below log 2 (>= 0).

    Returns:
        loss [pairs], not averaged; metrics `margin` (before gamma is taken off) and `pair_accuracy`, detached scalars.

    Source: Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", eq 6, with -beta/2
    error for the length-normalised log-density; there is no published diffusion form.
    """
    margin = 0.5 * beta * (policy[:, 1] - policy[:, 0])
    return ObjectiveOutput(loss=-F.logsigmoid(margin - gamma), metrics=margin_metrics(margin))
