"""How well a reward agrees with comparisons: accuracy with and without ties, and whether its differences are probabilities.

`difference` is the reward of the first picture less that of the second, finite; `first` and `second` are the shares of
judges who prefer the one and the other, the rest said tie. The verdict is what most of them say; it is a tie where as many
prefer one as the other, or more say tie than prefer either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_BINS = 10
_STEPS = 80  # of the golden section: the temperature to 1e-9 of its range


@dataclass(frozen=True)
class Bin:
    """Comparisons that a reward is about equally sure of.

    Attributes:
        predicted: mean probability that the reward gives to the picture which it prefers, in [0.5, 1].
        observed: mean share of the judges who prefer that picture; a tie of theirs, or of the reward's, counts half.
        count: comparisons.
    """

    predicted: float
    observed: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """Whether sigmoid(difference / temperature) is the share of judges who agree.

    Attributes:
        temperature: what differences were divided by.
        fitted: whether it was fitted to these very comparisons.
        error: expected calibration error: mean of |predicted - observed| over the bins, weighted by their counts.
        loss: mean cross-entropy of the shares, in nats; ln 2 is knowing nothing.
        bins: those that hold a comparison.
    """

    temperature: float
    fitted: bool
    error: float
    loss: float
    bins: tuple[Bin, ...]


def verdicts(first: Float[np.ndarray, " pairs"], second: Float[np.ndarray, " pairs"]) -> Int[np.ndarray, " pairs"]:
    """1 where the first picture is preferred, -1 where the second is, 0 for a tie."""
    tie = (first == second) | (1.0 - first - second > np.maximum(first, second) + 1e-12)
    return np.where(tie, 0, np.sign(first - second)).astype(int)


def accuracy_without_ties(
    difference: Float[np.ndarray, " pairs"], verdict: Int[np.ndarray, " pairs"]
) -> tuple[float, int]:
    """Of the comparisons that the judges did not tie, the share in which the reward prefers the same picture; and how many.

    Equal rewards are wrong: they prefer nothing. NaN and 0 where all are tied.
    Source: KwaiVGI/VideoAlign, calc_accuracy.py.
    """
    told = verdict != 0
    if not told.any():
        return float("nan"), 0
    return float((difference * verdict > 0)[told].mean()), int(told.sum())


def accuracy_with_ties(
    difference: Float[np.ndarray, " pairs"], verdict: Int[np.ndarray, " pairs"]
) -> tuple[float, float]:
    """Share of all comparisons with the right one of three outcomes, and the threshold with which that is had.

    The reward ties where |difference| <= threshold; the threshold is the one that makes most of these comparisons right, as
    GenAI-Bench and VideoReward are measured, so it is a little generous on small sets. Where no tie helps it is -1: even
    equal rewards are then no tie, and wrong.

    Source: Deutsch et al. 2023, "Ties Matter: Meta-Evaluating Modern Metrics with Pairwise Accuracy and Tie Calibration";
    KwaiVGI/VideoAlign, calc_accuracy.py, which always ties a pair: where that helps nothing it is one pair lower.
    """
    order = np.argsort(np.abs(difference), kind="stable")
    gap = np.abs(difference)[order]
    tied = (verdict == 0)[order].astype(float)
    agreed = (difference * verdict > 0)[order].astype(float)
    # the k smallest are ties: right where the judges tie; the others are right where they agree
    right = np.concatenate([[0.0], np.cumsum(tied)]) + np.concatenate([np.cumsum(agreed[::-1])[::-1], [0.0]])
    whole = np.concatenate([[True], np.append(gap[1:] > gap[:-1], True)])  # a threshold does not cut between equal gaps
    best = int(np.argmax(np.where(whole, right, -1.0)))
    return float(right[best] / len(gap)), float(gap[best - 1]) if best else -1.0


def calibrate(
    difference: Float[np.ndarray, " pairs"],
    first: Float[np.ndarray, " pairs"],
    second: Float[np.ndarray, " pairs"],
    *,
    temperature: float | None = None,
) -> Calibration:
    """Compare sigmoid(difference / temperature) with the shares of the judges.

    A comparison counts from the side of the picture that the reward prefers; where it prefers none, half of the judges
    agree, whatever they said. So it does not matter which stands first.

    Args:
        difference, first, second: see the module.
        temperature: > 0; None: the one with the least cross-entropy on these comparisons.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature scaling, expected calibration error).
    """
    share = first + 0.5 * (1.0 - first - second)
    fitted = temperature is None
    scale = _fitted(difference, share) if temperature is None else temperature
    logit = difference / scale
    sure = 1.0 / (1.0 + np.exp(-np.minimum(np.abs(logit), 500.0)))
    agreed = np.where(difference == 0, 0.5, np.where(difference > 0, share, 1.0 - share))
    place = np.minimum(((sure - 0.5) * 2 * _BINS).astype(int), _BINS - 1)
    bins = tuple(
        Bin(float(sure[there].mean()), float(agreed[there].mean()), int(there.sum()))
        for number in range(_BINS)
        if (there := place == number).any()
    )
    error = sum(each.count * abs(each.predicted - each.observed) for each in bins) / len(difference)
    return Calibration(float(scale), fitted, float(error), _cross_entropy(logit, share), bins)


def _cross_entropy(logit: Float[np.ndarray, " pairs"], share: Float[np.ndarray, " pairs"]) -> float:
    return float((np.logaddexp(0.0, -logit) * share + np.logaddexp(0.0, logit) * (1.0 - share)).mean())


def _fitted(difference: Float[np.ndarray, " pairs"], share: Float[np.ndarray, " pairs"]) -> float:
    """By golden section over ln(temperature): the cross-entropy is convex in 1 / temperature, so it has one dip."""
    spread = float(np.abs(difference).mean()) or 1.0
    low, high = np.log(spread * 1e-3), np.log(spread * 1e3)
    ratio = (5**0.5 - 1) / 2
    for _ in range(_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _cross_entropy(difference / np.exp(left), share) <= _cross_entropy(difference / np.exp(right), share):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
