"""IPO (Azar et al. 2023): regress the margin of a pair to a finite target instead of pushing it up for ever."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives._margin import margin_metrics, pair_margin
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def ipo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    beta: float,
    unit: Literal["margin", "error"],
) -> ObjectiveOutput:
    """Squared distance of the margin from 1/2.

        z = beta/2 ((reference_w - policy_w) - (reference_l - policy_l))
        margin: loss = (z - 1/2)^2
        error:  loss = (z / (beta/2) - 1/beta)^2                         the same divided by (beta/2)^2

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        beta: strength of the pull to the reference (> 0): the target is a difference in gain of 1/beta.
        unit: what the distance is measured in. "error" is the paper's formula with errors for log-densities, and gives
            losses of about 1e-7 whose gradients Adam's epsilon and clipping notice; "margin" is scaled as DPO's.

    Returns:
        loss [pairs], not averaged; metrics `margin` (z) and `pair_accuracy`, detached scalars.

    Raises:
        ConfigError: no such unit.

    Source: Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human Preferences", eq 17.
    "error" is the `ipo` of diffusers' Diffusion-DPO script at its beta_dpo = beta/2.
    """
    if unit not in ("margin", "error"):
        raise ConfigError(f"unit: must be margin or error, got {unit!r}")
    margin = pair_margin(policy, reference, beta)
    distance = margin - 0.5
    if unit == "error":
        distance = distance / (0.5 * beta)
    return ObjectiveOutput(loss=distance.square(), metrics=margin_metrics(margin))
