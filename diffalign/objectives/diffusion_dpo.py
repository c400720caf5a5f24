"""Diffusion-DPO (Wallace et al. 2023) and Flow-DPO (Liu et al. 2025): preference pairs scored by denoising error.

Member 0 of each pair is the preferred one. Errors are means over elements, so beta is per element too: the same pull
with summed errors has beta / elements (0.1526 instead of 5000 * 0.5 for a 4x64x64 latent).
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives._margin import margin_loss, margin_metrics, pair_margin
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def diffusion_dpo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    beta: float | Float[Tensor, " pairs"],
    loss: Literal["sigmoid", "hinge", "robust"] = "sigmoid",
    label_smoothing: float = 0.0,
) -> ObjectiveOutput:
    """Logistic loss on the difference in denoising gain between the two members of each pair.

        z = beta/2 ((reference_w - policy_w) - (reference_l - policy_l)),  s = label_smoothing
        sigmoid: loss = -log sigmoid(z); with s, -(1 - s) log sigmoid(z) - s log sigmoid(-z)
        hinge:   loss = max(0, 1 - z)
        robust:  loss = (-(1 - s) log sigmoid(z) + s log sigmoid(-z)) / (1 - 2 s)

    Args:
        policy: denoising error of the trained model; carries the gradient.
        reference: denoising error of the frozen model on the same x_t; carries none.
        beta: strength of the pull to the reference (> 0).
        loss: "sigmoid" is the paper's; "hinge" lets go of a pair at z = 1; "robust" is, in the mean over wrong labels,
            the loss of the right ones, and never lets go: it has no lower bound.
        label_smoothing: probability that a label is wrong (in [0, 0.5)), which robust needs; sigmoid with it is cDPO,
            least at z = log((1 - s) / s).

    Returns:
        loss [pairs], not averaged; metrics `margin` (z) and `pair_accuracy` (share of pairs whose margin is > 0; a tie
        counts 0, as in the authors' code), detached scalars.

    Raises:
        ConfigError: no such loss, or one that the label smoothing does not fit.

    Source: Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference Optimization", the loss for the
    noise-prediction bound; the authors' train.py folds T and the weighting into beta, and so do we. cDPO: Mitchell 2023,
    "A note on DPO with noisy preferences & relationship to IPO". robust: Chowdhury et al. 2024, "Provably Robust DPO:
    Aligning Language Models with Noisy Feedback". hinge: Zhao et al. 2023, "SLiC-HF: Sequence Likelihood Calibration
    with Human Feedback", on DPO's margin as in diffusers' script. The names are trl's.
    """
    margin = pair_margin(policy, reference, beta)
    return ObjectiveOutput(loss=margin_loss(margin, loss, label_smoothing), metrics=margin_metrics(margin))


@at_least_float32
def flow_dpo(
    policy: Float[Tensor, "pairs 2"],
    *,
    reference: Float[Tensor, "pairs 2"],
    t: Float[Tensor, "pairs 2"],
    beta: float,
    schedule: Literal["constant", "one_minus_t_sq"],
    loss: Literal["sigmoid", "hinge", "robust"] = "sigmoid",
    label_smoothing: float = 0.0,
) -> ObjectiveOutput:
    """`diffusion_dpo` on velocity errors, with beta constant or beta (1 - t)^2.

    Args:
        policy: velocity error of the trained model.
        reference: velocity error of the frozen model on the same x_t.
        t: process time of both members; the schedule uses member 0's (pairs share their time).
        beta: strength of the pull to the reference (> 0).
        schedule: "constant" is the paper's recommended form; "one_minus_t_sq" is what the derivation from
            Diffusion-DPO gives, and is the same as measuring the errors in noise space.
        loss: as in `diffusion_dpo`.
        label_smoothing: likewise.

    Raises:
        ConfigError: no such schedule or loss, or a loss that the label smoothing does not fit.

    Source: Liu et al. 2025, "Improving Video Generation with Human Feedback", eq 6. The paper's pseudo-code sums over
    elements; the authors' released code (flow_grpo) takes the mean, and so do we.
    """
    if schedule not in ("constant", "one_minus_t_sq"):  # or a typo would train on the other form
        raise ConfigError(f"schedule: must be constant or one_minus_t_sq, got {schedule!r}")
    beta_t = beta if schedule == "constant" else beta * (1 - t[:, 0]) ** 2
    return diffusion_dpo(policy, reference=reference, beta=beta_t, loss=loss, label_smoothing=label_smoothing)
