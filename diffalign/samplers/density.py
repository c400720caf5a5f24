"""How likely a step was: the log-density of the state it led to."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Density = Literal["gaussian", "unnormalised"]
Reduction = Literal["mean", "sum"]


def log_density(
    x: Float[Tensor, "batch *sample"],
    mean: Float[Tensor, "batch *sample"],
    std: Float[Tensor, "batch *ones"],
    *,
    density: Density = "gaussian",
    reduce: Reduction = "mean",
) -> Float[Tensor, " batch"]:
    """Of every sample, over its elements; NaN where std is 0, for a deterministic step has none.

    Args:
        x: the states that were reached.
        mean, std: of the step; std [batch, 1, ...].
        density: "gaussian" is -(x - mean)^2 / (2 std^2) - log std - log(2 pi) / 2; "unnormalised" is -(x - mean)^2, the
            log-density without its constants and without its scale (Coefficients-Preserving Sampling).
        reduce: "mean" over the elements, as DDPO and all that came of it take it; "sum" is the exact log-density.

    Source: Black et al. 2024, ddpo-pytorch ddim_with_logprob.py; flow_grpo sd3_sde_with_logprob.py.
    """
    square = (x - mean) ** 2
    if density == "gaussian":
        each = -square / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    else:
        each = -square
    each = torch.where(std > 0, each, torch.nan).flatten(1)
    return each.mean(1) if reduce == "mean" else each.sum(1)
