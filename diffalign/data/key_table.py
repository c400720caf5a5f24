"""A table from hashes to numbers that stays small: 28 bytes an entry, on disk once there are many."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 20  # bytes of a key
KEY = np.dtype(f"S{WIDTH}")
_FOLD = 4096  # entries that are held as Python objects at least, before they are sorted in
_MAGIC = b"diffalign keys 1\n"


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
        if len(self._recent) > max(_FOLD, len(self._keys) // 8):
            self._fold()

    def add(self, key: bytes) -> bool:
        """Put a key without a number; whether it is new."""
        new = self.find(key) < 0
        if new:
            self.put([key], [0])
        return new

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
        keys = np.array(list(self._recent), KEY)
        values = np.array(list(self._recent.values()), np.int64)
        order = np.argsort(keys)
        keys, values = keys[order], values[order]
        self._recent = {}
        if len(self._keys):
            places = np.searchsorted(self._keys, keys)
            known = self._keys[np.minimum(places, len(self._keys) - 1)] == keys
            old = np.ones(len(self._keys), bool)
            old[places[known]] = False
            rest = self._keys[old]
            places = np.searchsorted(rest, keys)
            keys, values = np.insert(rest, places, keys), np.insert(self._values[old], places, values)
        self._keys, self._values = keys, values

    # ------------------------------------------------------------ on disk

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write the table beside what it is `about`, whole or not at all, and map the file from then on.

        Raises:
            OSError: the file cannot be written.
        """
        self._fold()
        content = [np.ascontiguousarray(self._keys).data, np.ascontiguousarray(self._values).data]
        header = {"count": len(self._keys), "sha256": _digest(content), "about": about}
        text = _MAGIC + json.dumps(header).encode() + b"\n"
        text += b" " * (-len(text) % 8)  # numbers start at a multiple of 8
        write_whole(path, [text, content[1], content[0]])
        self.load(path)

    def load(self, path: Path) -> bool:
        """Map what `save` wrote; False, and nothing is changed, where the file is not there or not whole."""
        try:
            with path.open("rb") as file:
                if file.readline() != _MAGIC:
                    return False
                header = json.loads(file.readline())
                start = file.tell() + -file.tell() % 8
                count, digest, about = int(header["count"]), header["sha256"], header["about"]
                if os.fstat(file.fileno()).st_size != start + count * (WIDTH + 8):
                    return False
                if count:
                    values: np.ndarray = np.memmap(file, np.int64, "r", start, (count,))
                    keys: np.ndarray = np.memmap(file, KEY, "r", start + 8 * count, (count,))
                else:
                    keys, values = np.empty(0, KEY), np.empty(0, np.int64)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if _digest([keys.data, values.data]) != digest:
            return False
        self._keys, self._values, self._recent, self.about = keys, values, {}, about
        return True


def write_whole(path: Path, parts: Sequence[Any]) -> None:
    """Write bytes under a name of their own, then rename: readers see all of a file or none.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    draft = draft_of(path)
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


def _digest(parts: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
