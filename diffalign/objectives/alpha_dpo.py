"""alpha-DPO for diffusion (Li et al. 2026): an alpha divergence between the implied preference and a certain one.

Not the alpha-DPO of language models (Wu et al. 2024), which changes the reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives._margin import margin_metrics, pair_margin
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32

_SMALLEST_ORDER = 1e-4  # the divergence is singular at orders 0 and 1


@at_least_float32
def alpha_dpo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    baseline: Float[Tensor, ""],
    beta: float,
    alpha: float,
    adaptive: bool,
) -> ObjectiveOutput:
    """Alpha divergence between p and certainty, of an order that rises as the batch is fitted.

        p = sigmoid(beta/2 ((reference_w - policy_w) - (reference_l - policy_l)))
        a = alpha baseline if adaptive, else alpha
        loss = (p^a - (1 - a) - a p) / (a (a - 1))

    As a tends to 1 it is p log p - p + 1, which pairs that are far on the wrong side (mislabelled ones) no longer pull
    at; as a tends to 0 it is -log p + p - 1, which is DPO's but for what it adds at p near 1.

    Args:
        policy: denoising error of the trained model.
        reference: denoising error of the frozen model on the same x_t.
        baseline: mean p of the whole batch, without gradient; see `alpha_dpo_baseline`.
        beta: strength of the pull to the reference (> 0).
        alpha: order of the divergence, or what the mean p is multiplied by (in (0, 1)).
        adaptive: whether the order follows the batch.

    Returns:
        loss [pairs], not averaged; metrics `margin` (log odds of p), `pair_accuracy` and `order` (a), detached scalars.

    Raises:
        ConfigError: alpha is not in (0, 1).

    Source: Li et al. 2026, "alpha-DPO: Robust Preference Alignment for Diffusion Models via alpha Divergence", in the
    form of the authors' main.py; adaptive is what their launcher runs.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha: must be between 0 and 1, got {alpha:g}")
    margin = pair_margin(policy, reference, beta)
    order = alpha * baseline.detach() if adaptive else torch.full_like(baseline, alpha)
    order = order.clamp(_SMALLEST_ORDER, 1 - _SMALLEST_ORDER)
    rest = 1 - order
    log_p = F.logsigmoid(margin)
    # p^a - p = -p^a (p^(1-a) - 1): no difference of nearly equal numbers as a tends to 1, nothing above 1
    bend = torch.exp(order * log_p) * torch.expm1(rest * log_p) / rest
    loss = ((-margin).sigmoid() + bend) / order
    return ObjectiveOutput(loss=loss, metrics={**margin_metrics(margin), "order": order})


@at_least_float32
def alpha_dpo_baseline(
    policy: Float[Tensor, "pairs 2"], *, reference: Float[Tensor, "pairs 2"], beta: float
) -> Float[Tensor, ""]:
    """Mean implied preference p of a batch, without gradient; give it the accumulated, all-process batch.

    A pair with a NaN is left out: it spoils its own loss alone.
    """
    p = pair_margin(policy, reference, beta).detach().sigmoid()
    return p.nan_to_num(0.0).sum() / (~p.isnan()).sum().clamp(min=1)
