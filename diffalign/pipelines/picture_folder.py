"""A folder of drawn pictures and its listing, kept whole however many processes draw into it and whenever they end."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from diffalign.data.part_files import PartFiles
from diffalign.exceptions import ConfigError

Row = dict[str, object]
_LISTING = "metadata.jsonl"
_VOTES = "votes.jsonl"  # of diffalign annotate
_OURS = {"id", "file_name", "prompt", "seed", "steps"}  # what every record of ours has
_START = '{"id": "'  # of its line


class PictureFolder:
    """Pictures and their listing: what is listed is whole, at every moment.

    One process adds each record to metadata.jsonl as soon as its picture is there. Several add them to their parts, and
    the last one to finish makes metadata.jsonl of all.

    Attributes:
        parts: which of how many processes this is.
        rows: the records that are listed, by id.
    """

    def __init__(self, out: Path, rank: int = 0, world: int = 1, *, overwrite: bool = False) -> None:
        """Read what is there.

        Args:
            overwrite: pictures that are not wanted, or have other settings, may go; else they are refused.

        Raises:
            ConfigError: `out` lists something that was not drawn here; or several processes are to overwrite.
        """
        if overwrite and world > 1:
            raise ConfigError("overwrite: is for one process, which leaves no wrong record for a moment")
        self.out, self.listing, self._overwrite = out, out / _LISTING, overwrite
        self.parts = PartFiles(self.listing, rank, world)
        self.rows: dict[object, Row] = {}
        self._text: str | None = None  # of the listing, unless records were added since
        self._alone = world == 1
        self._dropped: list[Path] = []
        self._look()

    def drop_all_but(self, ids: Container[object]) -> None:
        """Take the records of other pictures out, and their files when `prepare` has written so.

        Raises:
            ConfigError: there are some, and they may not go.
        """
        others = [row for name, row in self.rows.items() if name not in ids]
        if others:
            self._refuse(f"has {len(others)} pictures that this call does not draw, {others[0]['file_name']} for one")
        self._dropped = [self.out / str(row["file_name"]) for row in others]
        self.rows = {name: row for name, row in self.rows.items() if name in ids}

    def prepare(self, wanted: Sequence[Row]) -> set[object]:
        """The ids of those records whose pictures are there; records of what will be overwritten go first.

        Raises:
            ConfigError: the folder cannot be made; or pictures of other settings would be overwritten, and may not.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"out: cannot make {self.out}: {error.strerror}") from None
        for row in wanted:
            old = self.rows.get(row["id"], row)
            if old != row:
                differing = ", ".join(f"{key}: {old.get(key)!r}" for key in row if old.get(key) != row[key])
                self._refuse(f"holds pictures of other prompts or settings ({row['file_name']} has {differing:.200})")
        whole = {row["id"] for row in wanted if self._has(row)}
        lost = [row["id"] for row in wanted if row["id"] in self.rows and row["id"] not in whole]
        for name in lost:
            del self.rows[name]
        if self._alone and (lost or self._text is not None):
            self._write(_lines(self.rows.values()))
            self.parts.remove()
            for picture in self._dropped:
                picture.unlink(missing_ok=True)
        return whole

    def add(self, row: Row) -> None:
        """List a picture that was just written."""
        self.rows[row["id"]] = row
        self._text = None
        if self._alone:
            with self.listing.open("a", encoding="utf-8", newline="\n") as file:
                file.write(_lines([row]))
        else:
            self.parts.add([row])

    def finish(self, rows: Sequence[Row]) -> bool:
        """Write the listing in this order, if every record is there; whether it is."""
        if not self._alone:
            self._look()  # at what the others did meanwhile
            if not all(map(self._has, rows)):
                return False
        self._write(_lines(rows))
        self.parts.remove()
        return True

    def _look(self) -> None:
        parts = {row["id"]: row for row in self.parts.read() if row.keys() >= _OURS}
        self._text, rows = _read(self.listing)  # second: who joins the parts writes it before they go
        self.rows = rows | parts

    def _has(self, row: Row) -> bool:
        return self.rows.get(row["id"]) == row and (self.out / str(row["file_name"])).is_file()

    def _refuse(self, what: str) -> None:
        """Unless they may be overwritten; what people voted on may not even then."""
        if not self._overwrite:
            raise ConfigError(f"out: {self.out} {what}; choose another folder, or give --overwrite")
        if (self.out / _VOTES).exists():
            raise ConfigError(
                f"out: {self.out} {what}, and {_VOTES} has votes on its pictures; move that file away to overwrite them"
            )

    def _write(self, text: str) -> None:
        if text == self._text:
            return
        draft = self.listing.with_name(f".{_LISTING}.partial") if self._alone else self.parts.draft
        draft.write_text(text, encoding="utf-8", newline="\n")
        try:
            os.replace(draft, self.listing)
        except FileNotFoundError:
            if self._alone:
                raise  # else another process has written the same listing, and tidied up
        self._text = text


def _read(listing: Path) -> tuple[str, dict[object, Row]]:
    """The text of a listing, and its records by id.

    Raises:
        ConfigError: it lists something else, which would be lost.
    """
    if not listing.exists():
        return "", {}
    try:
        text = listing.read_bytes().decode("utf-8", errors="replace")
        *lines, last = text.split("\n")
        if not _is_cut_off(last):
            lines.append(last)
        rows = [json.loads(line) for line in lines if line.strip()]
        ours = all(row.keys() >= _OURS for row in rows)
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise ConfigError(f"out: {listing} lists something that generate did not draw; choose another folder")
    return text, {row["id"]: row for row in rows}


def _is_cut_off(line: str) -> bool:
    """Whether it is the beginning of a record of ours: its picture is drawn again."""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith(_START) or _START.startswith(line)
    return False


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
