"""One row of a source as a record: pairs, groups or labelled samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diffalign.data.hub import Remote
from diffalign.data.records import PictureSource, Record
from diffalign.exceptions import DataError

Kind = Literal["pairs", "groups", "labelled"]
_OPTIONAL = ("id", "source", "condition", "votes", "preferences")
_PICK_A_PIC = ("jpg_0", "jpg_1", "label_0", "caption")
_WANTED = {
    "pairs": ("prompt", "chosen", "rejected"),
    "groups": ("prompt", "items", "rewards"),
    "labelled": ("prompt", "item", "label"),
}
_LARGEST = 3.4e38  # of float32, which rewards become
_CHOICES = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.0, 0.0)}
_GOOD, _BAD = ("good", 1), ("bad", -1, 0)  # true and false are 1 and 0 to Python


def parse_row(
    kind: Kind,
    row: Mapping[str, Any],
    home: Path,
    number: int,
    columns: dict[str, str],
    dimension: str | None = None,
) -> Record | None:
    """The record that a row holds, its best picture first; None for a tie.

    Args:
        kind: what the records are.
        row: column -> value.
        home: where relative picture paths start.
        number: of the row, which names a record without an id.
        columns: our column name -> theirs.
        dimension: of pairs, the one of column `preferences` that says which picture is preferred.

    Raises:
        DataError: names the record, the column, what was seen and what is wanted.
    """
    if kind == "pairs":
        return _pair(row, home, number, columns, dimension)
    parse = {"groups": _group, "labelled": _labelled}[kind]
    return parse(row, home, number, columns)


class PairRow(NamedTuple):
    """Two pictures as a row has them, and who said what of them.

    Attributes:
        shares: of those who prefer the first picture, and the second; what is left of 1 said tie.
        preferences: the column `preferences`, whose a is the first picture.
    """

    id: str
    prompt: str
    pictures: tuple[PictureSource, PictureSource]
    shares: tuple[float, float]
    preferences: Any
    optional: dict[str, Any]


def pair_row(row: Mapping[str, Any], home: Path, number: int, columns: Mapping[str, str]) -> PairRow:
    """One row of kind `pairs`, its pictures in the row's own order.

    Raises:
        DataError: as `parse_row`.
    """
    names = {name: columns.get(name, name) for name in ("prompt", "chosen", "rejected", "preference", *_OPTIONAL)}
    pick_a_pic = not {names["chosen"], names["rejected"]} & row.keys() and row.keys() >= set(_PICK_A_PIC)
    if pick_a_pic:
        names |= {"chosen": "jpg_0", "rejected": "jpg_1"} | ({} if "prompt" in columns else {"prompt": "caption"})
    name = id_of(row, names, number)
    _need(row, names, _WANTED["pairs"], name)
    prompt = _prompt(row, names, name)
    first, second = (picture_of(row[names[column]], home, name, names[column]) for column in ("chosen", "rejected"))
    share = _label_share(row, name) if pick_a_pic else 1.0  # of those who prefer the first picture
    shares = (0.0, 0.0) if share == 0.5 else (share, 1 - share)
    votes, preference = row.get(names["votes"]), row.get(names["preference"])
    if preference is not None:
        share = _probability(preference, names["preference"], name)
        shares = (share, 1 - share)
    elif votes is not None and share != 0.5:
        shares = vote_shares(votes, name) if share == 1 else vote_shares(votes, name)[::-1]  # a is the chosen one
    used = {*names.values(), *(_PICK_A_PIC if pick_a_pic else ())}
    optional = _optional(row, names, used)
    return PairRow(name, prompt, (first, second), shares, row.get(names["preferences"]), optional)


def _pair(
    row: Mapping[str, Any], home: Path, number: int, columns: dict[str, str], dimension: str | None
) -> Record | None:
    """One row as a record, the preferred picture first; None for a tie."""
    said = pair_row(row, home, number, columns)
    shares = said.shares
    if dimension is not None:  # then nothing else counts
        shares = dimension_shares(said.preferences, dimension, columns.get("preferences", "preferences"), said.id)
    first, second = shares
    if first == second:
        return None
    share = first + 0.5 * (1.0 - first - second)
    pictures, sure = (said.pictures, share) if first > second else (said.pictures[::-1], 1 - share)
    return Record(said.id, said.prompt, pictures, preference=sure, **said.optional)


def _group(row: Mapping[str, Any], home: Path, number: int, columns: dict[str, str]) -> Record | None:
    """One row as a record, its pictures by falling reward, unscored ones last."""
    names = {name: columns.get(name, name) for name in ("prompt", "items", "rewards", *_OPTIONAL)}
    name = id_of(row, names, number)
    _need(row, names, _WANTED["groups"], name)
    prompt, items, rewards = _prompt(row, names, name), row[names["items"]], row[names["rewards"]]
    if not isinstance(items, list) or not items:
        raise DataError(f"record {name!r}: column {names['items']!r} must be a list of pictures, got {items!r:.80}")
    if not isinstance(rewards, list) or len(rewards) != len(items):
        raise DataError(
            f"record {name!r}: column {names['rewards']!r} must be a list of {len(items)} numbers, one per item, got "
            f"{rewards!r:.80}"
        )
    scores = [_reward(value, name, names["rewards"]) for value in rewards]
    if all(math.isnan(score) for score in scores):
        raise DataError(f"record {name!r}: column {names['rewards']!r} must hold a number, got {rewards!r:.80}")
    pictures = [picture_of(value, home, name, names["items"]) for value in items]
    order = sorted(range(len(items)), key=lambda each: (math.isnan(scores[each]), -scores[each]))
    return Record(
        name,
        prompt,
        tuple(pictures[each] for each in order),
        rewards=tuple(scores[each] for each in order),
        **_optional(row, names, set(names.values())),
    )


def _labelled(row: Mapping[str, Any], home: Path, number: int, columns: dict[str, str]) -> Record | None:
    """One row as a record of one picture, good or bad."""
    names = {name: columns.get(name, name) for name in ("prompt", "item", "label", *_OPTIONAL)}
    name = id_of(row, names, number)
    _need(row, names, _WANTED["labelled"], name)
    prompt, label = _prompt(row, names, name), row[names["label"]]
    if isinstance(label, float | str | int) and label in _GOOD:
        sign = 1
    elif isinstance(label, float | str | int) and label in _BAD:
        sign = -1
    else:
        raise DataError(f"record {name!r}: column {names['label']!r} must be 'good' or 'bad' (or 1, -1), got {label!r}")
    picture = picture_of(row[names["item"]], home, name, names["item"])
    return Record(name, prompt, (picture,), label=sign, **_optional(row, names, set(names.values())))


def id_of(row: Mapping[str, Any], names: Mapping[str, str], number: int) -> str:
    """What names the record in messages: its id, or `row-N`.

    Raises:
        DataError: it is no text that a file can hold.
    """
    name = str(row.get(names["id"]) if row.get(names["id"]) is not None else f"row-{number}")
    _check_text(name, f"row-{number}", names["id"])
    return name


def _check_text(text: str, name: str, column: str) -> None:
    """JSON can write half a character (\\ud83d of an emoji), which is in no text.

    Raises:
        DataError: it is there.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"record {name!r}: column {column!r} has a lone surrogate, half a character, got {text!r:.100}")


