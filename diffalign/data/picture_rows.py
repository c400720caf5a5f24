"""Every picture of a source as a row of its own, whatever the source's rows are: single, pairs, groups, or bare files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.data.part_files import PartFiles
from diffalign.data.records import PictureSource
from diffalign.data.row_files import LISTING
from diffalign.data.rows import id_of, picture_of
from diffalign.data.sources import Source
from diffalign.exceptions import DataError

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_PROMPTS = ("prompt", "caption", "text")  # ours, Pick-a-Pic's, and what image folders have
_SINGLE = ("file_name", "item")
_SEVERAL = (("chosen", "rejected"), ("jpg_0", "jpg_1"))


@dataclass(frozen=True)
class PictureRow:
    """One picture.

    Attributes:
        id: unique in its source; of a record with several pictures its id and which one this is.
        prompt: "" where there is none.
        picture: a file, or the bytes of one.
        columns: all that the source says of it besides.
        home: where relative paths in `columns` start.
    """

    id: str
    prompt: str
    picture: PictureSource
    columns: Mapping[str, Any]
    home: Path = Path()

    @property
    def file(self) -> Path | None:
        """Where it lies; None where its bytes stand in the source."""
        return self.picture if isinstance(self.picture, Path) else None

    @property
    def reference(self) -> PictureSource | None:
        """The picture that the column `reference` names or holds; None where there is none.

        Raises:
            DataError: it does neither.
        """
        value = self.columns.get("reference")
        return None if value is None else picture_of(value, self.home, self.id, "reference")


def read_pictures(path: Path) -> Iterator[PictureRow]:
    """The pictures of a folder or file, in its order.

    Args:
        path: what `diffalign generate` wrote; any folder, .jsonl or .parquet of records (file_name, item, items, or chosen
            and rejected, paths relative to the file that names them); or a folder of pictures, with captions in NAME.txt.

    Raises:
        DataError: missing or empty, a row without a picture, or an id that stands twice.
    """
    seen: set[str] = set()
    if path.is_dir() and PartFiles(path / LISTING).paths():
        raise DataError(f"{path}: generate has not finished there; start it again, with all of its processes")
    bare = path.is_dir() and not (path / LISTING).exists() and not any(path.glob("*.parquet"))
    for row in _bare_pictures(path) if bare else _listed_pictures(path):
        if row.id in seen:
            raise DataError(f"record {row.id!r}: this id stands twice in {path}; ids must be unique")
        seen.add(row.id)
        yield row
    if not seen:
        raise DataError(f"{path}: no pictures in it")


def _bare_pictures(folder: Path) -> Iterator[PictureRow]:
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in PICTURES and not file.name.startswith("."):
            caption = file.with_suffix(".txt")
            prompt = caption.read_text(encoding="utf-8", errors="replace").strip() if caption.is_file() else ""
            yield PictureRow(file.name, prompt, file, {})


def _listed_pictures(path: Path) -> Iterator[PictureRow]:
    for number, (row, home) in enumerate(Source(path).rows()):
        if isinstance(row, DataError):
            raise row
        name = id_of(row, {"id": "id"}, number)
        prompt = next((row[column] for column in _PROMPTS if isinstance(row.get(column), str)), "")
        for place, column, value in _cells(row, name):
            picture = picture_of(value, home, name, column)
            if place is None:
                left_out = {"id", column, "prompt"}
                told = {key: each for key, each in row.items() if key not in left_out}
                yield PictureRow(name, prompt, picture, told, home)
            else:
                shared = {key: row[key] for key in ("source", "reference") if row.get(key) is not None}
                yield PictureRow(f"{name}-{place}", prompt, picture, {"record": name, **shared}, home)


def _cells(row: Mapping[str, Any], name: str) -> list[tuple[str | None, str, Any]]:
    """Which one of the record's pictures (None: its only one), the column, and what stands there."""
    for column in _SINGLE:
        if row.get(column) is not None:
            return [(None, column, row[column])]
    if isinstance(items := row.get("items"), list) and items:
        return [(str(place), "items", value) for place, value in enumerate(items)]
    for pair in _SEVERAL:
        if all(row.get(column) is not None for column in pair):
            return [(column, column, row[column]) for column in pair]
    raise DataError(
        f"record {name!r}: names no picture; there are {', '.join(row)}, and it must be in file_name, item, items, or "
        "chosen and rejected"
    )
