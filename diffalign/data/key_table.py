"""A table from hashes to numbers that stays small: 28 bytes an entry, on disk once there are many."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

WIDTH = 20  # bytes of a key
KEY = np.dtype(f"S{WIDTH}")
_ABANDONED = 86_400.0  # seconds: a draft this old has no writer any more
_FOLD = 4096  # entries that are held as Python objects at least, before they are sorted in
_BLOCK = 65_536  # entries that are copied at a time
_MAGIC = b"diffalign keys 2\n"
_START = 256  # bytes of the head


def packed(key: str) -> bytes:
    """20 bytes for a key: those that its 40 hexadecimal digits spell, or a hash of any other text."""
    if len(key) == 2 * WIDTH:
        try:
            return bytes.fromhex(key)
        except ValueError:
            pass
    return hashlib.blake2b(key.encode(), digest_size=WIDTH).digest()


class KeyTable:
    """20-byte keys -> numbers from 0 up to 2^63. What was put last counts.

    Attributes:
        about: what `save` noted beside the entries.
    """

    def __init__(self) -> None:
        self._keys: np.ndarray = np.empty(0, KEY)  # sorted, each once
        self._values: np.ndarray = np.empty(0, np.int64)
        self._recent: dict[bytes, int] = {}
        self.about: dict[str, Any] = {}

    def __len__(self) -> int:
        self._fold()
        return len(self._keys)

    @property
    def unsaved(self) -> int:
        """Entries that are not in the file that was loaded or saved last."""
        return len(self._recent) + (0 if isinstance(self._keys, np.memmap) else len(self._keys))

    def find(self, key: bytes) -> int:
        """The number; -1 where there is none."""
        found = self._recent.get(key)
        return int(self._find_sorted(np.array([key], KEY))[0]) if found is None else found

    def find_all(self, keys: np.ndarray) -> np.ndarray:
        """The numbers of keys [n] (S20); -1 where there is none."""
        found = self._find_sorted(keys)
        if self._recent:
            for row, key in enumerate(keys.tolist()):  # numpy drops zeros at a key's end
                found[row] = self._recent.get(key.ljust(WIDTH, b"\0"), found[row])
        return found

    def _find_sorted(self, keys: np.ndarray) -> np.ndarray:
        if not len(self._keys):
            return np.full(len(keys), -1, np.int64)
        order = np.argsort(keys) if len(keys) > 1 else np.zeros(len(keys), np.int64)  # neighbours lie in one page
        places = np.minimum(np.searchsorted(self._keys, keys[order]), len(self._keys) - 1)
        found = np.empty(len(keys), np.int64)
        found[order] = np.where(self._keys[places] == keys[order], self._values[places], -1)
        return found

    def put(self, keys: Iterable[bytes], values: Iterable[int]) -> None:
        self._recent.update(zip(keys, values, strict=True))
        if not isinstance(self._keys, np.memmap) and len(self._recent) > max(_FOLD, len(self._keys) // 8):
            self._fold()

    def keep(self, wanted: np.ndarray, values: np.ndarray) -> None:
        """Let the entries go that `wanted` [entries] does not mark, and give the others these numbers.

        Both are in the order of `values`.
        """
        self._fold()
        self._keys, self._values = np.asarray(self._keys[wanted]), values[wanted]

    @property
    def values(self) -> np.ndarray:
        """All numbers, in the order of their keys."""
        self._fold()
        return self._values

    def _fold(self) -> None:
        if not self._recent:
            return
        blocks = list(self._merged())
        self._recent = {}
        self._keys, self._values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))

    def _merged(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All entries in the order of their keys, a block at a time."""
        keys = np.array(list(self._recent), KEY)
        values = np.array(list(self._recent.values()), np.int64)
        order = np.argsort(keys)
        keys, values = keys[order], values[order]
        places = np.searchsorted(
            self._keys, keys
        )  # before which of the sorted ones each recent one comes, or which it is
        for start in range(0, max(len(self._keys), 1), _BLOCK):
            stop = min(start + _BLOCK, len(self._keys))
            block, numbers = self._keys[start:stop], self._values[start:stop]
            low = np.searchsorted(places, start)
            high = len(places) if stop == len(self._keys) else np.searchsorted(places, stop)
            own, given, at = keys[low:high], values[low:high], places[low:high] - start
            if len(block):
                known = (at < len(block)) & (block[np.minimum(at, len(block) - 1)] == own)
                old = np.ones(len(block), bool)
                old[at[known]] = False
                at = at - np.searchsorted(at[known], at)  # those before it that go
                block, numbers = block[old], numbers[old]
            yield np.insert(block, at, own), np.insert(numbers, at, given)

    # ------------------------------------------------------------ on disk

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write the table beside what it is `about`, whole or not at all, and map the file from then on.

        What is mapped already is copied a block at a time: memory does not grow with the table.

        Raises:
            OSError: the file cannot be written.
        """
        draft, keys = draft_of(path), draft_of(path)
        count = 0
        try:
            with draft.open("wb") as file, keys.open("w+b") as aside:
                file.write(bytes(_START))
                for block, numbers in self._merged():
                    file.write(np.ascontiguousarray(numbers).data)
                    aside.write(np.ascontiguousarray(block).data)
                    count += len(block)
                aside.seek(0)
                shutil.copyfileobj(aside, file)
                file.write(json.dumps(about).encode())
            with draft.open("r+b") as file:
                file.seek(_START)
                header = _MAGIC + json.dumps({"count": count, "sha256": file_digest(file).hex()}).encode()
                file.seek(0)
                file.write(header.ljust(_START - 1) + b"\n")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
            keys.unlink(missing_ok=True)
        self.load(path)

    def load(self, path: Path) -> bool:
        """Map what `save` wrote; False, and nothing is changed, where the file is not there or not whole."""
        try:
            with path.open("rb") as file:
                start = file.read(_START)
                if not start.startswith(_MAGIC):
                    return False
                header = json.loads(start[len(_MAGIC) :])
                count = int(header["count"])
                if file_digest(file).hex() != header["sha256"]:
                    return False
                file.seek(_START + count * (WIDTH + 8))
                about = json.loads(file.read())
                if count:
                    values: np.ndarray = np.memmap(file, np.int64, "r", _START, (count,))
                    keys: np.ndarray = np.memmap(file, KEY, "r", _START + 8 * count, (count,))
                else:
                    keys, values = np.empty(0, KEY), np.empty(0, np.int64)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._keys, self._values, self._recent, self.about = keys, values, {}, about
        return True


class KeySet:
    """Which 20-byte keys have come: some 22 bytes for each."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = [np.empty(0, KEY)] * 256  # sorted, by first byte: one is sorted anew at a time
        self._recent: list[set[bytes]] = [set() for _ in range(256)]

    def add(self, key: bytes) -> bool:
        """Put a key in; whether it is new."""
        keys, recent = self._parts[key[0]], self._recent[key[0]]
        wanted = np.array([key], KEY)
        place = int(np.searchsorted(keys, wanted)[0])
        if key in recent or bool((keys[place : place + 1] == wanted).any()):
            return False
        recent.add(key)
        if len(recent) > 32 + len(keys) // 16:
            self._parts[key[0]] = np.sort(np.concatenate([keys, np.array(list(recent), KEY)]))
            recent.clear()
        return True


def write_whole(path: Path, parts: Iterable[Any], draft: Path | None = None) -> None:
    """Write bytes under a name of their own (`draft`), then rename: readers see all of a file or none.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    draft = draft or draft_of(path)
    try:
        with draft.open("wb") as file:
            for part in parts:
                file.write(part)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def draft_of(path: Path) -> Path:
    """A name beside `path` that no other writer has."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def remove_abandoned(folder: Path) -> None:
    """Drafts of writers that were killed. Their age tells: a writer may run on another machine."""
    for draft in folder.glob(".*.partial"):
        try:
            if time.time() - draft.stat().st_mtime > _ABANDONED:
                draft.unlink()
        except OSError:
            pass  # another process was faster


def file_digest(file: BinaryIO) -> bytes:
    """Of a file from where it stands to its end."""
    digest = hashlib.sha256()
    while part := file.read(2**20):
        digest.update(part)
    return digest.digest()
