"""DSPO (Zhu et al. 2025): score matching on the winner, whose target the preference shifts."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives._margin import margin_metrics, mean_square, pair_margin
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32

_SDXL_THRESHOLD = 0.1  # the authors' train.py


@at_least_float32
def dspo(
    policy_residual: Float[Tensor, "pairs 2 *sample"],
    *,
    reference_residual: Float[Tensor, "pairs 2 *sample"],
    beta: float,
    form: Literal["sd15", "sdxl"],
) -> ObjectiveOutput:
    """Winner's squared residual after a shift towards what the policy has learned over the reference.

        z = beta/2 ((reference_w - policy_w) - (reference_l - policy_l))             errors: mean squared residuals
        drift = policy_residual_w - reference_residual_w                             what the two networks differ by
        sd15: loss = mean (policy_residual_w - beta (1 - sigmoid(z)) drift)^2
        sdxl: loss = mean ((1 - sigmoid(z)) drift)^2 where mean drift^2 >= 0.1, else (1 - sigmoid(z))^2

    sigmoid(z) carries gradient, as in the authors' code. At their beta of 0.001, sd15 is supervised fine-tuning on the
    winner up to a shift of 0.05%; sdxl, at 5000, is a squared-sigmoid Diffusion-DPO until the drift is large.

    Args:
        policy_residual: prediction - target of the trained model, winner first.
        reference_residual: the same of the frozen model on the same x_t.
        beta: in z and, in sd15, of the shift (> 0).
        form: which of the two branches of the authors' code; they use each for the model it is named after.

    Returns:
        loss [pairs], not averaged; metrics `margin` (z), `pair_accuracy` and `drift` (mean drift^2), detached scalars.

    Raises:
        ConfigError: no such form.

    Source: Zhu et al. 2025, "DSPO: Direct Score Preference Optimization for Diffusion Model Alignment", and the
    authors' train.py, except that sdxl decides pair by pair: they compare the mean drift of a process's batch.
    """
    if form not in ("sd15", "sdxl"):
        raise ConfigError(f"form: must be sd15 or sdxl, got {form!r}")
    margin = pair_margin(mean_square(policy_residual), mean_square(reference_residual), beta)
    lack = (-margin).sigmoid()  # 1 - sigmoid(z)
    winner = policy_residual[:, :1]
    drift = winner - reference_residual[:, :1]
    drift_square = mean_square(drift)[:, 0]
    if form == "sd15":
        shift = beta * lack.reshape(-1, *(1,) * (drift.ndim - 1)) * drift
        loss = mean_square(winner - shift)[:, 0]
    else:
        far = drift_square.detach() >= _SDXL_THRESHOLD
        loss = lack.square() * torch.where(far, drift_square, torch.ones_like(drift_square))
    return ObjectiveOutput(loss=loss, metrics={**margin_metrics(margin), "drift": drift_square.detach().mean()})
