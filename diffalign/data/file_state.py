"""Whether a file is still the one that was read: by size, times and inode, as git and make tell."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

SETTLED = 2_000_000_000  # nanoseconds: what was changed later than this before it was read may change again unseen
_PACKING = struct.Struct("<4q")
STATE = _PACKING.size


class FileState(NamedTuple):
    """What a file system says of a file; all -1 where there is none, all 0 where it cannot be relied on."""

    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds; of the inode, which no program sets at will
    inode: int

    @classmethod
    def of(cls, path: Path | str) -> FileState:
        """Ask before the file is read: a change while it is read then counts as one after.

        It cannot be relied on where the last change lies so little back now that a later one might not show.
        """
        try:
            seen = os.stat(path)
        except OSError:
            return cls(-1, -1, -1, -1)
        if max(seen.st_mtime_ns, seen.st_ctime_ns) >= time.time_ns() - SETTLED:
            return cls(0, 0, 0, 0)
        return cls(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)

    @property
    def settled(self) -> bool:
        """Whether it could be relied on when it was asked for."""
        return any(self)

    @property
    def packed(self) -> bytes:
        return _PACKING.pack(*self)

    def is_still(self, packed: bytes) -> bool:
        """Whether it is what was packed; never so if it cannot be relied on."""
        return self.settled and self.packed == packed


def state_of(files: Iterable[Path]) -> dict[str, Any] | None:
    """The state of source files, to be compared for equality; None where one of them cannot be relied on."""
    states = {str(path): FileState.of(path) for path in sorted(files)}
    if not all(state.settled for state in states.values()):
        return None
    return {"files": {name: list(state) for name, state in states.items()}}
