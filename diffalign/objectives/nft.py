"""DiffusionNFT (Zheng et al. 2025): reinforcement learning on the forward process, from clean samples alone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffalign.objectives.divergence import residual_divergence, weighted_divergence
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32

SMALLEST_SCALE = 1e-5  # of the self-normalisation, as in the authors' code


@at_least_float32
def nft(
    policy_residual: Float[Tensor, "groups members *sample"],
    *,
    behaviour_residual: Float[Tensor, "groups members *sample"],
    advantage: Float[Tensor, "groups members"],
    t: Float[Tensor, "groups members"],
    reference_residual: Float[Tensor, "groups members *sample"] | None = None,
    beta: float,
    advantage_clip: float,
    normalise: bool,
    kl_weight: float,
) -> ObjectiveOutput:
    """Two denoising errors, of a network moved towards the policy and of its mirror image about the behaviour.

        r = clip(A / (2 c) + 1/2, 0, 1)                                            c = advantage_clip
        v+ = b policy + (1 - b) behaviour,   v- = (1 + b) behaviour - b policy     b = beta
        L+- = mean over elements of (x0+- - x0)^2 / stop_gradient(mean |x0+- - x0|),   x0+- = x_t - t v+-
        loss = mean(c (r L+ + (1 - r) L-) / b + kl_weight mean (v_policy - v_reference)^2)

    Args:
        policy_residual: velocity - target of the trained model, of the linear flow: t times it is that of x0.
        behaviour_residual: the same of the model that drew the samples (a slow copy of the policy), on the same x_t.
        advantage: of each member within its group.
        t: process time.
        reference_residual: the same of the frozen model; needed where kl_weight > 0.
        beta: how far v+ goes from the behaviour to the policy (> 0); 1 is the policy itself. Not a weight.
        advantage_clip: the advantage that counts as certainly good (> 0).
        normalise: divide each error by its own mean size, as the authors do; False is the plain error.
        kl_weight: of the squared velocity difference from the reference (>= 0).

    Returns:
        loss [groups]; metrics `optimality` (r), `positive_error`, `negative_error` (L+-), `behaviour_kl`, and `kl`
        where the reference is given.

    Raises:
        ConfigError: kl_weight without reference_residual.

    Source: Zheng et al. 2025, "DiffusionNFT: Online Diffusion Reinforcement with Forward Process", and its code,
    scripts/train_nft_sd3.py, which also multiplies by c; both are followed.
    """
    time = t.reshape(t.shape + (1,) * (policy_residual.ndim - 2))
    behaviour = behaviour_residual.detach()
    step = beta * (policy_residual - behaviour)
    positive = _error(time * (behaviour + step), normalise)
    negative = _error(time * (behaviour - step), normalise)
    optimality = (advantage.detach() / (2 * advantage_clip) + 0.5).clamp(0, 1)
    pull = advantage_clip * (optimality * positive + (1 - optimality) * negative) / beta
    seen = {
        "optimality": optimality,
        "positive_error": positive,
        "negative_error": negative,
        "behaviour_kl": residual_divergence(policy_residual.detach(), other_residual=behaviour),
    }
    divergence = None
    if reference_residual is not None:
        divergence = residual_divergence(policy_residual, other_residual=reference_residual.detach())
        seen["kl"] = divergence
    penalty = weighted_divergence(divergence, kl_weight, name="reference_residual", weight_name="kl_weight")
    return ObjectiveOutput(
        loss=(pull + penalty).mean(1), metrics={name: value.detach().mean() for name, value in seen.items()}
    )


def _error(residual: Tensor, normalise: bool) -> Tensor:
    square = residual.square().flatten(2).mean(2)
    if not normalise:
        return square
    return square / residual.detach().abs().flatten(2).mean(2).clamp(min=SMALLEST_SCALE)
