"""Tensors kept on disk by the hash of what they were made from, so that a changed picture or model is never served stale.

A cache is a folder of shards: `NAME.safetensors` holds tensors [entries, ...], `NAME.json` the keys of its entries, the
shard's size and its sha256. Both are written under temporary names and renamed, the keys last; a shard without keys does
not exist. Shards are named by a hash of their content and keys, so several writers do not disturb each other, and a list
of keys that was damaged does not fit its name. `index` gathers the lists: it is made again from them where it is absent,
damaged or behind, and mapped, so that memory does not grow with the cache.

A shard's hash is checked when an entry of it is first asked for: opening a large cache reads the index alone. At most
`OPEN` shards are mapped at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffalign.data.key_table import KEY, KeyTable, packed, remove_abandoned, write_whole
from diffalign.exceptions import DataError

log = logging.getLogger(__name__)
OPEN = 64  # shards that are mapped at a time
_INDEX = "index"
_LISTED = 4096  # entries that are read from their shards' lists before it pays to write the index again
_GROWN = 65_536  # ... and that are held in memory while a cache is filled
_ROW = 32  # bits of a place that hold the row within its shard


def content_key(*parts: str | bytes) -> str:
    """A hash of everything that an entry depends on."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:40]


class DamagedShardError(DataError):
    """An entry was lost with its shard, which was damaged and has been removed."""


