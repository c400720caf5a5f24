"""Supervised fine-tuning on the best member of each group: the baseline beside every method."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def sft(policy: Float[Tensor, "groups members"]) -> ObjectiveOutput:
    """The denoising error of member 0, which is the best one.

    Args:
        policy: denoising error of the trained model.

    Returns:
        loss [groups]; no metrics of its own.

    Source: the SFT baseline of Wallace et al. 2023 (preferred pictures only).
    """
    return ObjectiveOutput(loss=policy[:, 0], metrics={})