def _need(row: Mapping[str, Any], names: Mapping[str, str], wanted: Sequence[str], name: str) -> None:
    for column in wanted:
        if names[column] not in row:
            other = [kind for kind, columns in _WANTED.items() if all(each in row for each in columns)]
            what = f" (these look like data.kind: {other[0]})" if other else ""
            raise DataError(
                f"record {name!r}: no column {names[column]!r}; there are {', '.join(row)}; "
                f"say in data.columns which of them is {column!r}, or in data.kind what the records are{what}"
            )


def _prompt(row: Mapping[str, Any], names: Mapping[str, str], name: str) -> str:
    prompt = row[names["prompt"]]
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"record {name!r}: column {names['prompt']!r} must be text that is not empty, got {prompt!r}")
    _check_text(prompt, name, names["prompt"])
    return prompt


def _optional(row: Mapping[str, Any], names: Mapping[str, str], used: set[str]) -> dict[str, Any]:
    """The columns that every kind may have, and all that are not ours."""
    return {name: row.get(names[name]) for name in ("votes", "preferences", "source", "condition")} | {
        "metadata": {key: value for key, value in row.items() if key not in used}
    }


def _reward(value: Any, name: str, column: str) -> float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        raise DataError(
            f"record {name!r}: column {column!r} must hold finite numbers (null: unscored), got {value!r:.80}"
        )
    return float(value)


