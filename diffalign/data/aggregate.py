"""Several rewards of one picture as one number, each on its own scale."""

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