class TensorCache:
    """Named tensors for each key."""

    def __init__(self, folder: Path) -> None:
        """Read the index; a shard that is missing or cut short is removed, and its entries are made again.

        The folder is made when the first shard is written.
        """
        self.folder = folder
        self._table = KeyTable()
        self._names: list[str] = []  # of shards, by number
        self._sizes: list[int] = []  # bytes
        self._numbers: dict[str, int] = {}
        self._gone: set[int] = set()  # shards that were removed
        self._checked: set[int] = set()  # shards whose hash was right
        self._open: OrderedDict[int, Any] = OrderedDict()
        if folder.is_dir():
            remove_abandoned(folder)
            self._read_index()
            self.refresh()

    def __contains__(self, key: str) -> bool:
        return self._place(key) is not None

    def __len__(self) -> int:
        return int(self._alive(self._table.values).sum())

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys that are not there yet, each once, in order."""
        wanted = list(dict.fromkeys(keys))
        there = self.has(np.array([packed(key) for key in wanted], KEY))
        return [key for key, known in zip(wanted, there.tolist(), strict=True) if not known]

    def has(self, keys: np.ndarray) -> np.ndarray:
        """Which of the packed keys [n] are there."""
        places = self._table.find_all(keys)
        return (places >= 0) & self._alive(places)

    def add(self, keys: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        """Write one shard: tensors [keys, ...].

        Raises:
            DataError: the folder cannot be made or written.
        """
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(content).hexdigest()
        name = content_key(digest, *keys)
        listing = json.dumps({"sha256": digest, "bytes": len(content), "keys": list(keys)}).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f"{name}.safetensors", [content])
            write_whole(self.folder / f"{name}.json", [listing])
        except OSError as error:
            raise DataError(f"data.cache: cannot write in {self.folder}: {error.strerror}") from None
        self._list(name, len(content), keys)
        if self._table.unsaved > _GROWN:
            self._write_index()

    def get(self, key: str, parts: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The tensors of one entry, without the leading axis; all of them, or those of the names `parts`.

        Raises:
            DamagedShardError: the entry's shard is damaged, or gone; it is removed, so that the entry is missing from now
                on.
            DataError: the shard cannot be read.
        """
        try:
            return self._entry(key, parts)
        except DamagedShardError:
            self.refresh()  # another process may have made it again
            if key not in self:
                raise
            return self._entry(key, parts)

    def stack(self, keys: Sequence[str], parts: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The tensors of several entries [keys, ...]."""
        entries = [self.get(key, parts) for key in keys]
        return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}

    def refresh(self) -> None:
        """Take in what other writers have added or removed."""
        there = {name.removesuffix(".json") for name in os.listdir(self.folder) if name.endswith(".json")}
        for name in self._numbers.keys() - there:
            self._forget(self._numbers[name])
        for name in sorted(there):
            number = self._numbers.get(name, -1)
            if number < 0 or number in self._gone:
                self._read_listing(self.folder / f"{name}.json")
        if self._table.unsaved > _LISTED:
            self._write_index()

    # ------------------------------------------------------------ which entries there are

    def _place(self, key: str) -> tuple[int, int] | None:
        """(shard, row)."""
        place = self._table.find(packed(key))
        shard, row = place >> _ROW, place & (1 << _ROW) - 1
        return None if place < 0 or shard in self._gone else (shard, row)

    def _alive(self, places: np.ndarray) -> np.ndarray:
        if not self._gone:
            return np.ones(len(places), bool)
        return ~np.isin(places >> _ROW, list(self._gone))

    def _list(self, name: str, size: int, keys: Sequence[str]) -> None:
        number = self._numbers.setdefault(name, len(self._names))
        if number == len(self._names):
            self._names.append(name)
            self._sizes.append(size)
        self._gone.discard(number)
        self._close(number)
        self._table.put(map(packed, keys), range(number << _ROW, (number << _ROW) + len(keys)))

    def _read_listing(self, listing: Path) -> None:
        seen = _files_of(self.folder, listing.stem)
        try:
            content = json.loads(listing.read_text())
            keys, digest = list(content["keys"]), content["sha256"]
            size = listing.with_suffix(".safetensors").stat().st_size
            whole = content.get("bytes", size) == size  # old lists have no size
            whole = whole and content_key(digest, *keys) == listing.stem
        except FileNotFoundError:
            whole = False
            if not listing.exists():
                return  # another process has removed it since
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if whole:
            self._list(listing.stem, size, keys)
        else:
            log.warning("cache shard %s is damaged: its entries are made again", listing.stem)
            _unlink(self.folder, listing.stem, seen)

    def _read_index(self) -> None:
        """The entries as the index has them, unless a shard of it is not as it says."""
        if not self._table.load(self.folder / _INDEX):
            return
        shards: dict[str, int] = self._table.about["shards"]
        sizes = {
            entry.name.removesuffix(".safetensors"): entry.stat().st_size
            for entry in os.scandir(self.folder)
            if entry.name.endswith(".safetensors")
        }
        if any(sizes.get(name) != size for name, size in shards.items()):
            self._table = KeyTable()  # the lists of keys say it all
            return
        self._names, self._sizes = list(shards), list(shards.values())
        self._numbers = {name: number for number, name in enumerate(self._names)}

    def _write_index(self) -> None:
        if self._gone:
            self._renumber()
        try:
            self._table.save(self.folder / _INDEX, {"shards": dict(zip(self._names, self._sizes, strict=True))})
        except OSError as error:
            log.debug("the index of %s cannot be written: %s", self.folder, error)

    def _renumber(self) -> None:
        """Forget the shards that were removed for good."""
        places, kept = self._table.values, [each for each in range(len(self._names)) if each not in self._gone]
        new = np.zeros(len(self._names), np.int64)
        new[kept] = np.arange(len(kept))
        self._table.keep(self._alive(places), new[places >> _ROW] << _ROW | places & (1 << _ROW) - 1)
        self._names, self._sizes = [self._names[each] for each in kept], [self._sizes[each] for each in kept]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._checked = {int(new[each]) for each in self._checked}
        self._gone.clear()
        self._open.clear()

    # ------------------------------------------------------------ shards

    def _entry(self, key: str, parts: Sequence[str] | None) -> dict[str, Tensor]:
        place = self._place(key)
        if place is None:
            raise DamagedShardError(f"data.cache: an entry is no longer in {self.folder}; {_START_AGAIN}")
        shard, row = place
        reader = self._reader(shard)
        # copies: what is mapped goes when its shard is closed
        return {part: reader.get_slice(part)[row : row + 1][0].clone() for part in parts or reader.keys()}

    def _reader(self, number: int) -> Any:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        name = self._names[number]
        path = self.folder / f"{name}.safetensors"
        seen = _files_of(self.folder, name)
        try:
            if number not in self._checked:
                digest = json.loads(path.with_suffix(".json").read_text())["sha256"]
                with path.open("rb") as file:
                    whole = hashlib.file_digest(file, "sha256").hexdigest() == digest
                if not whole:
                    raise SafetensorError("hash")
            reader = safe_open(path, framework="pt")
        except (FileNotFoundError, SafetensorError, ValueError, KeyError, TypeError):
            self._forget(number)
            _unlink(self.folder, name, seen)
            raise DamagedShardError(f"data.cache: {path} is damaged and was removed; {_START_AGAIN}") from None
        except OSError as error:
            raise DataError(f"data.cache: cannot read {path}: {error.strerror}") from None
        self._checked.add(number)
        self._open[number] = reader
        if len(self._open) > OPEN:
            self._open.popitem(last=False)
        return reader

    def _forget(self, number: int) -> None:
        self._gone.add(number)
        self._close(number)

    def _close(self, number: int) -> None:
        self._checked.discard(number)
        self._open.pop(number, None)


_START_AGAIN = "start again (diffalign train --resume RUN), and its entries are made anew"


def _files_of(folder: Path, shard: str) -> list[tuple[int, int] | None]:
    """Inode and time of its two files; None where there is none."""
    found: list[tuple[int, int] | None] = []
    for suffix in (".json", ".safetensors"):
        try:
            file = os.stat(folder / f"{shard}{suffix}")
            found.append((file.st_ino, file.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


def _unlink(folder: Path, shard: str, seen: list[tuple[int, int] | None]) -> None:
    """Remove a damaged shard, unless another process has made it again since its files were `seen`."""
    if _files_of(folder, shard) != seen:
        return
    try:
        for suffix in (".json", ".safetensors"):
            (folder / f"{shard}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"data.cache: {folder / shard}.safetensors is damaged, and cannot be removed: {error.strerror}"
        ) from None
