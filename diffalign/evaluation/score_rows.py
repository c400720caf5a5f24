"""What the rows of scored pictures hold, and what they say together."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.data.judged import versions_in
from diffalign.data.media_files import MEDIA_FILES
from diffalign.data.picture_rows import PictureRow
from diffalign.data.row_files import path_from
from diffalign.evaluation.known_scores import METADATA_DIGEST, REFERENCE_DIGEST, Score
from diffalign.evaluation.score_samples import grouped
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import Reward
from diffalign.rewards.media import MEDIA
from diffalign.rewards.protocol import PER_SAMPLE

_OURS = ("id", "file_name", "prompt", "picture", "versions", REFERENCE_DIGEST, METADATA_DIGEST)
_ALIKE = re.compile(r" \(and \d+ alike\)$")  # what `grouped` adds


def by_column(rewards: Mapping[str, Reward] | Sequence[Reward]) -> dict[str, Reward]:
    """Rewards by the columns that they get: their names, where none are given.

    Raises:
        ConfigError: none, two of one name, a name that rows have for something else, or one that judges no single samples.
    """
    columns = dict(rewards) if isinstance(rewards, Mapping) else {reward.spec.name: reward for reward in rewards}
    if not columns:
        raise ConfigError("rewards: none were given")
    if len(columns) < len(rewards):
        raise ConfigError("rewards: two have one name; give a mapping from columns to rewards")
    for column, reward in columns.items():
        if column in _OURS:
            raise ConfigError(f"rewards: a column {column!r} is something else; choose another name")
        if reward.spec.media not in MEDIA or reward.spec.level not in PER_SAMPLE or reward.spec.grouped:
            level = "groups that have to come whole" if reward.spec.grouped else reward.spec.level
            raise ConfigError(
                f"rewards: {column} judges {reward.spec.media} ({level}), not single pictures, sounds, videos or meshes"
            )
    return columns


def short(value: float) -> float | None:
    """A float32 as the shortest number that stands for it; None where it is not finite."""
    return float(str(np.float32(value))) if np.isfinite(value) else None


def score_columns(column: str, score: Score, *, components: bool) -> dict[str, Any]:
    """What a row says of one reward."""
    told: dict[str, Any] = {column: score.value}
    if score.reason is not None:
        told[f"{column}_reason"] = score.reason
    if components:
        told |= {f"{column}.{part}": value for part, value in (score.components or {}).items()}
    return told


def scored_row(
    row: PictureRow,
    file: Path,
    digest: str | None,
    told: Mapping[str, Any],
    versions: Mapping[str, str],
    reference: str | None = None,
    metadata: str | None = None,
) -> dict[str, Any]:
    """Id, file and prompt, the source's own columns, the scores; of an earlier call's scores, those that still hold.

    Args:
        row: the picture.
        file: that the row is for: paths of the picture and of its reference are relative to it.
        digest: of the picture; None where it could not be read.
        told: the scores.
        versions: column -> the reward's version.
        reference: the digest of the row's reference, if a reward has looked at it.
        metadata: `metadata_digest` of the row, if a reward has looked at them.
    """
    earlier, compared, read = (
        versions_in(row.columns),
        row.columns.get(REFERENCE_DIGEST),
        row.columns.get(METADATA_DIGEST),
    )
    same = row.columns.get("picture") == digest and (None in (compared, reference) or compared == reference)
    same = same and (read is None or read == metadata_digest(row))
    gone = [column for column in earlier if column in versions or not same]
    others = {key: value for key, value in row.columns.items() if key not in _OURS and not _of_scores(key, gone)}
    if same:
        versions = {**earlier, **versions}
        reference, metadata = reference or compared, metadata or read
    return {
        "id": row.id,
        "file_name": None if row.file is None else path_from(file, row.file),
        "prompt": row.prompt,
        **others,
        **_reference_from(file, row),
        **told,
        "picture": digest,
        **({} if reference is None else {REFERENCE_DIGEST: reference}),
        **({} if metadata is None else {METADATA_DIGEST: metadata}),
        "versions": dict(versions),
    }


def metadata_digest(row: PictureRow) -> str:
    """Of all that the source says of a row besides, but for what `score` itself wrote: changes with it."""
    scored = versions_in(row.columns)
    told = {
        key: value
        for key, value in row.columns.items()
        if key not in (*_OURS, "reference") and not _of_scores(key, scored) and value is not None
    }
    text = json.dumps(told, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _of_scores(key: str, columns: Iterable[str]) -> bool:
    """Whether a column says something of one of these rewards."""
    return any(key in (column, f"{column}_reason") or key.startswith(f"{column}.") for column in columns)


def _reference_from(file: Path, row: PictureRow) -> dict[str, str]:
    """The column `reference` of a row that names a picture file, relative to the file that the row is for."""
    try:
        reference = row.reference
    except DataError:
        return {}
    if not isinstance(reference, Path) or reference.suffix.lower() not in MEDIA_FILES or not reference.is_file():
        return {}  # a column of somebody else's with this name
    return {"reference": path_from(file, reference)}


class ScoreSummary:
    """What one reward says of all pictures."""

    def __init__(self, reward: Reward) -> None:
        self._spec = reward.spec
        self._values: list[float] = []
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, str] = {}  # reason -> id of the first row that has it

    def add(self, score: Score, row_id: str) -> None:
        if score.value is None:
            reason = score.reason or "no reason given"
            self._reasons[reason] += 1
            self._first.setdefault(reason, row_id)
        else:
            self._values.append(score.value)

    def facts(self) -> dict[str, Any]:
        """As `Scored.summary` has it."""
        values, reasons = np.array(self._values), grouped(self._reasons)
        told: dict[str, Any] = {
            "reward": self._spec.name,
            "version": self._spec.version,
            "unit": self._spec.unit,
            "scored": len(values),
            "unscored": self._reasons.total(),
            "reasons": reasons,
            "first_unscored": {each: self._first[_ALIKE.sub("", each)] for each in reasons},
        }
        if len(values):
            told |= {
                "mean": float(values.mean()),
                "std": float(values.std()),
                "least": float(values.min()),
                "greatest": float(values.max()),
            }
        return told
