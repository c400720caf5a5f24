"""Intervals for paired comparisons: resampling over prompts, because prompts are what the claim generalises over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


def paired_bootstrap(differences: NDArray[np.float64], *, confidence: float, resamples: int, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of per-prompt differences (aligned - base), resampling prompts.

    Args:
        differences: one per prompt, finite.
        confidence: for example 0.95.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: no differences.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    if len(differences) == 0:
        raise ValueError("no prompt was scored under both models: there is nothing to compare")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, 4_000_000 // len(differences))  # at most 32 MB at a time
    for start in range(0, resamples, chunk):
        rows = rng.integers(len(differences), size=(min(chunk, resamples - start), len(differences)))
        means[start : start + len(rows)] = differences[rows].mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def outcomes(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where aligned won, 0.5 for a tie, 0 where it lost; the mean is the win rate."""
    return 0.5 + 0.5 * np.sign(differences)
