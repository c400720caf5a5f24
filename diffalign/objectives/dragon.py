"""DRAGON (Bai et al. 2025): contrast a positive and a negative set that any reward, also of distributions, built.

How the sets are built is the data's business. The authors published no code, and which contrast, beta and learning
rate they use by default was not to be read; both contrasts are their papers' own, Diffusion-DPO and Diffusion-KTO.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.diffusion_kto import diffusion_kto
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def dragon(
    policy: Float[Tensor, "groups members"],
    *,
    reference: Float[Tensor, "groups members"],
    label: Float[Tensor, "groups members"],
    baseline: Float[Tensor, ""] | None = None,
    contrast: Literal["dpo", "kto"],
    beta: float,
    desirable: float,
    undesirable: float,
) -> ObjectiveOutput:
    """Raise the denoising gain on the positive set above that on the negative set.

        gain = reference - policy
        dpo  loss = -log sigmoid(beta/2 (mean gain of the group's positives - mean gain of its negatives))
        kto  loss = mean_i w_i (1 - sigmoid(label_i beta (gain_i - baseline)))

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        label: +1 in the positive set, -1 in the negative one, 0 in neither: left out, whatever its error.
        baseline: for kto, the usual gain of the batch of all processes: `kto_baseline`; carries no gradient.
        contrast: "dpo" compares within a group (a prompt's pair in the paper); a group whose members are all on one
            side has nothing to compare: its loss is 0, and it is counted. "kto" takes each sample by itself.
        beta: strength of the pull to the reference (> 0); kto does not halve it.
        desirable: weight of the positives under kto.
        undesirable: weight of the negatives under kto.

    Returns:
        loss [groups]; metrics `margin` (mean gain of positives less that of negatives, times beta/2 or beta),
        `accuracy` (share of groups with margin > 0) and `one_sided` (share of groups with members on one side only);
        the first two over the groups with both sides.

    Raises:
        ConfigError: no such contrast, or kto without baseline.

    Source: Bai et al. 2025, "DRAGON: Distributional Rewards Optimize Diffusion Generative Models", section on the
    losses; Wallace et al. 2023 for dpo; the authors' train_kto_sd_v1.5.py of Li et al. 2024 for kto.
    """
    if contrast not in ("dpo", "kto"):
        raise ConfigError(f"contrast: must be dpo or kto, got {contrast!r}")
    gain = (reference - policy).masked_fill(label == 0, 0.0)
    positive, negative = label > 0, label < 0
    both = positive.any(1) & negative.any(1)
    apart = _mean_of(gain, positive) - _mean_of(gain, negative)
    if contrast == "dpo":
        margin = 0.5 * beta * apart
        loss = -F.logsigmoid(margin) * both
        loss = loss.masked_fill(label.isnan().any(1), torch.nan)  # it is on neither side above
    else:
        if baseline is None:
            raise ConfigError("contrast: kto needs `baseline`, the usual gain of the whole batch: see `kto_baseline`")
        margin = beta * apart
        weights = {"beta": beta, "desirable": desirable, "undesirable": undesirable}
        loss = diffusion_kto(policy, reference=reference, label=label, baseline=baseline, **weights).loss
    seen, groups = margin.detach().masked_fill(~both, 0.0), both.sum().clamp(min=1)
    return ObjectiveOutput(
        loss=loss,
        metrics={
            "margin": seen.sum() / groups,
            "accuracy": (seen > 0).sum() / groups,
            "one_sided": (~both).to(gain.dtype).mean(),
        },
    )


def _mean_of(gain: Float[Tensor, "groups members"], chosen: Bool[Tensor, "groups members"]) -> Float[Tensor, " groups"]:
    """Mean over the chosen members of each group; 0 where there is none."""
    return (gain * chosen).sum(1) / chosen.sum(1).clamp(min=1)
