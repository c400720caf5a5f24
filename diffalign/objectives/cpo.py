"""CPO (Xu et al. 2024) for denoising errors: preference pairs without a reference, with the winner's error beside."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.objectives._margin import margin_metrics
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def cpo(policy: Float[Tensor, "pairs 2"], *, beta: float, weight: float) -> ObjectiveOutput:
    """Logistic loss on the difference in error, plus the winner's error, which takes the reference's place.

        loss = -log sigmoid(beta/2 (policy_l - policy_w)) + weight policy_w

    Time and noise must be shared, or the difference says more about the time than about the members.

    Args:
        policy: denoising error of the trained model.
        beta: scale of the difference (> 0).
        weight: of the winner's error (>= 0).

    Returns:
        loss [pairs], not averaged; metrics `margin` (what is inside the sigmoid) and `pair_accuracy`, detached scalars.

    Source: Xu et al. 2024, "Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine
    Translation", eq 5, with -beta/2 error for the log-density; there is no published diffusion form.
    """
    margin = 0.5 * beta * (policy[:, 1] - policy[:, 0])
    return ObjectiveOutput(loss=weight * policy[:, 0] - F.logsigmoid(margin), metrics=margin_metrics(margin))
