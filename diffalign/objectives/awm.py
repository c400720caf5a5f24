"""Advantage Weighted Matching (Xue et al. 2025): PPO on denoising errors in the place of log-probabilities."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.divergence import weighted_divergence
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32
from diffalign.objectives.surrogate import clip_advantage, clip_fraction, clipped_surrogate, ratio_of

Weighting = Literal["uniform", "t", "t_squared", "huber", "ghuber"]
SMALLEST_ERROR = 1e-10  # added under the roots, as in the authors' code


@at_least_float32
def awm(
    policy: Float[Tensor, "groups members"],
    *,
    behaviour: Float[Tensor, "groups members"],
    advantage: Float[Tensor, "groups members"],
    t: Float[Tensor, "groups members"],
    divergence: Float[Tensor, "groups members"] | None = None,
    ema_divergence: Float[Tensor, "groups members"] | None = None,
    weighting: Weighting,
    power: float,
    clip: float | None,
    advantage_clip: float,
    advantage_scale: float,
    kl_weight: float,
    ema_weight: float,
) -> ObjectiveOutput:
    """Clipped policy gradient with minus the weighted denoising error as log-probability.

        l = -error (uniform), -error t, -error t^2, -(sqrt(error + 1e-10) - 1e-5) t (huber),
            -((error + 1e-10)^p - 1e-10^p) t / p (ghuber)
        A' = clip(A, -c, c) / c * advantage_scale
        ratio = exp(l(policy) - l(behaviour))
        loss = mean(max(-A' ratio, -A' clip(ratio, 1 - clip, 1 + clip)) + kl_weight KL + ema_weight KL_ema)

    At policy = behaviour its gradient is that of A' times the weighted error: supervised training, weighted.

    Args:
        policy: velocity error of the trained model.
        behaviour: that of the model at the start of the update, on the same noise and time; `policy.detach()` where
            each batch is used once, as the authors do.
        advantage: of each member within its group.
        t: process time.
        divergence: squared velocity difference from the reference, with gradient (`residual_divergence`).
        ema_divergence: the same from a moving average of the policy.
        weighting: how an error counts at each time.
        power: p of ghuber, in (0, 1].
        clip: how far a ratio may go (> 0), None: any way.
        advantage_clip: c (> 0).
        advantage_scale: the largest advantage after scaling (> 0).
        kl_weight: of `divergence` (>= 0).
        ema_weight: of `ema_divergence` (>= 0).

    Returns:
        loss [groups]; metrics `ratio`, and as they apply `clip_fraction`, `kl`, `ema_kl`.

    Raises:
        ConfigError: no such weighting, or a weight without its divergence.

    Source: Xue et al. 2025, "Advantage Weighted Matching", and its code, scripts/train_sd3_awm.py (`exp_first`).
    """
    log_prob = _weighted(policy, t, weighting, power)
    ratio = ratio_of(log_prob - _weighted(behaviour.detach(), t, weighting, power))
    scaled = clip_advantage(advantage, advantage_clip) / advantage_clip * advantage_scale
    loss = clipped_surrogate(ratio, advantage=scaled, clip=clip)
    loss = loss + weighted_divergence(divergence, kl_weight, name="divergence", weight_name="kl_weight")
    loss = loss + weighted_divergence(ema_divergence, ema_weight, name="ema_divergence", weight_name="ema_weight")
    seen = {"ratio": ratio, "kl": divergence, "ema_kl": ema_divergence}
    metrics = {name: value.detach().mean() for name, value in seen.items() if value is not None}
    if clip is not None:
        metrics["clip_fraction"] = clip_fraction(ratio, clip)
    return ObjectiveOutput(loss=loss.mean(1), metrics=metrics)


def _weighted(error: Tensor, t: Tensor, weighting: Weighting, power: float) -> Tensor:
    if weighting == "uniform":
        return -error
    if weighting == "t":
        return -error * t
    if weighting == "t_squared":
        return -error * t**2
    if weighting == "huber":
        return -((error + SMALLEST_ERROR).sqrt() - SMALLEST_ERROR**0.5) * t
    if weighting == "ghuber":
        return -((error + SMALLEST_ERROR) ** power - SMALLEST_ERROR**power) * t / power
    raise ConfigError(f"weighting: must be uniform, t, t_squared, huber or ghuber, got {weighting!r}")
