"""Where rows come from: a folder, a JSONL or parquet file, or a Hugging Face dataset. A batch of rows is held at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.data import hub
from diffalign.data.file_state import state_of
from diffalign.exceptions import DataError

Row = Mapping[str, Any] | DataError  # a row that cannot be read is the error that says so
_ROWS = 32  # of a parquet file at a time: they may hold pictures
_BUFFER = 2**20  # bytes of a column that are read at a time, whatever the size of the row groups


@dataclass(frozen=True)
class Source:
    """Rows in their order.

    Attributes:
        path: a folder with metadata.jsonl, else with .parquet files (read in the order of their names as one list), a
            .jsonl or a .parquet; a folder that `datasets.save_to_disk` wrote; hf://OWNER/NAME or hf://OWNER/NAME@REVISION;
            or hf:// before a local folder that `datasets.load_dataset` reads.
        split: of a Hugging Face dataset.
        config_name: of a Hugging Face dataset that has several.
        streaming: read a Hugging Face dataset without a copy of it on this disk.
    """

    path: Path | str
    split: str = "train"
    config_name: str | None = None
    streaming: bool = False

    @property
    def is_dataset(self) -> bool:
        """Whether the library `datasets` reads it."""
        return hub.is_address(self.path) or hub.is_saved(Path(self.path))

    def rows(self) -> Iterator[tuple[Row, Path]]:
        """Every row, and the folder that its paths start from.

        Raises:
            DataError: the source is missing or cannot be read.
            MissingExtraError: it needs `datasets`.
        """
        if self.is_dataset:
            home = Path("/") if hub.is_address(self.path) else Path(self.path)
            for row in hub.rows(hub.load(self.path, self.split, self.config_name, streaming=self.streaming)):
                yield row, home
        else:
            yield from _rows(Path(self.path))

    def state(self) -> dict[str, Any] | None:
        """What it is like now, for comparison with a later time; None where nobody can tell: then it is read again."""
        if not self.is_dataset:
            path = Path(self.path)
            return state_of([path] if path.is_file() else _files_in(path))
        if self.streaming:
            return None
        seen = hub.load(self.path, self.split, self.config_name, streaming=False)
        files = state_of(hub.files(seen))
        return files if files is None else files | {"fingerprint": hub.fingerprint(seen)}


def _files_in(folder: Path) -> list[Path]:
    listing = folder / "metadata.jsonl"
    return [listing] if listing.is_file() else list(folder.glob("*.parquet"))


def _rows(path: Path) -> Iterator[tuple[Row, Path]]:
    if path.is_dir():
        files = sorted(_files_in(path))
        if not files:
            raise DataError(
                f"{path}: a data folder must hold metadata.jsonl, one JSON object a line, or .parquet files, or be "
                "one that datasets.save_to_disk wrote"
            )
        for file in files:
            yield from _rows(file)
    elif path.suffix == ".jsonl":
        for row in json_rows(path):
            yield row, path.parent
    elif path.suffix == ".parquet":
        for row in _parquet_rows(path):
            yield row, path.parent
    elif path.exists():
        raise DataError(
            f"{path}: data must be a folder with metadata.jsonl or .parquet files, a .jsonl, a .parquet or a .safetensors"
        )
    else:
        raise DataError(f"{path}: no such file or folder")


def _parquet_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a folder, a .jsonl or a .parquet")
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as table:
            for batch in table.iter_batches(batch_size=_ROWS, use_threads=False):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from None


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSONL file.

    Raises:
        DataError: there is no such file.
    """
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
