"""Several rewards of one picture as one number, or as an order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Scores = Sequence[Sequence[float]]  # [pictures][rewards], NaN where unscored


def weighted_sum(scores: Scores, weights: Sequence[float]) -> list[float]:
    """One number a picture; NaN where one of its rewards is.

    One reward is taken as it is, times its weight. Of several each is first brought to mean 0 and standard deviation 1
    (population) over all pictures given, so that no weight hides in a reward's unit; one that is the same everywhere is 0.
    """
    values = np.array(scores, dtype=np.float64).reshape(len(scores), len(weights))
    if len(weights) > 1:
        whole = values[~np.isnan(values).any(1)]
        if len(whole):
            spread = whole.std(0)
            values = (values - whole.mean(0)) / np.where(spread > 0, spread, np.inf)
    return [math.fsum(row) for row in (values * np.array(weights)).tolist()]


def rivals_beaten(scores: Scores) -> list[float]:
    """RankDPO's phi: the share of (reward, rival) that each picture of one prompt beats, in [0, 1]; NaN where unscored.

    Only a strictly higher reward beats: ties score nobody. A picture that one of the rewards does not score takes no part.

    Source: Karthik et al. 2024, "Scalable Ranked Preference Optimization for Text-to-Image Generation", Algorithm 1.
    """
    whole = [not any(map(math.isnan, row)) for row in scores]
    rivals = [row for row, there in zip(scores, whole, strict=True) if there]
    if len(rivals) < 2:
        return [math.nan] * len(scores)
    most = len(rivals[0]) * (len(rivals) - 1)
    beaten = (
        sum(mine > theirs for rival in rivals for mine, theirs in zip(row, rival, strict=True)) if there else math.nan
        for row, there in zip(scores, whole, strict=True)
    )
    return [count / most for count in beaten]


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether no reward prefers the second, and one at least prefers the first.

    Source: Yang et al. 2023, "Using Human Feedback to Fine-tune Diffusion Models without Any Reward Model" (D3PO); the
    authors' `compare`.
    """
    pairs = list(zip(first, second, strict=True))
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)
