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
_OF_GENERATE = {"seed", "steps", "guidance_scale", "eta", "resolution", "best_of"}  # numbers that judge nothing


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
class VotedPair:
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
    """The columns of rewards: those that `diffalign score` wrote, or else all that hold numbers (null: unscored).

    What `diffalign generate` notes of its settings is none.
    """
    scored: dict[str, None] = {}
    numbers: dict[str, None] = {}
    others: set[str] = set(_OF_GENERATE)
    for row in read_pictures(source):
        scored |= dict.fromkeys(name for name in versions_in(row.columns) if name in row.columns)
        for name, value in row.columns.items():
            if _is_number(value):
                numbers[name] = None
            elif value is not None:
                others.add(name)
    return list(scored) or [name for name in numbers if name not in others]


def versions_in(columns: Mapping[str, Any]) -> dict[str, Any]:
    """By reward the version that scored a row; a column of this name that is somebody else's says nothing of rewards."""
    told = columns.get("versions")
    return {name: each for name, each in told.items() if each is not None} if isinstance(told, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
        there = [name for name, value in row.columns.items() if _is_number(value) and name not in _OF_GENERATE]
        known = ", ".join(there) or "none"
        bare = column.partition(":")[0]  # one reward with options has the column of its name
        close = [bare] if bare in there else difflib.get_close_matches(column, there, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "diffalign score makes such columns"
        raise DataError(f"record {row.id!r}: no column {column!r}; columns of numbers: {known}; {hint}")
    value = row.columns[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if not _is_number(value) or math.isinf(value):
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


def read_voted_pairs(path: Path, pictures: Sequence[Judged], home: Path) -> tuple[list[VotedPair], int]:
    """What people said, by pairs of pictures; and how many votes are on pictures that are not among these.

    Of one rater's votes on two pictures the last one counts, whichever of them was called a.

    Args:
        path: a .jsonl of {"comparison": ..., "prompt": ..., "a": FILE, "b": FILE, "rater": ..., "vote": "a" | "b" | "tie" |
            "bad" | "skip"}, as `diffalign annotate` writes it. Its last line may be cut off.
        pictures: what a and b name, relative to the folder of `path` or to `home`.

    Raises:
        DataError: it cannot be read, a line is wrong, or no line is on these pictures; names it.
    """
    by_file: dict[Path, dict[str, Judged]] = {}
    for picture in pictures:
        by_file.setdefault(picture.file.resolve(), {})[picture.prompt] = picture
    last: dict[tuple[frozenset[str], str], tuple[Judged, Judged, str]] = {}
    lost = 0
    for where, line in _lines(path):
        vote = line.get("vote")
        if vote not in _VOTES:
            raise DataError(f"{where}: vote must be one of {', '.join(_VOTES)}, got {vote!r:.80}")
        found = _two_pictures(line, by_file, (path.parent, home), where)
        if found is None:
            lost += 1
        else:  # lines that name no rater are of one for each comparison
            rater = line.get("rater", f"{line.get('comparison', where)}, by nobody")
            last[frozenset(each.id for each in found), str(rater)] = (*found, str(vote))
    if lost and not last:
        raise DataError(
            f"{path}: none of its votes is on pictures and prompts of the input; paths start at {path.parent}"
        )
    compared: dict[frozenset[str], VotedPair] = {}
    for (both, _), (first, second, vote) in last.items():
        each = compared.setdefault(both, VotedPair(first, second))
        if each.first is not first:  # the same pair the other way round
            vote = {"a": "b", "b": "a"}.get(vote, vote)
        if vote != "skip":
            setattr(each, vote, getattr(each, vote) + 1)
    return list(compared.values()), lost


def _two_pictures(
    line: Mapping[str, Any], by_file: Mapping[Path, Mapping[str, Judged]], folders: Sequence[Path], where: str
) -> tuple[Judged, Judged] | None:
    """Pictures a and b of a line, by the prompt that they were shown with; None: the input has not both of them.

    Raises:
        DataError: they are no file names, or no two pictures of one prompt.
    """
    found: list[Mapping[str, Judged]] = []
    for side in ("a", "b"):
        name = line.get(side)
        if not isinstance(name, str) or "\0" in name:
            raise DataError(f"{where}: {side} must be a picture's file name, got {name!r:.80}")
        found.append(next(filter(None, (by_file.get((folder / name).resolve()) for folder in folders)), {}))
    first, second = found
    prompt = line.get("prompt")
    prompts = [each for each in first if each in second and prompt in (each, None)]
    if not prompts and (prompt is not None or not all(found)):
        return None
    if len(prompts) != 1 or first[prompts[0]] is second[prompts[0]]:
        raise DataError(
            f"{where}: must name two pictures of one prompt, got {line['a']!r:.80} and {line['b']!r:.80} with prompt "
            f"{prompt!r:.80}"
        )
    return first[prompts[0]], second[prompts[0]]


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
