"""Flow-GRPO (Liu et al. 2025) and its kin: PPO on the log-probabilities of stochastic sampling steps.

DanceGRPO, MixGRPO and CPS differ from it in the sampling step alone; on a DDIM step's log-probabilities it is DDPO.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.divergence import weighted_divergence
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32
from diffalign.objectives.surrogate import clip_advantage, clip_fraction, clipped_surrogate, ratio_of


@at_least_float32
def flow_grpo(
    log_prob: Float[Tensor, "*steps groups members"],
    *,
    behaviour_log_prob: Float[Tensor, "*steps groups members"],
    advantage: Float[Tensor, "groups members"],
    divergence: Float[Tensor, "*steps groups members"] | None = None,
    behaviour_divergence: Float[Tensor, "*steps groups members"] | None = None,
    std: Float[Tensor, "*steps groups members"] | None = None,
    clip: float | None,
    advantage_clip: float | None = None,
    guard: bool = False,
    max_divergence: float | None = None,
    kl_weight: float = 0.0,
) -> ObjectiveOutput:
    """Clipped policy gradient per sampling step, averaged over members and steps.

        ratio = exp(log_prob - behaviour_log_prob)
        loss = mean(max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip)) + kl_weight divergence)

    Args:
        log_prob: log-density of the step that was taken, under the trained model: a mean over elements.
        behaviour_log_prob: the same under the model that took it.
        advantage: of each member within its group; one for all of its steps.
        divergence: from the reference, with gradient (`gaussian_divergence`); needed where kl_weight > 0.
        behaviour_divergence: from the behaviour, by the step's own std; needed by `guard` and `max_divergence`.
        std: of the step, s_t sqrt(-dt); needed by `guard`.
        clip: how far a ratio may go (> 0). Small, since log_prob is a mean: 1e-5 to 1e-3. None: no clipping.
        advantage_clip: advantages are first clipped to +- this; None: not.
        guard: GRPO-Guard's ratio, exp(std (log_prob - behaviour_log_prob + behaviour_divergence)), whose logarithm has
            mean 0 under the behaviour and does not grow as the step's std shrinks: the clip means the same at each step.
        max_divergence: Flow-DPPO's mask: where the behaviour is this far or farther and the ratio has already moved
            the way the advantage pushes, the step is dropped (it counts as 0 in the mean). Goes with clip = None.
        kl_weight: of the divergence from the reference (>= 0).

    Returns:
        loss [groups]; metrics `ratio`, `approx_kl` (half the mean squared log-ratio, of the plain one), and as they
        apply `clip_fraction`, `masked_fraction`, `kl` (from the reference), `behaviour_kl`.

    Raises:
        ConfigError: an option without the input that it needs.

    Source: Liu et al. 2025, "Flow-GRPO: Training Flow Matching Models via Online RL", and flow_grpo's train_sd3.py;
    guard: "GRPO-Guard" (arXiv 2510.22319) as in Flow-Factory's trainers/grpo.py; mask: "Flow-DPPO" (arXiv 2606.11025)
    as in UniRL's algorithms/flowdppo.py, whose divergence is a mean over elements too. The paper's KL divides by
    the step's variance, the code's by s_t^2 only: that choice is the caller's, see `gaussian_divergence`.
    """
    plain = log_prob - behaviour_log_prob.detach()
    if (guard or max_divergence is not None) and behaviour_divergence is None:
        raise ConfigError("guard and max_divergence need behaviour_divergence: the divergence from the behaviour")
    log_ratio = _guarded(plain, behaviour_divergence, std) if guard else plain
    ratio = ratio_of(log_ratio)
    advantage = clip_advantage(advantage, advantage_clip)
    surrogate = clipped_surrogate(ratio, advantage=advantage, clip=clip)
    seen = {"ratio": ratio, "approx_kl": plain**2 / 2}
    if max_divergence is not None and behaviour_divergence is not None:
        onward = ((ratio > 1) & (advantage > 0)) | ((ratio < 1) & (advantage < 0))
        dropped = onward & (behaviour_divergence >= max_divergence)
        surrogate = torch.where(dropped, torch.zeros_like(surrogate), surrogate)
        surrogate = surrogate.masked_fill(behaviour_divergence.isnan(), torch.nan)  # which is not >= anything above
        seen["masked_fraction"] = dropped.to(ratio.dtype)
    if divergence is not None:
        seen["kl"] = divergence
    if behaviour_divergence is not None:
        seen["behaviour_kl"] = behaviour_divergence
    penalty = weighted_divergence(divergence, kl_weight, name="divergence", weight_name="kl_weight")
    metrics = {name: value.detach().mean() for name, value in seen.items()}
    if clip is not None:
        metrics["clip_fraction"] = clip_fraction(ratio, clip)
    each = surrogate + penalty
    return ObjectiveOutput(loss=each.reshape(-1, *each.shape[-2:]).mean((0, 2)), metrics=metrics)


def _guarded(plain: Tensor, behaviour_divergence: Tensor | None, std: Tensor | None) -> Tensor:
    if behaviour_divergence is None or std is None:
        raise ConfigError("guard: needs std, the step's own, beside behaviour_divergence")
    # E[log_prob - behaviour_log_prob] = -divergence under the behaviour: adding it centres the log-ratio
    return std * (plain + behaviour_divergence)
