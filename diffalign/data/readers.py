"""Records from a folder with metadata.jsonl or parquet files, a JSONL file or a parquet file; Pick-a-Pic's own columns too.

Readers yield one record at a time, so memory stays flat as the data grows.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.data.records import PictureSource, Record
from diffalign.exceptions import DataError

log = logging.getLogger(__name__)
_OPTIONAL = ("id", "source", "condition", "votes", "preferences")
_PICK_A_PIC = ("jpg_0", "jpg_1", "label_0", "caption")


@dataclass
class ReadCounts:
    """What happened to the rows of a source."""

    kept: int = 0
    ties: int = 0
    bad: int = 0
    reasons: list[str] = field(default_factory=list)  # of the first few bad rows

    def add_bad(self, reason: str) -> None:
        self.bad += 1
        if len(self.reasons) < 20:
            self.reasons.append(reason)
        log.warning("skipped: %s", reason)


def read_pairs(
    path: Path,
    *,
    columns: Mapping[Any, str] | None = None,
    on_bad: Literal["error", "skip"] = "error",
    counts: ReadCounts | None = None,
) -> Iterator[Record]:
    """Read records of kind `pairs`.

    Args:
        path: a folder with metadata.jsonl, else with .parquet files (read in the order of their names as one list), a
            .jsonl or a .parquet. Picture paths are relative to the file that names them; parquet may hold the pictures'
            bytes, bare or as {"bytes": ...}.
        columns: our column name -> theirs, where they differ.
        on_bad: raise on the first bad row, or skip and count it.
        counts: filled in as rows are read. Ties are left out and counted.

    Raises:
        DataError: the source is missing or empty, or a row is bad; names the row.
    """
    counts = counts if counts is not None else ReadCounts()
    seen: set[str] = set()
    for number, (row, home) in enumerate(_rows(path)):
        try:
            if isinstance(row, DataError):
                raise row
            record = _pair(row, home, number, dict(columns or {}))
            if record is not None and record.id in seen:
                raise DataError(f"record {record.id!r}: this id stands twice in {path}; ids must be unique")
        except DataError as error:
            if on_bad == "error":
                raise
            counts.add_bad(str(error))
            continue
        if record is None:
            counts.ties += 1
            continue
        seen.add(record.id)
        counts.kept += 1
        yield record
    if counts.kept == 0:
        first = f"; the first: {counts.reasons[0]}" if counts.reasons else ""
        raise DataError(f"{path}: no usable pairs ({counts.ties} ties, {counts.bad} bad rows{first})")


def read_prompts(path: Path) -> list[str]:
    """Prompts of a .txt (one a line) or a .jsonl (column `prompt`); empty lines are left out.

    Raises:
        DataError: missing, empty, or a row without a prompt.
    """
    if path.suffix == ".jsonl":
        prompts = []
        for number, row in enumerate(_json_rows(path)):
            if isinstance(row, DataError):
                raise row
            prompt = row.get("prompt")
            if not isinstance(prompt, str) or not prompt.strip():
                raise DataError(f"{path}, row {number}: 'prompt' must be text that is not empty, got {prompt!r}")
            prompts.append(prompt)
    else:
        prompts = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not prompts:
        raise DataError(f"{path}: no prompts in it")
    return prompts


def _rows(path: Path) -> Iterator[tuple[Mapping[str, Any] | DataError, Path]]:
    """Every row and the folder that its paths start from; a row that cannot be read is the error that says so."""
    if path.is_dir():
        listing = path / "metadata.jsonl"
        tables = sorted(path.glob("*.parquet"))
        if listing.is_file():
            for row in _json_rows(listing):
                yield row, path
        elif tables:
            for table in tables:
                yield from _rows(table)
        else:
            raise DataError(
                f"{path}: a data folder must hold metadata.jsonl, one JSON object a line, or .parquet files"
            )
    elif path.suffix == ".jsonl":
        for row in _json_rows(path):
            yield row, path.parent
    elif path.suffix == ".parquet":
        if not path.is_file():
            raise DataError(f"{path}: no such file; data.path must be a folder, a .jsonl or a .parquet")
        try:
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=64):
                    for row in batch.to_pylist():
                        yield row, path.parent
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a readable parquet file ({error})") from None
    elif path.exists():
        raise DataError(
            f"{path}: data must be a folder with metadata.jsonl or .parquet files, a .jsonl, a .parquet or a .safetensors"
        )
    else:
        raise DataError(f"{path}: no such file or folder; look at data.path")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _json_rows(path: Path) -> Iterator[Mapping[str, Any] | DataError]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                yield DataError(f"{path}, line {number}: not UTF-8 text ({error.reason} at byte {error.start})")
            except (ValueError, RecursionError) as error:
                yield DataError(f"{path}, line {number}: not JSON ({error})")
            else:
                if isinstance(row, dict):
                    yield row
                else:
                    yield DataError(f"{path}, line {number}: must be a JSON object, got {type(row).__name__}")


def _pair(row: Mapping[str, Any], home: Path, number: int, columns: dict[str, str]) -> Record | None:
    """One row as a record, the preferred picture first; None for a tie."""
    names = {name: columns.get(name, name) for name in ("prompt", "chosen", "rejected", *_OPTIONAL)}
    pick_a_pic = not {names["chosen"], names["rejected"]} & row.keys() and row.keys() >= set(_PICK_A_PIC)
    if pick_a_pic:
        names |= {"prompt": "caption", "chosen": "jpg_0", "rejected": "jpg_1"}
    name = str(row.get(names["id"]) if row.get(names["id"]) is not None else f"row-{number}")
    for column in ("prompt", "chosen", "rejected"):
        if names[column] not in row:
            raise DataError(
                f"record {name!r}: no column {names[column]!r}; there are {', '.join(row)}; "
                f"say in data.columns which of them is {column!r}"
            )
    prompt, first, second = row[names["prompt"]], row[names["chosen"]], row[names["rejected"]]
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"record {name!r}: column {names['prompt']!r} must be text that is not empty, got {prompt!r}")
    pictures = [
        _picture(value, home, name, names[column]) for value, column in ((first, "chosen"), (second, "rejected"))
    ]
    preference = 1.0
    if pick_a_pic:
        label = row["label_0"]
        if label == 0.5:  # Pick-a-Pic's mark of a tie
            return None
        if label not in (0, 1):
            raise DataError(f"record {name!r}: column 'label_0' must be 0, 0.5 or 1, got {label!r}")
        pictures = pictures if label == 1 else pictures[::-1]
    votes = row.get(names["votes"])
    if votes is not None:
        preference = _share(votes, name)
        if preference == 0.5:
            return None
        if preference < 0.5:
            pictures, preference = pictures[::-1], 1 - preference
    used = {*names.values(), *(_PICK_A_PIC if pick_a_pic else ())}
    return Record(
        id=name,
        prompt=prompt,
        items=tuple(pictures),
        preference=preference,
        votes=votes,
        preferences=row.get(names["preferences"]),
        source=row.get(names["source"]),
        condition=row.get(names["condition"]),
        metadata={key: value for key, value in row.items() if key not in used},
    )


def _share(votes: Any, name: str) -> float:
    """The share of votes for a, ties counted half."""
    votes = {key: value for key, value in votes.items() if value is not None} if isinstance(votes, dict) else votes
    fine = (
        isinstance(votes, dict)
        and votes.keys() <= {"a", "b", "tie"}
        and all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in votes.values())
        and sum(votes.values()) > 0
    )
    if not fine:
        raise DataError(f"record {name!r}: votes must look like {{'a': 7, 'b': 3, 'tie': 1}}, got {votes!r}")
    return (votes.get("a", 0) + 0.5 * votes.get("tie", 0)) / sum(votes.values())


def _picture(value: Any, home: Path, name: str, column: str) -> PictureSource:
    if isinstance(value, dict) and value.get("bytes") is not None:
        value = value["bytes"]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        value = value["path"]
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return home / value
    raise DataError(f"record {name!r}: column {column!r} must be a picture's path or bytes, got {type(value).__name__}")
