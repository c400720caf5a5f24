"""Intervals for paired comparisons over prompts, because prompts are what the claim generalises over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from diffalign.annotation import wilson


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


@dataclass(frozen=True)
class PairedMeans:
    """Means of two models over prompts, and the interval of their difference (aligned - base)."""

    base: float
    aligned: float
    difference: float
    low: float
    high: float

    @property
    def change(self) -> dict[str, float]:
        """`difference`, `low` and `high`, as files have them."""
        return {"difference": self.difference, "low": self.low, "high": self.high}


def paired_means(
    base: NDArray[np.float64],
    aligned: NDArray[np.float64],
    prompts: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int = 0,
) -> PairedMeans:
    """Means over prompts of a figure of two models, with `paired_bootstrap`'s interval of their difference.

    Args:
        base, aligned: the figure of each picture, finite.
        prompts: of the pictures; those of one prompt go together.
        confidence, resamples, seed: of the bootstrap.

    Raises:
        ValueError: no pictures.
    """
    change = paired_bootstrap(
        prompt_means(aligned - base, prompts), confidence=confidence, resamples=resamples, seed=seed
    )
    means = [float(prompt_means(side, prompts).mean()) for side in (base, aligned)]
    return PairedMeans(means[0], means[1], change.value, change.low, change.high)


def jackknife(value: float, without: NDArray[np.float64], *, confidence: float) -> Interval:
    """A figure of a whole set, as its diversity, with the jackknife's interval over the set's samples or prompts.

    Resampling with replacement would not do: samples that stand twice make a set less diverse.

    Args:
        value: of the whole set, or the difference of two sets that answer the same prompts.
        without: the same figure without each one of them, two or more.
        confidence: for example 0.95.

    Raises:
        ValueError: fewer than two, or one that is not finite.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11.
    """
    count = len(without)
    if count < 2:
        raise ValueError(f"the jackknife needs 2 samples or more, got {count}")
    if not (math.isfinite(value) and np.isfinite(without).all()):
        raise ValueError("the jackknife needs finite figures; leave out what could not be scored")
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((count - 1) * float(without.var()))
    return Interval(value, value - half, value + half)


def win_rate(shares: NDArray[np.float64], *, confidence: float) -> Interval:
    """The mean of what each prompt's comparisons came to, in [0, 1], with Wilson's interval over prompts.

    It holds for few prompts and near 0 and 1, where resampling would call 3 wins of 3 certain; where ties or several
    comparisons of a prompt make the shares less extreme than 0 and 1 it is wider than need be.

    Raises:
        ValueError: no prompts.
    """
    count = len(shares)
    if count == 0:
        raise ValueError("no prompt was judged: there is nothing to compare")
    rate = float(shares.mean())
    return Interval(rate, *wilson(rate, count, confidence=confidence))


def prompt_means(values: NDArray[np.float64], prompts: Sequence[str]) -> NDArray[np.float64]:
    """The mean over the pictures of each different prompt, in the order in which the prompts come first.

    Pictures of one prompt go together, so that they are no evidence of their own for what other prompts would give.
    """
    rows = list(dict.fromkeys(prompts))
    places = {prompt: place for place, prompt in enumerate(rows)}
    which = np.array([places[prompt] for prompt in prompts], dtype=int)
    return np.bincount(which, values, len(rows)) / np.bincount(which, minlength=len(rows))


def outcomes(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where aligned won, 0.5 for a tie, 0 where it lost; the mean is the win rate."""
    return 0.5 + 0.5 * np.sign(differences)
