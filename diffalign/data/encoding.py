"""Pictures to latents in the cache: what is missing is encoded, by one process or by several, each its share."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diffalign.data.cache import TensorCache
from diffalign.data.cached_latents import CachedLatents
from diffalign.data.encoder import Encoder, Keys, PictureEncoding
from diffalign.data.file_state import FileState
from diffalign.data.key_table import packed
from diffalign.data.readers import ReadCounts
from diffalign.data.record_list import Listed, RecordList, RecordListWriter
from diffalign.data.records import Record, picture_bytes
from diffalign.exceptions import DataError

log = logging.getLogger(__name__)
_UNSETTLED = 1024  # records that may wait for one whose bucket is rare
_LEFT_OUT = 10_000  # files of records that were left out, whose state is noted


@dataclass(frozen=True)
class Share:
    """Which part of the work is this process's.

    Attributes:
        rank, world: which process of how many.
        wait: returns once every process has called it.
    """

    rank: int = 0
    world: int = 1
    wait: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be from 0 to {self.world - 1}, got {self.rank}")

    def has(self, key: str) -> bool:
        """Whether the entry of this key is this process's to make: keys are hashes, so all have nearly the same number."""
        return int.from_bytes(packed(key)[:8], "little") % self.world == self.rank


def encode_records(
    records: Iterable[Record],
    cache: TensorCache,
    encoding: PictureEncoding,
    *,
    seed: int,
    on_bad: Literal["error", "skip"],
    counts: ReadCounts,
    path: Path | None = None,
    source: dict[str, Any] | None = None,
    read_again: Callable[[], Iterable[Record]] | None = None,
) -> tuple[RecordList, CachedLatents]:
    """Encode the pictures that the cache lacks, a batch at a time, and say where every group's entries are.

    Of a record its id, prompt, rewards, label and preference are kept, and the names of its entries: in a file that is
    mapped, so that memory stays flat.

    Args:
        records: read once, in order.
        seed: of the draws from the posteriors.
        path, source: where the list of records is kept, and the state of their source, for `open_list`; None: it is not.
        read_again: reads the records anew: entries whose shard is found damaged in training are then made again.

    Raises:
        DataError: a picture is missing or damaged and `on_bad` is "error".
    """
    encoder = Encoder(cache, encoding)
    work = _Listing(encoder, on_bad, counts, path or cache.folder / "records.arrow")
    try:
        for record in records:
            work.take(record)
        encoder.flush()
        work.write()
        if not work.writer.count:
            first = f"; the first: {counts.reasons[0]}" if counts.reasons else ""
            raise DataError(f"no usable records: {counts.bad} are bad{first}")
        fine = path is not None and not encoder.broken and len(work.left_out) <= _LEFT_OUT
        kept = work.writer.finish(source if fine else None, counts, {"left_out": work.left_out if fine else []})
    except OSError as error:  # a full disk
        raise DataError(f"data.cache: cannot write in {cache.folder.parent}: {error.strerror or error}") from None
    finally:
        work.writer.discard()
    return kept, latents_of(kept, cache, encoding, seed=seed, read_again=read_again)


def latents_of(
    records: RecordList,
    cache: TensorCache,
    encoding: PictureEncoding,
    *,
    seed: int,
    read_again: Callable[[], Iterable[Record]] | None = None,
) -> CachedLatents:
    """The latents of records that are listed."""

    def encode_again(wanted: set[str]) -> None:
        if read_again is not None:
            log.warning(
                "a shard of %s was damaged: encoding the pictures of %d records again", cache.folder, len(wanted)
            )
            with encoding.borrowed():
                _encode_again(read_again(), wanted, cache, encoding)

    return CachedLatents(cache, records, encoding, seed, encode_again)


