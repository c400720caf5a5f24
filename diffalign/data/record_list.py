"""What the records say, in one Arrow file that is mapped: memory does not grow with their number.

Of a record its id, prompt, rewards, label and preference are kept, the keys of its entries in the cache, its bucket, and
where its pictures came from. Beside `NAME.arrow` stands `NAME.json`, written last: the hash of the file, the state of the
source that it was read from, and what was left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diffalign.data.file_state import STATE, FileState
from diffalign.data.key_table import KEY, WIDTH, draft_of, remove_abandoned, write_whole
from diffalign.data.readers import ReadCounts

FORMAT = 2  # of the file, and of how records become what it holds
CHUNK = 8192  # records that are held in memory while they are written, and that are looked at together
_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("keys", pa.list_(pa.binary(WIDTH))),  # picture by picture, its mirror image's (if there is one) behind it
        ("rewards", pa.list_(pa.float32())),
        ("preference", pa.float32()),
        ("label", pa.int8()),
        ("bucket", pa.int16()),
        ("paths", pa.list_(pa.string())),  # of pictures that are files
        ("states", pa.list_(pa.binary(STATE))),
    ]
)


@dataclass(frozen=True)
class Listed:
    """One record as it is kept."""

    id: str
    prompt: str
    keys: tuple[bytes, ...]
    rewards: tuple[float, ...] | None
    preference: float
    label: int | None
    bucket: int
    files: tuple[tuple[str, FileState], ...]


class RecordList(Sequence[tuple[str, str]]):
    """Id and prompt of every record, in the source's order, and the other columns by number.

    Attributes:
        about: what was noted beside it: `content` is a hash of all that the records say.
    """

    def __init__(self, table: pa.Table, about: dict[str, Any]) -> None:
        self._table = table
        self.about = about
        self._columns = {name: table.column(name) for name in table.column_names}

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        return self.value("id", number % len(self)), self.value("prompt", number % len(self))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for batch in self._table.to_batches():
            yield from zip(batch.column("id").to_pylist(), batch.column("prompt").to_pylist(), strict=True)

    def value(self, column: str, number: int) -> Any:
        return self._columns[column][number].as_py()

    def chunks(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first, columns) of some thousand records at a time."""
        first = 0
        for batch in self._table.to_batches(max_chunksize=CHUNK):
            yield first, batch
            first += batch.num_rows

    def matrix(self, column: str, chunk: pa.RecordBatch) -> np.ndarray:
        """A column of lists of numbers as [records, longest], NaN beyond a list's end."""
        lists = chunk.column(column)
        lengths = np.asarray(lists.value_lengths().fill_null(0))
        found = np.full((len(lengths), max(int(lengths.max(initial=0)), 1)), np.nan, np.float32)
        found[np.arange(found.shape[1]) < lengths[:, None]] = np.asarray(lists.flatten())
        return found

    def keys(self, chunk: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        """All keys of a chunk [n] (S20), and how many each record has [records]."""
        lists = chunk.column("keys")
        return packed_keys(lists.flatten()), np.asarray(lists.value_lengths())


def packed_keys(column: pa.Array) -> np.ndarray:
    """A column of keys as an array [n] (S20), without a copy."""
    return np.frombuffer(column.buffers()[1], KEY, count=len(column), offset=column.offset * WIDTH)


class RecordListWriter:
    """Writes records as they come.

    Attributes:
        count: how many so far.
    """

    def __init__(self, path: Path) -> None:
        """Begin a file that becomes `path` at the end.

        Raises:
            OSError: it cannot be written.
        """
        self.count = 0
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        self._draft = draft_of(path)
        self._sink = pa.OSFile(str(self._draft), "wb")
        self._writer = pa.ipc.new_file(self._sink, _COLUMNS)
        self._rows: list[Listed] = []
        self._content = hashlib.sha256()

    def add(self, row: Listed) -> None:
        self._rows.append(row)
        self.count += 1
        said = (row.id, row.prompt, row.keys, row.rewards, row.preference, row.label, row.bucket)
        self._content.update(repr(said).encode())
        if len(self._rows) == CHUNK:
            self._write()

    def finish(self, source: dict[str, Any] | None, counts: ReadCounts, about: dict[str, Any]) -> RecordList:
        """The list, mapped.

        Args:
            source: the state of what it was read from, which the next `open_list` compares with; None: the list is not
                kept on disk.
            counts: what was left out.
            about: anything else that is to be noted.
        """
        self._write()
        self._writer.close()
        self._sink.close()
        about = about | {
            "format": FORMAT,
            "content": self._content.hexdigest()[:40],
            "source": source,
            "counts": counts.as_dict(),
            "sha256": _file_digest(self._draft) if source is not None else "",
        }
        try:
            table = _mapped(self._draft)
            if source is not None:
                self._path.with_suffix(".json").unlink(missing_ok=True)  # of the list that goes
                self._draft.replace(self._path)
                write_whole(self._path.with_suffix(".json"), [json.dumps(about).encode()])
        finally:
            self.discard()
        return RecordList(table, about)

    def discard(self) -> None:
        """Leave nothing behind, if the list was not finished."""
        self._draft.unlink(missing_ok=True)

    def _write(self) -> None:
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        columns = {
            name: [getattr(row, name) for row in rows]
            for name in ("id", "prompt", "keys", "rewards", "preference", "label", "bucket")
        }
        columns["paths"] = [[path for path, _ in row.files] for row in rows]
        columns["states"] = [[state.packed for _, state in row.files] for row in rows]
        self._writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=_COLUMNS))


def open_list(path: Path, source: dict[str, Any] | None) -> RecordList | None:
    """The list that was written, if it is whole, and what it was read from is as it was: source and picture files."""
    if source is None:
        return None
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        if about["format"] != FORMAT or about["source"] != source or _file_digest(path) != about["sha256"]:
            return None
        found = RecordList(_mapped(path), about)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    for _, chunk in found.chunks():
        paths, states = chunk.column("paths").flatten(), chunk.column("states").flatten()
        for each, state in zip(paths.to_pylist(), states.to_pylist(), strict=True):
            if not FileState.of(Path(each)).is_still(state):
                return None
    for each, state in about.get("left_out", ()):
        if not FileState.of(Path(each)).is_still(bytes.fromhex(state)):
            return None
    return found


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
