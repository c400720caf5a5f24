"""D3PO (Yang et al. 2024): preference pairs of trajectories, scored step by step; with other settings, SPO.

SPO (Liang et al. 2025, "Aesthetic Post-Training Diffusion Models from Generic Preferences with Step-by-step
Preference Optimization") is this loss at beta 10 on pairs of single steps that share x_t.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def d3po(
    log_prob: Float[Tensor, "*steps groups 2"],
    *,
    reference_log_prob: Float[Tensor, "*steps groups 2"],
    preference: Float[Tensor, " groups"],
    beta: float,
    clip: float,
) -> ObjectiveOutput:
    """Logistic loss on the clipped log-ratios of each step, averaged over the steps.

        log r = clamp(log_prob - reference_log_prob, log(1 - clip), log(1 + clip))
        loss = mean over steps of -log sigmoid(beta (2 preference - 1) (log r_0 - log r_1))

    The ratio is policy over reference, not over the behaviour policy, and there is no advantage. Steps whose ratio is
    clipped carry no gradient for that member.

    Args:
        log_prob: log-density of each member's step under the trained model, a mean over elements, [groups, 2] or
            [steps, groups, 2]; step j of both members is at the same time.
        reference_log_prob: the same under the frozen model.
        preference: probability that member 0 wins, in [0, 1]; a tie is 1/2 and gives log 2 without gradient.
        beta: strength of the pull to the reference (> 0).
        clip: the ratio stays in [1 - clip, 1 + clip] (in (0, 1)). Made for log-densities that are means over
            elements: sums would be clipped at once.

    Returns:
        loss [groups], not averaged; metrics `margin` (what is inside the sigmoid), `pair_accuracy` (share of steps
        whose margin is > 0) and `clip_fraction` (share of ratios that were clipped), detached scalars.

    Raises:
        ConfigError: clip is not in (0, 1).

    Source: Yang et al. 2024, "Using Human Feedback to Fine-tune Diffusion Models without Any Reward Model", eq 14 and
    the authors' train_d3po.py.
    """
    if not 0 < clip < 1:
        raise ConfigError(f"clip: must be between 0 and 1, got {clip:g}")
    raw = log_prob - reference_log_prob
    log_ratio = raw.clamp(math.log1p(-clip), math.log1p(clip))
    margin = beta * (2 * preference - 1) * (log_ratio[..., 0] - log_ratio[..., 1])
    loss = -F.logsigmoid(margin)
    seen = margin.detach()
    return ObjectiveOutput(
        loss=loss if loss.ndim == 1 else loss.mean(0),
        metrics={
            "margin": seen.mean(),
            "pair_accuracy": (seen > 0).to(seen.dtype).mean(),
            "clip_fraction": (raw != log_ratio).detach().to(seen.dtype).mean(),
        },
    )
