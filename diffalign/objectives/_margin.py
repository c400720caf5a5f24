"""What the objectives on pairs share: the margin of Diffusion-DPO, the losses of a margin, and what is logged of it."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError, ShapeError

LOSSES = ("sigmoid", "hinge", "robust")


def pair_margin(
    policy: Float[Tensor, "pairs 2"], reference: Float[Tensor, "pairs 2"], beta: float | Float[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """What stands inside the sigmoid of Diffusion-DPO: beta/2 times the difference in gain; > 0 is right.

    Raises:
        ShapeError: not two members, or policy and reference are not alike.
    """
    if policy.ndim != 2 or policy.shape[1] != 2 or reference.shape != policy.shape:
        raise ShapeError(
            f"policy and reference must be errors [pairs, 2], the preferred member first; got {list(policy.shape)} and "
            f"{list(reference.shape)}"
        )
    gain = reference - policy  # > 0 where the policy denoises better than the reference
    return 0.5 * beta * (gain[:, 0] - gain[:, 1])


def margin_loss(margin: Float[Tensor, " pairs"], loss: str, label_smoothing: float) -> Float[Tensor, " pairs"]:
    """The three losses of `diffusion_dpo`.

    Raises:
        ConfigError: no such loss, or one that the label smoothing does not fit.
    """
    if loss not in LOSSES:
        raise ConfigError(f"loss: must be sigmoid, hinge or robust, got {loss!r}")
    if not 0 <= label_smoothing < 0.5:
        raise ConfigError(f"label_smoothing: must be >= 0 and < 0.5, got {label_smoothing:g}")
    if loss == "hinge":
        if label_smoothing:
            raise ConfigError(f"label_smoothing: must be 0 with loss: hinge, got {label_smoothing:g}")
        return F.relu(1 - margin)
    if not label_smoothing:
        if loss == "robust":
            raise ConfigError("label_smoothing: must be > 0 with loss: robust, got 0")
        return -F.logsigmoid(margin)
    right, wrong = (1 - label_smoothing) * -F.logsigmoid(margin), label_smoothing * -F.logsigmoid(-margin)
    return right + wrong if loss == "sigmoid" else (right - wrong) / (1 - 2 * label_smoothing)


def margin_metrics(margin: Float[Tensor, "*groups"]) -> dict[str, Float[Tensor, ""]]:
    """Mean margin and the share of margins above 0 (a tie counts 0), detached."""
    seen = margin.detach()
    return {"margin": seen.mean(), "pair_accuracy": (seen > 0).to(seen.dtype).mean()}


def mean_square(residual: Float[Tensor, "groups members *sample"]) -> Float[Tensor, "groups members"]:
    """The denoising error of a residual."""
    return residual.square().flatten(2).mean(2)