def _label_share(row: Mapping[str, Any], name: str) -> float:
    """Pick-a-Pic's label."""
    label = row["label_0"]
    if label not in (0, 0.5, 1):  # 0.5 is its mark of a tie
        raise DataError(f"record {name!r}: column 'label_0' must be 0, 0.5 or 1, got {label!r}")
    return float(label)


def dimension_shares(preferences: Any, dimension: str, column: str, name: str) -> tuple[float, float]:
    """What a record says of one dimension (a, b, tie, or votes): the shares of those who prefer a, and b.

    Raises:
        DataError: it says nothing of it, or nothing that can be understood.
    """
    said = preferences if isinstance(preferences, dict) else {}
    said = {key: value for key, value in said.items() if value is not None}  # a parquet struct holds all names
    value = said.get(dimension)
    if value is None:
        there = f"it has {', '.join(said)}" if said else f"got {preferences!r:.80}"
        raise DataError(
            f"record {name!r}: column {column!r} has no {dimension!r}, which data.dimension names ({there}); "
            "data.on_bad: skip leaves such records out"
        )
    if isinstance(value, dict):
        return vote_shares(value, name)
    if not isinstance(value, str) or value not in _CHOICES:
        raise DataError(f"record {name!r}: {column}.{dimension} must be 'a', 'b' or 'tie', or votes, got {value!r}")
    return _CHOICES[value]


def vote_shares(votes: Any, name: str) -> tuple[float, float]:
    """The shares of votes for a and for b; the rest said tie.

    Raises:
        DataError: these are no votes.
    """
    votes = {key: value for key, value in votes.items() if value is not None} if isinstance(votes, dict) else votes
    fine = (
        isinstance(votes, dict)
        and votes.keys() <= {"a", "b", "tie"}
        and all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in votes.values())
        and sum(votes.values()) > 0
    )
    if not fine:
        raise DataError(f"record {name!r}: votes must look like {{'a': 7, 'b': 3, 'tie': 1}}, got {votes!r}")
    every = sum(votes.values())
    return votes.get("a", 0) / every, votes.get("b", 0) / every


def _probability(preference: Any, column: str, name: str) -> float:
    """A soft preference: how likely the chosen picture is the better one."""
    number = isinstance(preference, int | float) and not isinstance(preference, bool)
    if not number or not 0.0 <= preference <= 1.0:  # NaN is in no range
        raise DataError(
            f"record {name!r}: column {column!r} must be a number from 0 to 1, the probability that the chosen picture is "
            f"the better one, got {preference!r:.80}"
        )
    return float(preference)


def picture_of(value: Any, home: Path, name: str, column: str) -> PictureSource:
    """The picture that a cell names or holds.

    Raises:
        DataError: it does neither.
    """
    if isinstance(value, dict) and value.get("bytes") is not None:
        value = value["bytes"]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        value = value["path"]
    if isinstance(value, bytes | Remote):
        return value
    if isinstance(value, str) and value:
        _check_text(value, name, column)
        if "\0" in value:
            raise DataError(f"record {name!r}: column {column!r} has a NUL byte in a path, got {value!r:.100}")
        return home / value
    raise DataError(f"record {name!r}: column {column!r} must be a picture's path or bytes, got {type(value).__name__}")
