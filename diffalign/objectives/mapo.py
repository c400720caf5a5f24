"""MaPO (Hong et al. 2024): preference pairs without a reference model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.objectives._margin import margin_metrics
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def mapo(policy: Float[Tensor, "pairs 2"], *, weight: float, scale: float, snr: float) -> ObjectiveOutput:
    """Denoising error of the winner, and a logistic loss on the difference of both members' odds.

        q(error) = snr error / (exp(snr error) - 1)                      falls from 1 as the error grows
        loss = policy_w - weight log sigmoid(scale (q(policy_w) - q(policy_l)))

    Without a reference only the shared time and noise make the two errors comparable: draw with share_time and
    share_noise, and watch the winner's error.

    Args:
        policy: denoising error of the trained model (>= 0).
        weight: of the logistic loss (>= 0); the authors' beta_mapo.
        scale: of the difference in odds (> 0); the number of training timesteps for the authors.
        snr: stands for the signal-to-noise weight of the bound (> 0).

    Returns:
        loss [pairs], not averaged; metrics `margin` (what is inside the sigmoid) and `pair_accuracy`, detached scalars.

    Source: Hong et al. 2024, "Margin-aware Preference Optimization for Aligning Diffusion Models without Reference",
    and the authors' utils.compute_loss.
    """
    odds = _odds(snr * policy)
    margin = scale * (odds[:, 0] - odds[:, 1])
    return ObjectiveOutput(loss=policy[:, 0] - weight * F.logsigmoid(margin), metrics=margin_metrics(margin))


def _odds(x: Float[Tensor, "pairs 2"]) -> Float[Tensor, "pairs 2"]:
    """x / (exp(x) - 1), which is 1 at 0: by its series below 0.1, where the quotient's gradient would cancel."""
    small = x < 0.1
    near, far = x.clamp(max=0.1), x.clamp(min=0.1)
    series = 1 - near / 2 + near**2 / 12 - near**4 / 720 + near**6 / 30240
    quotient = far * torch.exp(-far) / -torch.expm1(-far)  # the same with numerator and denominator times exp(-x)
    return torch.where(small, series, quotient)
