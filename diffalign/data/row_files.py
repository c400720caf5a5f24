"""Rows to files that readers find whole or not at all: .jsonl, .parquet, .csv, or a folder's metadata.jsonl."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.data.key_table import write_whole
from diffalign.exceptions import ConfigError, DataError

LISTING = "metadata.jsonl"


def rows_file(out: Path, also: Sequence[str] = ()) -> Path:
    """The file that rows for `out` go to: itself, or the listing of the folder that it is.

    Args:
        out: a .jsonl, a .parquet or a folder.
        also: further endings that are taken.

    Raises:
        ConfigError: its ending is of neither kind.
    """
    endings = (".jsonl", ".parquet", *also)
    if out.suffix in endings and not out.is_dir():
        return out
    if out.suffix and not out.is_dir():
        told = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise ConfigError(f"--out: {out} must end in {told}, or be a folder, which gets a {LISTING}")
    return out / LISTING


def make_folder(folder: Path, option: str = "--out") -> None:
    """Make it and those that it lies in, if need be, and see whether a file can be written there.

    Raises:
        ConfigError: a file is in its way, or the system has no folders or takes no files there; names the option.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise ConfigError(f"{option}: cannot make {folder}: {error.strerror}") from None
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{option}: cannot write in {folder}: {error.strerror}; give another path") from None


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
        file: a .jsonl, .parquet or .csv.
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
    elif file.suffix == ".csv":
        write_whole(file, [_csv(list(rows))], draft)
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


def csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .csv that `write_rows` wrote: texts as they are, an empty cell as None, what is no text as JSON has it.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                yield {name: _of_cell(cell) for name, cell in row.items() if name is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a readable .csv ({error})") from None


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_cell(row.get(name)) for name in names] for row in rows])
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _of_cell(cell: str | None) -> Any:
    if cell and cell.startswith("{"):  # of ours only `versions` is read back
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return cell or None
