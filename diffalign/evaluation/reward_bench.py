"""How well rewards agree with comparisons: every picture scored once, then pair by pair against what the judges said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffalign.annotation import wilson
from diffalign.data.comparisons import OVERALL, ComparedRecord
from diffalign.data.records import decoded, picture_bytes
from diffalign.evaluation.statistics import Interval
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import Reward, Sample
from diffalign.rewards.pair_metrics import (
    Calibration,
    accuracy_with_ties,
    accuracy_without_ties,
    calibrate,
    verdicts,
)


@dataclass(frozen=True)
class Benched:
    """What came of one reward, in one dimension.

    Attributes:
        name: of the reward.
        dimension: what the judges were asked.
        comparisons: that count: both pictures were scored.
        ties: of them, how many the judges tied.
        equal: of them, how many the reward gives the same number twice.
        prompts: different ones among them.
        accuracy: without the judges' ties, with Wilson's interval over prompts; None where all are tied.
        accuracy_with_ties: of three outcomes, with the best threshold for the reward's ties.
        tie_threshold: that threshold; -1: no difference is small enough to be a tie.
        calibration: whether the reward's differences are probabilities.
        unscored: comparisons that do not count, by reason.
        confidence: of the interval.
    """

    name: str
    dimension: str
    comparisons: int
    ties: int
    equal: int
    prompts: int
    accuracy: Interval | None
    accuracy_with_ties: float
    tie_threshold: float
    calibration: Calibration
    unscored: dict[str, int]
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def bench_reward(
    name: str,
    reward: Reward,
    records: Sequence[ComparedRecord],
    *,
    dimension: str = OVERALL,
    temperature: float | None = None,
    confidence: float = 0.95,
    batch: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Benched:
    """Score all pictures and compare.

    Args:
        name: of the reward, for people.
        reward: of single samples. A component of it that is named like the dimension is taken in the place of its value.
        records: as `read_comparisons` gives them.
        dimension: what was asked.
        temperature: what differences are divided by to be log-odds; None: fitted to these comparisons.
        confidence: of the interval.
        batch: pictures at a time.
        progress: told how many pictures are scored, of how many.

    Raises:
        ConfigError: no record speaks of the dimension.
        DataError: no comparison has two scored pictures, or a picture cannot be read.
    """
    told = [each for each in records if any(dimension in one.said for one in each.comparisons)]
    if not told:
        there = sorted({name for each in records for one in each.comparisons for name in one.said})
        raise ConfigError(f"--dimension: no comparison speaks of {dimension!r}; there are {', '.join(there)}")
    values, reasons = _scored(reward, told, dimension, batch, progress)
    difference, first, second, prompts = [], [], [], []
    unscored: Counter[str] = Counter()
    start = 0
    for record in told:
        for each in record.comparisons:
            if dimension not in each.said:
                continue
            rows = (start + each.first, start + each.second)
            gap = values[rows[0]] - values[rows[1]]
            if not np.isfinite(gap):
                unscored[next((reasons[row] for row in rows if row in reasons), "the score is not finite")] += 1
                continue
            difference.append(gap)
            first.append(each.said[dimension][0])
            second.append(each.said[dimension][1])
            prompts.append(record.prompt)
        start += len(record.pictures)
    if not difference:
        raise DataError(f"{name}: no comparison has two scored pictures; the first reason: {next(iter(unscored))}")
    gaps, shares = np.array(difference), (np.array(first), np.array(second))
    verdict = verdicts(*shares)
    plain, count = accuracy_without_ties(gaps, verdict)
    tied, threshold = accuracy_with_ties(gaps, verdict)
    decided = {prompt for prompt, each in zip(prompts, verdict.tolist(), strict=True) if each}
    return Benched(
        name=name,
        dimension=dimension,
        comparisons=len(gaps),
        ties=len(gaps) - count,
        equal=int((gaps == 0).sum()),
        prompts=len(set(prompts)),
        accuracy=Interval(plain, *wilson(plain, len(decided), confidence=confidence)) if count else None,
        accuracy_with_ties=tied,
        tie_threshold=threshold,
        calibration=calibrate(gaps, *shares, temperature=temperature),
        unscored=dict(unscored.most_common()),
        confidence=confidence,
    )


def _scored(
    reward: Reward, records: Sequence[ComparedRecord], dimension: str, batch: int, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, dict[int, str]]:
    """The values of all pictures in order, NaN where unscored, and why, by place."""
    total = sum(len(each.pictures) for each in records)
    values: list[float] = []
    reasons: dict[int, str] = {}
    for samples in _batches(records, batch):
        output = reward.score(samples)
        for place, reason in enumerate(output.reasons):
            if reason is not None:
                reasons[len(values) + place] = reason
        values += output.components.get(dimension, output.values).double().tolist()
        progress(len(values), total)
    return np.array(values), reasons


def _batches(records: Sequence[ComparedRecord], batch: int) -> Iterator[list[Sample]]:
    waiting: list[Sample] = []
    for record in records:
        for number, picture in enumerate(record.pictures):
            media = picture
            if not isinstance(picture, np.ndarray):
                media = decoded(picture_bytes(picture, record.id), record.id)
            waiting.append(Sample(media, record.prompt, id=f"{record.id}/{number}"))
            if len(waiting) == batch:
                yield waiting
                waiting = []
    if waiting:
        yield waiting
