"""Rows to files that readers find whole or not at all: .jsonl, .parquet, or a folder's metadata.jsonl."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.data.key_table import write_whole
from diffalign.exceptions import ConfigError, DataError

LISTING = "metadata.jsonl"


def rows_file(out: Path) -> Path:
    """The file that rows for `out` go to: itself, or the listing of the folder that it is.

    Raises:
        ConfigError: its ending is of neither kind.
    """
    if out.suffix in (".jsonl", ".parquet") and not out.is_dir():
        return out
    if out.suffix and not out.is_dir():
        raise ConfigError(f"--out: {out} must end in .jsonl or .parquet, or be a folder, which gets a {LISTING}")
    return out / LISTING


def make_folder(folder: Path) -> None:
    """Make it and those that it lies in, if need be.

    Raises:
        ConfigError: a file is in its way, or the system has no folders there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"--out: cannot make {folder}: {error.strerror}") from None


def check_for_jsonl(record: str, columns: Mapping[str, Any]) -> None:
    """Whether a .jsonl can hold what a parquet file did.

    Raises:
        DataError: it cannot; names record and column.
    """
    for column, value in columns.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"record {record!r}: column {column!r} fits into no .jsonl ({error}); write a .parquet instead"
            ) from None


def path_from(file: Path, picture: Path) -> str:
    """How `file` names a picture: relative to its own folder, as readers expect."""
    return Path(os.path.relpath(picture.resolve(), file.parent.resolve())).as_posix()


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]], draft: Path | None = None) -> None:
    """Write all rows under the name `draft`, then rename.

    Args:
        file: a .jsonl or .parquet.
        rows: of the file, in its order.
        draft: left out, a name that the next call takes again: one that is killed leaves nothing for long.

    Raises:
        ConfigError: its folder cannot be made.
        OSError: it cannot be written; what was there before is unharmed.
        DataError: a column's values do not fit into one of parquet.
    """
    make_folder(file.parent)
    draft = draft or file.with_name(f".{file.name}.partial")
    if file.suffix == ".parquet":
        write_whole(file, [_parquet(list(rows), file)], draft)
    else:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(file, (line.encode("utf-8", "replace") for line in lines), draft)


def _parquet(rows: Sequence[Mapping[str, Any]], file: Path) -> memoryview:
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
    except (pa.ArrowException, UnicodeError) as error:
        raise DataError(f"{file}: not a table ({error}); write a .jsonl instead") from None
    return buffer.getbuffer()
