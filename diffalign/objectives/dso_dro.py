"""DSO's direct reward optimisation (Li et al. 2025): pull good samples in, push bad ones out; no reference, no beta."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import ShapeError
from diffalign.objectives.output import ObjectiveOutput
from diffalign.objectives.precision import at_least_float32


@at_least_float32
def dso_dro(
    policy: Float[Tensor, "groups members"],
    *,
    label: Float[Tensor, "groups members"] | None = None,
    max_bad_error: float | None,
    max_bad_ratio: float | None,
    bad_weight: float,
) -> ObjectiveOutput:
    """Error of the good less error of the bad, on pairs or on labelled samples.

        pair    loss = policy_good - a policy_bad                           a = bad_weight, the paper's 1
        signed  loss = mean_i w_i label_i policy_i                          over the labelled members; w = a where bad

    Args:
        policy: denoising error of the trained model; without labels pairs, the good member first.
        label: +1 good, -1 bad, 0 neither: left out, whatever its error; None: pairs. A group of one good and one bad
            has half the loss of the pair form, one without labels has loss 0.
        max_bad_error: the loss is unbounded below, for the error of a bad sample may grow without end: beyond this
            error it is pushed no further. None: no bound, as the authors train (and stop at 4000 steps).
        max_bad_ratio: the same bound as a multiple of the mean error of the group's good members, so that it goes by
            no model's scale; in a group without any it does not hold. None: no such bound.
        bad_weight: of the bad half; the authors' is 1. It makes the push weaker, not bounded: at the x_t of a bad sample
            the loss is -a times an error. Only where both members had one x_t (the limit t -> 1) would 1 make it linear in
            the prediction, and a weight below 1 convex, with its least value at good + a / (1 - a) (good - bad).

    Returns:
        loss [groups]; metrics `good_error` and `bad_error` (means over the good and the bad members of the batch, 0
        where there is none: watch the first, it should not rise), and `clamped_share` (of the bad members).

    Raises:
        ShapeError: no labels, and not 2 members.

    Source: Li et al. 2025, "DSO: Aligning 3D Generators with Simulation Feedback for Physical Soundness"; pairs as
    in the authors' finetune.py, signed as its general form with O in {0, 1} written 2 O - 1.
    """
    if label is None:
        if policy.shape[1] != 2:
            raise ShapeError(
                f"policy errors have shape {tuple(policy.shape)}; without `label` dso_dro takes pairs [groups, 2], "
                "the good member first"
            )
        sign = policy.new_tensor([[1.0, -1.0]]).expand_as(policy)
    else:
        sign = label.detach()
    bad, good = sign < 0, sign > 0
    good_error = policy.detach().masked_fill(~good, 0.0).sum() / good.sum().clamp(min=1)
    bounded = policy
    if max_bad_error is not None:
        bounded = bounded.clamp(max=max_bad_error).where(bad, policy)
    if max_bad_ratio is not None:
        mean = policy.detach().masked_fill(~good, 0.0).sum(1) / good.sum(1).clamp(min=1)
        bound = torch.where(good.any(1), max_bad_ratio * mean, torch.inf)[:, None]
        bounded = torch.minimum(bounded, bound).where(bad, policy)
    labelled = sign != 0
    weighed = torch.where(bad, bad_weight * sign, sign)
    signed = (weighed * bounded).masked_fill(~labelled, 0.0).sum(1)
    seen = policy.detach()
    beyond = bad & (bounded.detach() < seen)
    return ObjectiveOutput(
        loss=signed if label is None else signed / labelled.sum(1).clamp(min=1),
        metrics={
            "good_error": good_error,
            "bad_error": seen.masked_fill(~bad, 0.0).sum() / bad.sum().clamp(min=1),
            "clamped_share": beyond.sum() / bad.sum().clamp(min=1),
        },
    )
