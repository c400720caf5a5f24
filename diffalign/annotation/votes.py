"""The votes of a folder: votes.jsonl, one vote a line, added as people vote and never rewritten."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal, get_args

from diffalign.exceptions import DataError, SaveError

log = logging.getLogger(__name__)
FILE = "votes.jsonl"
Choice = Literal["a", "b", "tie", "bad", "skip"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
_LONGEST = 1e9  # seconds, 31 years; JSON has numbers that no float holds


@dataclass(frozen=True)
class Vote:
    """What one person said of one comparison; a line of votes.jsonl.

    Attributes:
        comparison: id of the comparison.
        prompt, a, b: what was compared; file names relative to the folder.
        vote: "a" or "b" is the better one, "tie" both are equally good, "bad" neither is any good, "skip" no answer.
        rater: who.
        order: "ab": a stood on the left; "ba": on the right.
        seconds: from both pictures being shown to the vote.
        time: of the vote, UTC, as 2026-01-01T12:00:00Z.
    """

    comparison: str
    prompt: str
    a: str
    b: str
    vote: Choice
    rater: str
    order: Literal["ab", "ba"]
    seconds: float
    time: str

    @property
    def left(self) -> bool | None:
        """Whether the picture on the left was chosen; None where neither was."""
        return None if self.vote not in ("a", "b") else self.order[0] == self.vote


def now() -> str:
    """The time as votes have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_votes(folder: Path) -> list[Vote]:
    """The votes of a folder (or of a votes.jsonl), of each person and comparison the last one; none where there is no file.

    Raises:
        DataError: a line is no vote; names it. A last line that was cut off is left out.
    """
    return list(_parse(_path(folder))[0].values())


def tally(votes: Iterable[Vote]) -> dict[str, dict[Choice, int]]:
    """How often each comparison got each answer: {comparison: {"a": 2, "b": 0, "tie": 1, "bad": 0, "skip": 0}}."""
    counted: dict[str, Counter[Choice]] = {}
    for vote in votes:
        counted.setdefault(vote.comparison, Counter())[vote.vote] += 1
    return {comparison: {choice: count[choice] for choice in CHOICES} for comparison, count in counted.items()}


class VoteFile:
    """The one writer of a folder's votes; threads may share it.

    Every vote is on the disk when `add` returns. A process that is killed leaves at most the beginning of a line, which the
    next one cuts off.
    """

    def __init__(self, folder: Path, address: str = "") -> None:
        """Lock and mend the file.

        Args:
            folder: the folder.
            address: what another process is told of this one, while this one holds the lock.

        Raises:
            DataError: another process has it, or a line is no vote.
            SaveError: it cannot be written.
        """
        self.path = _path(folder)
        self._one_at_a_time = threading.Lock()
        self._guard = _lock(self.path.with_name(".votes.lock"), address)
        try:
            self._votes, sound = _parse(self.path)
            self._file = _opened(self.path, "ab")
            if sound < (size := self._file.seek(0, os.SEEK_END)):
                log.warning("%s: its last line was cut off (%d bytes) and is removed", self.path, size - sound)
                os.ftruncate(self._file.fileno(), sound)
            if sound and not self.path.read_bytes().endswith(b"\n"):  # whole but for the end of the line
                self._append(b"\n")
        except BaseException:
            self._guard.close()
            raise

    def __enter__(self) -> VoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def votes(self) -> list[Vote]:
        """Of each person and comparison the last vote."""
        with self._one_at_a_time:
            return list(self._votes.values())

    def add(self, vote: Vote) -> None:
        """Add a vote; it takes the place of an earlier one of the same person on the same comparison.

        Raises:
            SaveError: it is not on the disk, and not counted; what was there before is unharmed.
        """
        line = json.dumps(asdict(vote), ensure_ascii=False) + "\n"
        with self._one_at_a_time:
            self._append(line.encode())
            _count(vote, self._votes)

    def close(self) -> None:
        """Release the file to others."""
        with self._one_at_a_time:
            self._file.close()
            if not self._guard.closed:
                self._guard.truncate(0)
            self._guard.close()

    def _append(self, content: bytes) -> None:
        try:
            if self._file.closed:
                raise OSError(errno.EBADF, "it is closed")
            before = self._file.seek(0, os.SEEK_END)
            try:
                if self._file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
            except OSError:
                os.ftruncate(self._file.fileno(), before)  # half a line would spoil the next one
                raise
        except OSError as error:
            raise SaveError(f"{self.path}: the vote cannot be written: {error.strerror or error}") from None


def _path(folder: Path) -> Path:
    return folder if folder.suffix == ".jsonl" else folder / FILE


def _lock(path: Path, address: str) -> IO[bytes]:
    file = _opened(path, "a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        other = file.read(300).decode("utf-8", "replace").strip()
        file.close()
        where = f" ({other}): open that address; several people can vote there at once" if other else ""
        raise DataError(f"{path.parent} is open in another diffalign annotate{where}") from None
    file.truncate(0)
    file.write(address.encode())
    file.flush()
    return file


def _opened(path: Path, mode: str) -> IO[bytes]:
    try:
        return path.open(mode, buffering=0) if mode == "ab" else path.open(mode)
    except OSError as error:
        raise SaveError(f"{path}: cannot be opened for writing: {error.strerror}") from None


def _parse(path: Path) -> tuple[dict[tuple[str, str], Vote], int]:
    """The last vote by comparison and person, and how many bytes of the file are whole lines."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}, 0
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    votes: dict[tuple[str, str], Vote] = {}
    sound = 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        vote = _vote(line)
        if vote is not None:
            _count(vote, votes)
        elif line.strip():
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}: not a vote, got {line.decode('utf-8', 'replace')!r:.100}")
        sound += len(line) + (number < len(lines))
    return votes, sound


def _count(vote: Vote, votes: dict[tuple[str, str], Vote]) -> None:
    """In the place of an earlier vote; the order is that of the votes that count."""
    votes.pop((vote.comparison, vote.rater), None)
    votes[vote.comparison, vote.rater] = vote


def _vote(line: bytes) -> Vote | None:
    try:
        row: Any = json.loads(line)
        known = {field.name: row[field.name] for field in fields(Vote)}
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    texts = all(isinstance(known[name], str) for name in ("comparison", "prompt", "a", "b", "rater", "time"))
    sound = texts and known["vote"] in CHOICES and known["order"] in ("ab", "ba")
    if not sound or not is_duration(known["seconds"]):
        return None
    return Vote(**known | {"seconds": float(known["seconds"])})


def is_duration(seconds: object) -> bool:
    """Whether it is a number of seconds that a vote can have taken."""
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= _LONGEST
