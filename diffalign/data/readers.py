"""Records from every source: a folder, a JSONL or parquet file, a Hugging Face dataset; Pick-a-Pic's own columns too.

Readers yield one record at a time, so memory stays flat as the data grows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from diffalign.data.key_table import KeySet, packed
from diffalign.data.records import Record
from diffalign.data.rows import Kind, parse_row
from diffalign.data.sources import Source, json_rows
from diffalign.exceptions import DataError

log = logging.getLogger(__name__)


@dataclass
class ReadCounts:
    """What happened to the rows of a source."""

    kept: int = 0
    ties: int = 0
    bad: int = 0
    reasons: list[str] = field(default_factory=list)  # of the first few bad rows

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def add_bad(self, reason: str) -> None:
        self.bad += 1
        if len(self.reasons) < 20:
            self.reasons.append(reason)
        log.warning("skipped: %s", reason)


def read_records(
    path: Path | str | Source,
    kind: Kind = "pairs",
    *,
    members: int | None = None,
    dimension: str | None = None,
    columns: Mapping[Any, str] | None = None,
    limit: int | None = None,
    on_bad: Literal["error", "skip"] = "error",
    counts: ReadCounts | None = None,
) -> Iterator[Record]:
    """Read records of one kind.

    Args:
        path: what `Source` reads. Picture paths are relative to the file that names them; parquet may hold the pictures'
            bytes, bare or as {"bytes": ...}.
        kind: `pairs` (prompt, chosen, rejected), `groups` (prompt, items, rewards) or `labelled` (prompt, item, label).
        members: of kind `groups`, how many scored items a record needs (unscored ones are then left out); None: all records
            have equally many.
        dimension: of kind `pairs`, the one of column `preferences` that says which picture is preferred; its ties are left
            out, and a record without it is bad.
        columns: our column name -> theirs, where they differ.
        limit: stop after so many records, and read no row beyond them; None: read all.
        on_bad: raise on the first bad row, or skip and count it.
        counts: filled in as rows are read. Ties are left out and counted.

    Raises:
        DataError: the source is missing or empty, or a row is bad; names the row.
    """
    counts = counts if counts is not None else ReadCounts()
    source = path if isinstance(path, Source) else Source(path)
    seen = KeySet()  # of ids
    size = read = 0
    for number, (row, home) in enumerate(source.rows()):
        try:
            if isinstance(row, DataError):
                raise row
            record = parse_row(kind, row, home, number, dict(columns or {}), dimension)
            if record is not None and kind == "groups":
                size = size or len(record.items)
                record = _whole(record, members, size)
            if record is not None and not seen.add(packed(record.id)):
                raise DataError(f"record {record.id!r}: this id stands twice in {source.path}; ids must be unique")
        except DataError as error:
            if on_bad == "error":
                raise
            counts.add_bad(str(error))
            continue
        if record is None:
            counts.ties += 1
            continue
        counts.kept += 1
        read += 1
        yield record
        if read == limit:
            break
    if counts.kept == 0:
        first = f"; the first: {counts.reasons[0]}" if counts.reasons else ""
        wanted = "labelled samples" if kind == "labelled" else kind
        raise DataError(f"{source.path}: no usable {wanted} ({counts.ties} ties, {counts.bad} bad rows{first})")


def _whole(record: Record, members: int | None, size: int) -> Record:
    """The group, with enough members, or with as many as the others.

    Raises:
        DataError: it has not.
    """
    assert record.rewards is not None
    if members is None:
        if len(record.items) != size:
            raise DataError(
                f"record {record.id!r}: has {len(record.items)} items, and the first record {size}; set data.members "
                "to draw equally many of each"
            )
        return record
    scored = sum(not math.isnan(reward) for reward in record.rewards)  # they come first
    if scored < members:
        raise DataError(f"record {record.id!r}: has {scored} scored items, and data.members asks for {members}")
    return replace(record, items=record.items[:scored], rewards=record.rewards[:scored])


def read_prompts(path: Path) -> list[str]:
    """Prompts of a .txt (one a line) or a .jsonl (column `prompt`); empty lines are left out.

    Raises:
        DataError: missing, empty, or a row without a prompt.
    """
    if path.suffix == ".jsonl":
        prompts = []
        for number, row in enumerate(json_rows(path)):
            if isinstance(row, DataError):
                raise row
            prompt = row.get("prompt")
            if not isinstance(prompt, str) or not prompt.strip():
                raise DataError(f"{path}, row {number}: 'prompt' must be text that is not empty, got {prompt!r}")
            if any("\ud800" <= letter <= "\udfff" for letter in prompt):
                raise DataError(
                    f"{path}, row {number}: 'prompt' has a lone surrogate, half a character: {prompt!r:.100}"
                )
            prompts.append(prompt)
    else:
        prompts = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not prompts:
        raise DataError(f"{path}: no prompts in it")
    return prompts


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows marks the beginning
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
