"""Diffusion-SDPO (Fu et al. 2025): a preference loss whose loser branch may not raise the winner's error."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.objectives._margin import mean_square
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.dmpo import dmpo
from diffalign.objectives.dspo import dspo
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def sdpo(
    policy_residual: Float[Tensor, "pairs 2 *sample"],
    *,
    reference_residual: Float[Tensor, "pairs 2 *sample"],
    beta: float,
    mu: float,
    scope: Literal["pair", "batch"],
    inner: Literal["diffusion_dpo", "dmpo", "dspo"],
    alpha: float,
    form: Literal["sd15", "sdxl"],
) -> ObjectiveOutput:
    """Another objective's loss, with the gradient through the loser's error multiplied by `loser_scale`.

    The value of the loss is the inner objective's.

    Args:
        policy_residual: prediction - target of the trained model, winner first.
        reference_residual: the same of the frozen model on the same x_t.
        beta: of the inner objective (> 0).
        mu: share of the winner's own descent that the loser's branch must leave over (in [0, 1]).
        scope: "pair" gives each pair its own scale; "batch" one for all pairs of the call, as the authors' code does,
            which ties every pair's gradient to what else is in the batch.
        inner: which loss.
        alpha: of `dmpo`; the others leave it unused.
        form: of `dspo`; the others leave it unused.

    Returns:
        loss [pairs], not averaged; the inner metrics and `loser_scale` (its mean), detached scalars.

    Raises:
        ConfigError: no such inner loss or scope.

    Source: Fu et al. 2025, "Diffusion-SDPO: Safeguarded Direct Preference Optimization for Diffusion Models", and the
    authors' train.py.
    """
    scale = loser_scale(policy_residual, mu=mu, scope=scope)
    winner, loser = policy_residual[:, :1], policy_residual[:, 1:]
    # the value of the residual, and `scale` times its gradient
    held = loser.detach() + scale.reshape(-1, *(1,) * (loser.ndim - 1)) * (loser - loser.detach())
    guarded = torch.cat([winner, held], dim=1)
    if inner == "dspo":
        output = dspo(guarded, reference_residual=reference_residual, beta=beta, form=form)
    elif inner == "dmpo":
        output = dmpo(mean_square(guarded), reference=mean_square(reference_residual), beta=beta, alpha=alpha)
    elif inner == "diffusion_dpo":
        output = diffusion_dpo(mean_square(guarded), reference=mean_square(reference_residual), beta=beta)
    else:
        raise ConfigError(f"inner: must be diffusion_dpo, dmpo or dspo, got {inner!r}")
    return ObjectiveOutput(loss=output.loss, metrics={**output.metrics, "loser_scale": scale.mean()})


@at_least_float32
def loser_scale(
    policy_residual: Float[Tensor, "pairs 2 *sample"], *, mu: float, scope: Literal["pair", "batch"]
) -> Float[Tensor, " pairs"]:
    """How much of the loser's gradient may stay, so that the winner's error falls to first order in the output.

        scale = min(1, (1 - mu) |winner|^2 / <winner, loser>) where <winner, loser> > 0, else 1       of residuals

    Raises:
        ConfigError: no such scope.
    """
    if scope not in ("pair", "batch"):
        raise ConfigError(f"scope: must be pair or batch, got {scope!r}")
    seen = policy_residual.detach().flatten(2)
    square, product = seen[:, 0].square().sum(1), (seen[:, 0] * seen[:, 1]).sum(1)
    if scope == "batch":
        square, product = square.sum().expand_as(square), product.sum().expand_as(product)
    opposed = product > 0  # both gradients point the same way, so pushing the loser up pushes the winner up
    allowed = (1 - mu) * square / torch.where(opposed, product, torch.ones_like(product))
    return torch.where(opposed, allowed, torch.ones_like(allowed)).clamp(max=1)
