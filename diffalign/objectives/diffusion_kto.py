"""Diffusion-KTO (Li et al. 2024): single samples that someone liked or disliked."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def diffusion_kto(
    policy: Float[Tensor, "groups members"],
    *,
    reference: Float[Tensor, "groups members"],
    label: Float[Tensor, "groups members"],
    baseline: Float[Tensor, ""],
    beta: float,
    desirable: float,
    undesirable: float,
) -> ObjectiveOutput:
    """Raise the utility of liked samples' gain over the batch's usual gain, and of disliked samples' lack of it.

        loss = mean over labelled members of weight (1 - sigmoid(beta label ((reference - policy) - baseline)))

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        label: +1 liked, -1 disliked, 0 neither: left out, whatever its error; a group without labels has loss 0.
        baseline: the usual gain of the whole batch, without gradient; see `kto_baseline`.
        beta: strength of the pull to the reference (> 0); the authors have no 1/2.
        desirable: weight of liked samples (>= 0).
        undesirable: weight of disliked samples (>= 0).

    Returns:
        loss [groups], not averaged; metrics `margin` (what is inside the sigmoid) and `label_accuracy` (share on the
        right side of the baseline) over the labelled samples, and `baseline`, detached scalars.

    Source: Li et al. 2024, "Aligning Diffusion Models by Optimizing Human Utility", with the sigmoid utility, and the
    authors' train_kto_sd_v1.5.py.
    """
    labelled = label != 0  # a NaN is a label, and spoils its group
    margin = (beta * label * (reference - policy - baseline.detach())).masked_fill(~labelled, 0.0)
    weight = torch.full_like(margin, undesirable).masked_fill(label > 0, desirable)
    loss = (weight * (-margin).sigmoid()).masked_fill(~labelled, 0.0)  # 1 - sigmoid, without the difference
    seen, count = margin.detach(), labelled.sum().clamp(min=1)
    return ObjectiveOutput(
        loss=loss.sum(1) / labelled.sum(1).clamp(min=1),
        metrics={
            "margin": seen.sum() / count,
            "label_accuracy": (seen > 0).sum() / count,
            "baseline": baseline.detach(),
        },
    )


@at_least_float32
def kto_baseline(
    policy: Float[Tensor, "groups members"],
    *,
    reference: Float[Tensor, "groups members"],
    label: Float[Tensor, "groups members"],
    offset: Literal["batch", "classes", "mismatched"],
) -> Float[Tensor, ""]:
    """The usual gain of a batch, which stands for the KL divergence to the reference; without gradient.

    Give it the errors of the accumulated, all-process batch: on a batch of 2 it is mostly the sample itself. Samples
    without a label are left out, and so is a gain that is NaN: that spoils the loss of its own group alone.

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        label: +1 liked, -1 disliked, 0 neither.
        offset: "batch" is the mean gain, at least 0 (the authors' default); "classes" the mean of the two classes' mean
            gains, which may be below 0 (their `sigmoid`; an absent class counts as 0); "mismatched" the mean gain
            whatever its sign, for errors under other samples' prompts (their `original`).

    Raises:
        ConfigError: no such offset.
    """
    if offset not in ("batch", "classes", "mismatched"):
        raise ConfigError(f"offset: must be batch, classes or mismatched, got {offset!r}")
    gain = (reference - policy).detach()
    counted = (label != 0) & ~gain.isnan() & ~label.isnan()
    if offset == "batch":
        return _mean_over(gain, counted).clamp(min=0)
    if offset == "mismatched":
        return _mean_over(gain, counted)
    return (_mean_over(gain, counted & (label > 0)) + _mean_over(gain, counted & (label < 0))) / 2


def _mean_over(gain: Float[Tensor, "groups members"], chosen: Bool[Tensor, "groups members"]) -> Float[Tensor, ""]:
    """Mean over the chosen samples of the batch; 0 where there is none."""
    return gain.masked_fill(~chosen, 0.0).sum() / chosen.sum().clamp(min=1)
