"""Records or paths, one a line, as a program before this one says them: a file of records that any process can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from diffalign.data.picture_rows import bare_row, with_whole_paths
from diffalign.data.row_files import write_rows
from diffalign.exceptions import DataError


def save_lines(lines: Iterable[str], home: Path, file: Path, name: str = "standard input") -> None:
    """Write the rows of lines to a .jsonl whose paths are whole.

    Args:
        lines: a JSON object each, with the columns of a record, or the path of a media file, whose caption stands beside it
            in NAME.txt.
        home: where relative paths start.
        file: the .jsonl.
        name: of what the lines are from, for messages.

    Raises:
        DataError: a line is neither, or there is none.
    """
    rows = list(_rows(lines, home, name))
    if not rows:
        raise DataError(f"{name}: nothing in it; give records as JSON objects, or paths, one a line")
    write_rows(file, rows)


def _rows(lines: Iterable[str], home: Path, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if not text.startswith("{"):
            row = bare_row(home / text, text)
            yield {"id": text, "file_name": str(row.file), "prompt": row.prompt}
            continue
        try:
            record = json.loads(text)
        except ValueError as error:
            raise DataError(f"{name}, line {number}: not JSON ({error})") from None
        yield with_whole_paths(record, home)
