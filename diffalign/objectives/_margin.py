"""What the objectives on pairs share: the margin of Diffusion-DPO and the figures that are logged of it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def pair_margin(
    policy: Float[Tensor, "pairs 2"], reference: Float[Tensor, "pairs 2"], beta: float
) -> Float[Tensor, " pairs"]:
    """What stands inside the sigmoid of Diffusion-DPO: beta/2 times the difference in gain; > 0 is right."""
    gain = reference - policy
    return 0.5 * beta * (gain[:, 0] - gain[:, 1])


def margin_metrics(margin: Float[Tensor, "*groups"]) -> dict[str, Float[Tensor, ""]]:
    """Mean margin and the share of margins above 0 (a tie counts 0), detached."""
    seen = margin.detach()
    return {"margin": seen.mean(), "pair_accuracy": (seen > 0).to(seen.dtype).mean()}


def mean_square(residual: Float[Tensor, "groups members *sample"]) -> Float[Tensor, "groups members"]:
    """The denoising error of a residual."""
    return residual.square().flatten(2).mean(2)
