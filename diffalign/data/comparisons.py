"""Comparisons as a reward learns from them and is measured by: pictures as they stand, ties kept, each dimension apart.

`read_records` is for training a model: it puts the preferred picture first and leaves ties out. Here nothing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diffalign.data.key_table import KeySet, packed
from diffalign.data.readers import ReadCounts
from diffalign.data.rows import dimension_shares, pair_row, parse_row
from diffalign.data.sources import Source
from diffalign.exceptions import DataError

OVERALL = (
    "overall"  # the dimension of chosen and rejected, preference, votes and rewards; others are of column preferences
)
Shares = tuple[float, float]  # of those who prefer the first picture, and the second; what is left of 1 said tie


class Comparison(NamedTuple):
    """Two pictures of a record, by number, and what was said of them by dimension; a dimension may be missing."""

    first: int
    second: int
    said: Mapping[str, Shares]


@dataclass(frozen=True)
class ComparedRecord:
    """One prompt, its pictures, and the comparisons between them.

    Attributes:
        id: names the record in messages.
        prompt: what the pictures were made for.
        pictures: files, of sounds or videos too, their bytes, or uint8 arrays [height, width, 3]; of kind `groups` the
            best first.
        comparisons: which of them were compared.
        rewards: of kind `groups`, one a picture, NaN where unscored.
        columns: what else the record says, of all its pictures.
        home: where relative paths in `columns` start.
    """

    id: str
    prompt: str
    pictures: tuple[Any, ...]
    comparisons: tuple[Comparison, ...] = field(repr=False)
    rewards: tuple[float, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False)
    home: Path = Path()


def read_comparisons(
    source: Source,
    kind: Literal["pairs", "groups"] = "pairs",
    *,
    dimensions: Sequence[str] = (OVERALL,),
    margin: float = 0.0,
    columns: Mapping[Any, str] | None = None,
    limit: int | None = None,
    on_bad: Literal["error", "skip"] = "error",
    counts: ReadCounts | None = None,
) -> Iterator[ComparedRecord]:
    """Read records that compare pictures.

    Args:
        source: where the rows are.
        kind: `pairs` (prompt, chosen, rejected; Pick-a-Pic's columns too) or `groups` (prompt, items, rewards).
        dimensions: `overall`, and names of the column `preferences`; a record that says nothing of any of them is bad.
        margin: of kind `groups`, members whose rewards are no further apart are tied.
        columns: our column name -> theirs, where they differ.
        limit: stop after so many records.
        on_bad: raise on the first bad row, or skip and count it.
        counts: filled in as rows are read; `ties` are comparisons that are tied in all dimensions.

    Raises:
        DataError: the source is missing or empty, or a row is bad; names the row.
    """
    counts = counts if counts is not None else ReadCounts()
    seen = KeySet()  # of ids
    for number, (row, home) in enumerate(source.rows()):
        try:
            if isinstance(row, DataError):
                raise row
            record = _record(kind, row, home, number, dict(columns or {}), dimensions, margin)
            if not seen.add(packed(record.id)):
                raise DataError(f"record {record.id!r}: this id stands twice in {source.path}; ids must be unique")
        except DataError as error:
            if on_bad == "error":
                raise
            counts.add_bad(str(error))
            continue
        counts.kept += 1
        counts.ties += sum(all(a == b for a, b in each.said.values()) for each in record.comparisons)
        yield record
        if counts.kept == limit:
            break
    if counts.kept == 0:
        first = f"; the first: {counts.reasons[0]}" if counts.reasons else ""
        raise DataError(f"{source.path}: no usable {kind} ({counts.bad} bad rows{first})")


def compared_by_reward(rewards: Sequence[float], margin: float) -> tuple[Comparison, ...]:
    """All pairs of scored members, by number; those no further apart than `margin` are tied."""
    scored = [number for number, reward in enumerate(rewards) if not math.isnan(reward)]
    made = []
    for first, second in combinations(scored, 2):
        gap = rewards[first] - rewards[second]
        shares = (0.0, 0.0) if abs(gap) <= margin else (1.0, 0.0) if gap > 0 else (0.0, 1.0)
        made.append(Comparison(first, second, {OVERALL: shares}))
    return tuple(made)


def _record(
    kind: Literal["pairs", "groups"],
    row: Mapping[str, Any],
    home: Path,
    number: int,
    columns: dict[str, str],
    dimensions: Sequence[str],
    margin: float,
) -> ComparedRecord:
    if kind == "groups":
        group = parse_row("groups", row, home, number, columns)
        assert group is not None
        assert group.rewards is not None
        compared = compared_by_reward(group.rewards, margin)
        if not compared:
            raise DataError(f"record {group.id!r}: has fewer than two scored items, so there is nothing to compare")
        told = {"source": group.source, "condition": group.condition}
        return ComparedRecord(
            group.id, group.prompt, group.items, compared, group.rewards, _columns(told, group.metadata), home
        )
    pair = pair_row(row, home, number, columns)
    column, said = columns.get("preferences", "preferences"), {}
    for name in dimensions:
        if name == OVERALL:
            said[name] = pair.shares
        elif isinstance(pair.preferences, dict) and pair.preferences.get(name) is not None:
            said[name] = dimension_shares(pair.preferences, name, column, pair.id)
    if not said:
        raise DataError(
            f"record {pair.id!r}: column {column!r} says nothing of {', '.join(dimensions)}, got {pair.preferences!r:.80}; "
            "data.on_bad: skip leaves such records out"
        )
    told = {name: pair.optional[name] for name in ("source", "condition")}
    compared = (Comparison(0, 1, said),)
    return ComparedRecord(
        pair.id, pair.prompt, pair.pictures, compared, None, _columns(told, pair.optional["metadata"]), home
    )


def _columns(told: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """What is not of the comparison itself: a reward does not see what it is measured by."""
    return {**others, **{name: value for name, value in told.items() if value is not None}}
