"""Pictures with what rewards or people say of them, read from what `diffalign score` and `diffalign annotate` wrote."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.data.picture_rows import PictureRow, read_pictures
from diffalign.exceptions import ConfigError, DataError

_VOTES = ("a", "b", "tie", "bad", "skip")


@dataclass(frozen=True)
class Judged:
    """One picture.

    Attributes:
        scores: by reward, NaN where unscored.
        source: the model that drew it, where that is known.
    """

    id: str
    prompt: str
    file: Path
    scores: tuple[float, ...] = ()
    source: str | None = None


@dataclass
class Comparison:
    """What people said of two pictures of one prompt.

    Attributes:
        a, b, tie, bad: how many said so; bad is that neither is any good.
    """

    first: Judged
    second: Judged
    a: int = 0
    b: int = 0
    tie: int = 0
    bad: int = 0


def reward_columns(source: Path) -> list[str]:
    """The columns of rewards: those that `diffalign score` wrote, or else all that hold numbers."""
    return _numeric(next(read_pictures(source)))


def _numeric(row: PictureRow) -> list[str]:
    scored = [name for name, version in (row.columns.get("versions") or {}).items() if version is not None]
    return scored or [name for name, value in row.columns.items() if isinstance(value, float)]


def read_judged(source: Path, rewards: Sequence[str]) -> tuple[list[Judged], int]:
    """All pictures, with the columns `rewards`; and how many more are neither there nor scored.

    Raises:
        DataError: names the record: it has no such column, no prompt, no file, or what is in the column is no number.
    """
    judged = [_judged(row, rewards, source) for row in read_pictures(source)]
    there = [each for each in judged if each is not None]
    return there, len(judged) - len(there)


def _judged(row: PictureRow, rewards: Sequence[str], source: Path) -> Judged | None:
    if not row.prompt.strip():
        raise DataError(f"record {row.id!r}: has no prompt, by which pictures are compared; add a column prompt")
    if row.file is None:
        raise DataError(
            f"record {row.id!r}: its picture stands in {source} itself, and records name files; write the pictures to files"
        )
    told = row.columns.get("source")
    scores = tuple(_number(row, column) for column in rewards)
    if not row.file.is_file():
        if scores and all(map(math.isnan, scores)):  # score has seen so
            return None
        raise DataError(
            f"record {row.id!r}: there is no {row.file}; paths start at the folder of the file that names them"
        )
    return Judged(row.id, row.prompt, row.file, scores, None if told is None else str(told))


def _number(row: PictureRow, column: str) -> float:
    if column not in row.columns:
        there = ", ".join(_numeric(row)) or "none"
        close = difflib.get_close_matches(column, _numeric(row), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "diffalign score makes such columns"
        raise DataError(f"record {row.id!r}: no column {column!r}; columns of numbers: {there}; {hint}")
    value = row.columns[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise DataError(
            f"record {row.id!r}: column {column!r} must hold finite numbers (null: unscored), got {value!r:.80}"
        )
    return float(value)


def weights_of(texts: Sequence[str], columns: Collection[str]) -> dict[str, float]:
    """Columns and their weights from NAME or NAME=WEIGHT; a whole text that is a column is one.

    Raises:
        ConfigError: a weight that is no finite number or is 0, or a name that stands twice.
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, sign, told = text.rpartition("=")
        try:
            weight = float(told) if sign and text not in columns else None
        except ValueError:  # as in scene:form=graded
            weight = None
        name, weight = (name, weight) if weight is not None else (text, 1.0)
        if not math.isfinite(weight) or weight == 0:
            raise ConfigError(f"--reward: {text}: a weight must be a finite number other than 0")
        if name in weights:
            raise ConfigError(f"--reward: {name} stands twice")
        weights[name] = weight
    return weights


def read_votes(path: Path, pictures: Sequence[Judged], home: Path) -> list[Comparison]:
    """What people said, by pairs of pictures; of one rater's votes on one comparison the last one counts.

    Args:
        path: a .jsonl of {"comparison": ..., "prompt": ..., "a": FILE, "b": FILE, "rater": ..., "vote": "a" | "b" | "tie" |
            "bad" | "skip"}, as `diffalign annotate` writes it. Its last line may be cut off.
        pictures: what a and b name, relative to the folder of `path` or to `home`.

    Raises:
        DataError: it cannot be read, or a line is wrong; names it.
    """
    by_file = {picture.file.resolve(): picture for picture in pictures}
    last: dict[tuple[str, str], tuple[Judged, Judged, str]] = {}
    for where, line in _lines(path):
        found = []
        for side in ("a", "b"):
            name = line.get(side)
            there = [by_file.get((folder / str(name)).resolve()) for folder in (path.parent, home)]
            picture = there[0] or there[1]
            if picture is None:
                raise DataError(
                    f"{where}: {side} is {name!r}, which is no picture of the input; paths start at {path.parent}"
                )
            found.append(picture)
        if found[0] is found[1] or any(line.get("prompt", each.prompt) != each.prompt for each in found):
            raise DataError(f"{where}: a and b must be two pictures of the line's prompt, {line.get('prompt')!r:.100}")
        if line.get("vote") not in _VOTES:
            raise DataError(f"{where}: vote must be one of {', '.join(_VOTES)}, got {line.get('vote')!r:.80}")
        last[str(line.get("comparison", where)), str(line.get("rater", ""))] = (*found, str(line["vote"]))  # type: ignore[assignment]
    compared: dict[tuple[str, str], Comparison] = {}
    for first, second, vote in last.values():
        if (second.id, first.id) in compared:  # the same pair the other way round
            first, second, vote = second, first, {"a": "b", "b": "a"}.get(vote, vote)
        each = compared.setdefault((first.id, second.id), Comparison(first, second))
        if vote != "skip":
            setattr(each, vote, getattr(each, vote) + 1)
    return list(compared.values())


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            if number == len(lines):  # whoever wrote it was killed
                continue
            raise DataError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(line, dict):
            raise DataError(f"{path}, line {number}: must be a JSON object, got {type(line).__name__}")
        yield f"{path}, line {number}", line
