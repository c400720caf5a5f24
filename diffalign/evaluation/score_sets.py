"""Rewards of whole sets of a source: one number for all of its samples, and one for each group of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffalign.data.picture_rows import PictureRow, read_pictures
from diffalign.evaluation.score_samples import grouped, sample_of
from diffalign.exceptions import ConfigError, DataError, ShapeError
from diffalign.rewards import Sample, SetReward
from diffalign.rewards.media import MEDIA

_CHUNK = 64  # samples that are in memory at a time; of the others the features are


def score_sets(
    source: Path,
    rewards: Mapping[str, SetReward],
    *,
    by: str | None = None,
    prompt: str = "",
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """What rewards of sets say of all samples of a source together. Nothing is written, and nothing kept for a next call.

        score_sets(Path("drawn"), {"vendi": load_reward("vendi")}, by="prompt")

    Args:
        source: what `read_pictures` reads.
        rewards: by column.
        by: a column of the source, or `prompt`: those that have one value in it are a set of their own too.
        prompt: of the samples that have none.
        progress: called after every chunk with (samples seen, samples in all).

    Returns:
        Per column `reward`, `version`, `unit`, `value` (None where it has none), `scored` and `unscored` samples and
        `reasons`; with `by` also `groups`: per value of the column `value`, `scored` and, without a value, `reason`.

    Raises:
        ConfigError: a reward takes no files, or there is no such column.
        DataError: the source cannot be read. A sample that cannot be read is left out, with its reason.
    """
    for column, reward in rewards.items():
        if reward.spec.media not in MEDIA:
            raise ConfigError(f"rewards: {column} takes {reward.spec.media}, which no file has; choose another encoder")
    total = sum(1 for _ in read_pictures(source, prompt))
    groups: list[str] = []
    rows: dict[str, list[Tensor | None]] = {column: [] for column in rewards}
    reasons: dict[str, Counter[str]] = {column: Counter() for column in rewards}
    for chunk in _chunks(read_pictures(source, prompt)):
        groups += [_group(row, by) for row in chunk]
        for column, reward in rewards.items():
            for one in _features(chunk, reward):
                rows[column].append(None if isinstance(one, str) else one)
                reasons[column].update([one] if isinstance(one, str) else [])
        if progress is not None:
            progress(len(groups), total)
    return {
        column: _facts(reward, rows[column], reasons[column], groups if by is not None else None)
        for column, reward in rewards.items()
    }


def _chunks(rows: Iterable[PictureRow]) -> Iterator[list[PictureRow]]:
    coming = iter(rows)
    while chunk := list(islice(coming, _CHUNK)):
        yield chunk


def _group(row: PictureRow, by: str | None) -> str:
    if by is None:
        return ""
    if by != "prompt" and by not in row.columns:
        there = ", ".join(["prompt", *row.columns])
        raise ConfigError(f"--by: record {row.id!r} has no column {by!r}; it has {there}")
    return row.prompt if by == "prompt" else str(row.columns[by])


def _features(chunk: list[PictureRow], reward: SetReward) -> list[Tensor | str]:
    found: list[Tensor | str] = []
    samples: list[Sample] = []
    for row in chunk:
        try:
            samples.append(sample_of(row, reward.spec.media, reward.spec.name))
            found.append("")
        except DataError as error:
            found.append(str(error))
    rows, whys = reward.features(samples)
    told = iter([why or row for row, why in zip(rows, whys, strict=True)])
    return [one if isinstance(one, str) and one else next(told) for one in found]


def _facts(
    reward: SetReward, rows: list[Tensor | None], reasons: Counter[str], groups: list[str] | None
) -> dict[str, Any]:
    spec = reward.spec
    told: dict[str, Any] = {"reward": spec.name, "version": spec.version, "unit": spec.unit}
    told |= _value(reward, [row for row in rows if row is not None])
    told |= {"unscored": reasons.total(), "reasons": grouped(reasons)}
    if groups is not None:
        own: dict[str, list[Tensor]] = {group: [] for group in groups}
        for group, row in zip(groups, rows, strict=True):
            own[group] += [] if row is None else [row]
        told["groups"] = {group: _value(reward, each) for group, each in own.items()}
    return told


def _together(rows: list[Tensor]) -> Tensor:
    """Rows of samples of any length side by side, as an encoder of frames gives them: NaN behind the shorter ones."""
    return pad_sequence(rows, batch_first=True, padding_value=math.nan)


def _value(reward: SetReward, rows: list[Tensor]) -> dict[str, Any]:
    try:
        value = reward.value(reward.start(_together(rows))) if rows else math.nan
    except (DataError, ShapeError) as error:
        return {"value": None, "scored": len(rows), "reason": str(error)}
    if not math.isfinite(value):
        return {"value": None, "scored": len(rows), "reason": f"the reward is {value}" if rows else "no samples"}
    return {"value": value, "scored": len(rows)}