def encode_share(
    records: Iterable[Record],
    cache: TensorCache,
    encoding: PictureEncoding,
    *,
    share: Share,
    on_bad: Literal["error", "skip"],
) -> None:
    """Encode this process's share of the pictures that the cache lacks, and wait until every process has done so.

    A picture's key says whose it is, so each is encoded by one process. `encode_records`, called with the cache
    opened anew, then finds nothing to do but what the others could not encode (or did into a cache that is not shared),
    and counts bad records the same way in all processes.

    Raises:
        DataError: a picture of this share is damaged and `on_bad` is "error". The other processes wait until whoever
            started them ends them, as torchrun does.
    """
    encoder = Encoder(cache, encoding)
    for record in records:
        try:
            contents, group, bucket = _named(record, encoding)
            mine = [number for number, (key, _) in enumerate(group) if share.has(key)]
            picked = [contents[number] for number in mine], [group[number] for number in mine]
            encoder.add(dict(encoder.opened(record.id, *picked, bucket)))
        except DataError:
            if on_bad == "error":
                raise
    encoder.flush()
    share.wait()


def _encode_again(records: Iterable[Record], wanted: set[str], cache: TensorCache, encoding: PictureEncoding) -> None:
    encoder, wanted = Encoder(cache, encoding), set(wanted)
    for record in records:
        if record.id not in wanted:
            continue
        wanted.discard(record.id)
        try:
            encoder.add(dict(encoder.opened(record.id, *_named(record, encoding))))
        except DataError as error:
            log.warning("%s", error)
        if not wanted:
            break
    encoder.flush()


def _named(record: Record, encoding: PictureEncoding) -> tuple[list[bytes], Keys, int]:
    """The bytes of a record's pictures, the names of their entries, and their bucket.

    Raises:
        DataError: a picture cannot be read.
    """
    contents = [picture_bytes(item, record.id) for item in record.items]
    bucket = encoding.bucket(contents, record.id)
    return contents, encoding.keys(contents, bucket), bucket


class _Waiting(NamedTuple):
    listed: Listed
    keys: tuple[str, ...]


class _Listing:
    """Lists records in order, each once it is known whether its pictures' latents are finite."""

    def __init__(self, encoder: Encoder, on_bad: Literal["error", "skip"], counts: ReadCounts, path: Path) -> None:
        self.left_out: list[tuple[str, str]] = []  # files of records that were left out, and their states
        self._encoder = encoder
        self._on_bad = on_bad
        self._counts = counts
        self._waiting: deque[_Waiting] = deque()
        try:
            self.writer = RecordListWriter(path)
        except OSError as error:
            raise DataError(f"data.cache: cannot write in {path.parent}: {error.strerror}") from None

    def take(self, record: Record) -> None:
        files = tuple((os.path.abspath(item), FileState.of(item)) for item in record.items if isinstance(item, Path))
        try:
            contents, group, bucket = _named(record, self._encoder.encoding)
            opened = dict(self._encoder.opened(record.id, contents, group, bucket))
        except DataError as error:
            named = ", ".join(f"{Path(name).name:.60}" for name, _ in files)
            self._skip(f"{error} (its files: {named})" if named else str(error))
            if len(self.left_out) <= _LEFT_OUT:
                self.left_out += [(name, state.packed.hex()) for name, state in files]
            return
        self._encoder.add(opened)
        keys = tuple(key for pair in group for key in pair if key)
        listed = Listed(
            record.id,
            record.prompt,
            tuple(map(packed, keys)),
            record.rewards,
            record.preference,
            record.label,
            bucket,
            files,
        )
        self._waiting.append(_Waiting(listed, keys))
        if len(self._waiting) > _UNSETTLED:
            self._encoder.settle()
        self.write()

    def write(self) -> None:
        """List the records at the front that are settled."""
        while self._waiting and not any(map(self._encoder.waits, self._waiting[0].keys)):
            listed, keys = self._waiting.popleft()
            if self._encoder.broken.isdisjoint(keys):
                self.writer.add(listed)
            else:
                self._skip(f"record {listed.id!r}: the autoencoder's latents of its pictures are not finite")

    def _skip(self, reason: str) -> None:
        if self._on_bad == "error":
            raise DataError(f"{reason}; mend it, or leave such records out with data.on_bad=skip")
        self._counts.kept -= 1
        self._counts.add_bad(reason)
