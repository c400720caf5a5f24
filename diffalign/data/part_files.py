"""Lines that several processes write for one file, each into a part of its own; the last one to finish joins the parts.

No process waits for another, and they need not run at one time. A part is only added to, a line at a time, so that a
process that is killed loses at most the line that it was writing.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.exceptions import ConfigError

_PATIENCE = 10.0  # seconds that a process may have to end, whose parent was killed


@dataclass(frozen=True)
class PartFiles:
    """The parts of one file.

    Attributes:
        target: the file that they become.
        rank, world: which of how many processes this one is.
    """

    target: Path
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be from 0 to {self.world - 1}, got {self.rank}")

    @property
    def own(self) -> Path:
        """The part of this process."""
        return self._named(f"{self.rank}-of-{self.world}")

    @property
    def draft(self) -> Path:
        """Where this process may write what will become the file; `remove` removes it too."""
        return self._named(f"{self.rank}-of-{self.world}.partial")

    @contextmanager
    def held(self) -> Iterator[None]:
        """As the only process of its rank: two calls that write one file at a time would lose what one of them did.

        Raises:
            ConfigError: another process has it; it lets go of it however it ends.
        """
        path = self.target.with_name(f".{self.target.name}.lock-{self.rank}-of-{self.world}")
        until = time.monotonic() + _PATIENCE
        while True:
            lock = path.open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and path.stat().st_ino == os.fstat(lock.fileno()).st_ino:  # not one that was let go of
                    break
            except BlockingIOError:
                if time.monotonic() > until:
                    lock.close()
                    raise ConfigError(
                        f"out: another call is writing {self.target}; wait until it has ended, or write elsewhere"
                    ) from None
                time.sleep(0.1)
            lock.close()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.close()

    def has(self, number: int, block: int = 1) -> bool:
        """Whether piece `number` of the work, dealt out in blocks of `block`, is this process's."""
        return number // block % self.world == self.rank

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to this process's part. It is opened anew, for another one may have joined it away meanwhile."""
        if not rows:
            return
        with self.own.open("ab+") as file:
            if file.tell():  # a process that was killed may have left the beginning of a line
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace"))

    def read(self) -> Iterator[dict[str, Any]]:
        """What all parts hold, also those of an earlier number of processes; a line that was cut off is left out."""
        for path in self.paths():
            if path.suffix == ".partial":
                continue
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # another process has joined the parts just now
                continue
            for line in content.decode("utf-8", errors="replace").split("\n"):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    yield row

    def paths(self) -> list[Path]:
        """The parts that there are, and drafts that were left behind."""
        return sorted(self.target.parent.glob(f".{glob.escape(self.target.name)}.part-*-of-*"))

    def remove(self) -> None:
        """Remove all parts, once what they hold stands in the file."""
        for path in self.paths():
            path.unlink(missing_ok=True)

    def keep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Remove all parts but for these lines of them, which become this process's part."""
        if not rows:
            self.remove()
            return
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.draft.write_bytes(lines.encode("utf-8", "replace"))
        os.replace(self.draft, self.own)
        for path in self.paths():
            if path != self.own:
                path.unlink(missing_ok=True)

    def _named(self, part: str) -> Path:
        return self.target.with_name(f".{self.target.name}.part-{part}")
