"""How well rewards agree with comparisons: every picture scored once, then pair by pair against what the judges said.

Sounds and videos stand in the place of pictures where a reward judges them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffalign.annotation import wilson
from diffalign.data.comparisons import OVERALL, ComparedRecord
from diffalign.data.picture_rows import PictureRow
from diffalign.evaluation.score_samples import grouped, sample_of
from diffalign.evaluation.statistics import Interval
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import Reward, Sample
from diffalign.rewards.media import MEDIA
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

    A sample is made as `diffalign score` makes it: read as the reward's medium, with the record's other columns as metadata
    and the reference that it compares with. What cannot be read is unscored.

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
        DataError: no comparison has two scored pictures.
        MissingExtraError: the library that reads the sounds or videos is not installed.
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
        several = MEDIA[reward.spec.media].several
        raise DataError(f"{name}: no comparison has two scored {several}; the first reason: {next(iter(unscored))}")
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
        unscored=grouped(unscored),
        confidence=confidence,
    )


def _scored(
    reward: Reward, records: Sequence[ComparedRecord], dimension: str, batch: int, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, dict[int, str]]:
    """The values of all pictures in order, NaN where unscored, and why, by place."""
    places = [(record, number) for record in records for number in range(len(record.pictures))]
    values = np.full(len(places), np.nan)
    reasons: dict[int, str] = {}
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        readable: dict[int, Sample] = {}
        for place, (record, number) in enumerate(part, start):
            try:
                readable[place] = _sample(record, number, reward)
            except DataError as error:
                reasons[place] = str(error)
        if readable:
            output = reward.score(list(readable.values()))
            values[list(readable)] = output.components.get(dimension, output.values).double().tolist()
            reasons |= {
                place: reason for place, reason in zip(readable, output.reasons, strict=True) if reason is not None
            }
        progress(start + len(part), len(places))
    return values, reasons


def _sample(record: ComparedRecord, number: int, reward: Reward) -> Sample:
    name, picture, spec = f"{record.id}/{number}", record.pictures[number], reward.spec
    if isinstance(picture, np.ndarray):
        return Sample(picture, record.prompt, record.columns, name)
    row = PictureRow(name, record.prompt, picture, record.columns, record.home)
    return sample_of(row, spec.media, spec.name, compares="reference" in spec.needs)
