"""Losses that teach a reward: from comparisons (Bradley-Terry, with and without ties), and from numbers (regression).

All are per sample and pure; whoever trains averages. `difference` is the reward of the first picture less that of the
second, `first` and `second` are the shares of judges who prefer the one and the other; what is left of 1 said tie.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def bradley_terry(
    difference: Float[Tensor, " comparisons"],
    *,
    first: Float[Tensor, " comparisons"],
    second: Float[Tensor, " comparisons"],
) -> Float[Tensor, " comparisons"]:
    """Cross-entropy of sigmoid(difference) against the share of judges who prefer the first; a tie counts half for each.

    Args:
        difference: reward of the first picture less that of the second.
        first, second: shares of judges who prefer the one and the other, in [0, 1], together at most 1.

    Returns:
        One loss a comparison; ln 2 where the rewards are equal, whatever the judges say.

    Source: Bradley & Terry 1952, "Rank Analysis of Incomplete Block Designs"; with soft labels as in PickScore (Kirstain et
    al. 2023, "Pick-a-Pic"), where a tie is 0.5 and 0.5.
    """
    share = 0.5 * (1.0 + first - second)
    return -(share * F.logsigmoid(difference) + (1.0 - share) * F.logsigmoid(-difference))


def bradley_terry_ties(
    difference: Float[Tensor, " comparisons"],
    *,
    first: Float[Tensor, " comparisons"],
    second: Float[Tensor, " comparisons"],
    theta: float,
) -> Float[Tensor, " comparisons"]:
    """Cross-entropy of Rao and Kupper's three outcomes: the first, the second, or a tie.

    P(first) = sigmoid(d - ln theta), P(second) = sigmoid(-d - ln theta), P(tie) = (theta^2 - 1) P(first) P(second); they
    sum to 1.

    Args:
        difference: d, reward of the first picture less that of the second.
        first, second: shares of judges who prefer the one and the other; the rest of 1 said tie.
        theta: > 1; the larger, the wider apart two rewards must be before a tie is unlikely. A tie is as likely as either
            winner at equal rewards for theta = 2; VideoReward has 5.

    Raises:
        ValueError: theta is not above 1.

    Source: Rao & Kupper 1967, "Ties in Paired-Comparison Experiments"; Liu et al. 2025, "Improving Video Generation with
    Human Feedback" (VideoReward), as in KwaiVGI/VideoAlign trainer.py, loss_type "btt". The paper's own equation has theta
    on the other term of the denominator of P(first); its code, which we follow, does not.
    """
    if not theta > 1.0:
        raise ValueError(f"theta: must be > 1, got {theta}; without ties take bradley_terry")
    gap = math.log(theta)
    won, lost = F.logsigmoid(difference - gap), F.logsigmoid(-difference - gap)
    drawn = won + lost + math.log(theta**2 - 1.0)
    return -(first * won + second * lost + (1.0 - first - second) * drawn)


def regression(
    value: Float[Tensor, " samples"], *, target: Float[Tensor, " samples"], huber_delta: float | None
) -> Float[Tensor, " samples"]:
    """Squared error of a reward against a number; beyond `huber_delta` it grows linearly, so that outliers pull less.

    Args:
        value: the reward.
        target: what it ought to be.
        huber_delta: > 0; None: squared error everywhere.

    Returns:
        One loss a sample: (value - target)^2; with Huber 2 delta (|error| - delta / 2) beyond delta, which meets it.

    Source: Huber 1964, "Robust Estimation of a Location Parameter", times 2 so that both forms agree near 0.
    """
    if huber_delta is None:
        return (value - target).square()
    return 2.0 * F.huber_loss(value, target, reduction="none", delta=huber_delta)
