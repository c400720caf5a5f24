"""SmPO-Diffusion (Lu et al. 2025): Diffusion-DPO with soft preferences, on noise found by inversion.

The inverted noise is made by `diffalign.samplers.renoise` and arrives as the draw; this file is the loss alone.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32

# Range of raw PickScore cosines that the authors normalise with (train.py); other rewards need their own.
PICKSCORE_RANGE = (0.11543526500463486, 0.28201571106910706)


@at_least_float32
def smpo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    preference: Float[Tensor, " pairs"],
    beta: float,
    scale: float,
) -> ObjectiveOutput:
    """`diffusion_dpo` whose margin is multiplied by scale (2 preference - 1).

        loss = -log sigmoid(beta/2 scale (2 preference - 1) ((reference_0 - policy_0) - (reference_1 - policy_1)))

    Args:
        policy: denoising error of the trained model at the inverted noise.
        reference: denoising error of the frozen model on the same x_t.
        preference: probability that member 0 wins, in [0, 1]; `smoothed_preference` makes it from rewards. 1/2 gives
            log 2 and no gradient; below 1/2 member 1 is the one that wins.
        beta: strength of the pull to the reference (> 0).
        scale: the paper's gamma (> 0).

    Returns:
        loss [pairs], not averaged; metrics `margin` and `pair_accuracy` of the scaled margin.

    Source: Lu et al. 2025, "Smoothed Preference Optimization via ReNoise Inversion for Aligning Diffusion Models with
    Varied Human Preferences". The authors' train.py multiplies every pair of a batch by the first pair's factor
    (`probs[0]`), which is right for one pair per device only; here each pair has its own.
    """
    factor = scale * (2 * preference - 1)
    return diffusion_dpo(policy, reference=reference, beta=beta * factor)


@at_least_float32
def smoothed_preference(reward: Float[Tensor, "pairs 2"], *, low: float, high: float) -> Float[Tensor, " pairs"]:
    """Probability that member 0 wins: a softmax over rewards that are scaled so that [low, high] becomes [0, 1].

    Args:
        reward: higher is better.
        low: reward that becomes 0; see `PICKSCORE_RANGE`.
        high: reward that becomes 1 (> low).

    Source: Lu et al. 2025; the authors' train.py.
    """
    return ((reward[:, 0] - reward[:, 1]) / (high - low)).sigmoid()
