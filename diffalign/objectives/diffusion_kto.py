"""Diffusion-KTO (Li et al. 2024): single samples that someone liked or disliked."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
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

        loss = mean over members of weight (1 - sigmoid(beta label ((reference - policy) - baseline)))

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        label: +1 liked, -1 disliked.
        baseline: the usual gain of the whole batch, without gradient; see `kto_baseline`.
        beta: strength of the pull to the reference (> 0); the authors have no 1/2.
        desirable: weight of liked samples (>= 0).
        undesirable: weight of disliked samples (>= 0).

    Returns:
        loss [groups], not averaged; metrics `margin` (what is inside the sigmoid), `label_accuracy` (share of samples
        on the right side of the baseline) and `baseline`, detached scalars.

    Source: Li et al. 2024, "Aligning Diffusion Models by Optimizing Human Utility", with the sigmoid utility, and the
    authors' train_kto_sd_v1.5.py.
    """
    margin = beta * label * (reference - policy - baseline)
    liked = (label > 0).to(margin.dtype)
    weight = desirable * liked + undesirable * (1 - liked)
    loss = weight * (-margin).sigmoid()  # 1 - sigmoid, without the difference
    seen = margin.detach()
    return ObjectiveOutput(
        loss=loss.mean(1),
        metrics={
            "margin": seen.mean(),
            "label_accuracy": (seen > 0).to(seen.dtype).mean(),
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

    Give it the errors of all valid samples of the accumulated, all-process batch: on a batch of 2 it is mostly the
    sample itself.

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        label: +1 liked, -1 disliked; used by "classes" only.
        offset: "batch" is the mean gain, at least 0 (the authors' default); "classes" the mean of the two classes' mean
            gains, which may be below 0 (their `sigmoid`; an absent class counts as 0); "mismatched" the mean gain
            whatever its sign, for errors under other samples' prompts (their `original`).

    Raises:
        ConfigError: no such offset.
    """
    if offset not in ("batch", "classes", "mismatched"):
        raise ConfigError(f"offset: must be batch, classes or mismatched, got {offset!r}")
    gain = (reference - policy).detach()
    if offset == "batch":
        return gain.mean().clamp(min=0)
    if offset == "mismatched":
        return gain.mean()
    liked = (label > 0).to(gain.dtype)
    means = [(gain * chosen).sum() / chosen.sum().clamp(min=1) for chosen in (liked, 1 - liked)]
    return (means[0] + means[1]) / 2
