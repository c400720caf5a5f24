"""Every picture of a source as a row of its own, whatever the source's rows are: single, pairs, groups, or bare files.

Sounds, videos and meshes stand in the place of pictures wherever a row or a folder has them.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffalign.data.media_files import MEDIA_FILES, SHAPES
from diffalign.data.part_files import PartFiles
from diffalign.data.records import PictureSource
from diffalign.data.row_files import LISTING
from diffalign.data.rows import id_of, picture_of
from diffalign.data.sources import Source
from diffalign.exceptions import DataError

_PROMPTS = ("prompt", "caption", "text")  # ours, Pick-a-Pic's, and what image folders have
_SINGLE = ("file_name", "item")
_SEVERAL = (("chosen", "rejected"), ("jpg_0", "jpg_1"))
_NAMING = {*_SINGLE, "items", *(column for pair in _SEVERAL for column in pair)}  # columns that name files
_TOLD = {".jsonl", ".json", ".parquet", ".csv"}  # endings of files that say something of media
_OF_MESHES = {".bin", ".mtl"}  # buffers of glTF, materials of OBJ


@dataclass(frozen=True)
class PictureRow:
    """One picture, sound, video or mesh.

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


def read_pictures(path: Path, prompt: str = "") -> Iterator[PictureRow]:
    """The pictures, sounds, videos and meshes of a folder or file, in its order.

    Args:
        path: what `diffalign generate` wrote; any folder, .jsonl or .parquet of records (file_name, item, items, or chosen
            and rejected, paths relative to the file that names them); a folder of media files, those of the folders in it
            too, with captions in NAME.txt; or a pattern as of a shell (`drawn/*.png`,
            `drawn/**/*.wav`) of such files; or one such file.
        prompt: of those that have none.

    Raises:
        DataError: missing or empty, a row without a picture, or an id that stands twice.
    """
    seen: set[str] = set()
    for row in _rows_of(path):
        if row.id in seen:
            raise DataError(f"record {row.id!r}: this id stands twice in {path}; ids must be unique")
        seen.add(row.id)
        yield row if row.prompt or not prompt else replace(row, prompt=prompt)
    if not seen:
        raise DataError(f"{path}: no pictures in it, nor sounds, videos or meshes")


def left_out(path: Path) -> str:
    """What lies among the bare media files of a folder and is none of them, in words; "" where that is nothing.

    Captions, files that hold records or scores, and what belongs to meshes (buffers, materials) do not count.
    """
    if not path.is_dir() or (path / LISTING).exists() or any(path.glob("*.parquet")):
        return ""
    files = [each for each in path.rglob("*") if not any(part.startswith(".") for part in each.relative_to(path).parts)]
    links = sum(each.is_symlink() and not each.exists() for each in files)
    there = {each.with_suffix("") for each in files if each.suffix.lower() in MEDIA_FILES}
    known = MEDIA_FILES | _TOLD | (_OF_MESHES if any(each.suffix.lower() in SHAPES for each in files) else set())
    others = [
        each
        for each in files
        if each.is_file()
        and each.suffix.lower() not in known
        and not (each.suffix == ".txt" and each.with_suffix("") in there)
    ]
    endings = ", ".join(sorted({each.suffix.lower() or each.name for each in others})[:8])
    found = [f"{len(others)} file{'s' * (len(others) > 1)} of other kinds ({endings})"] if others else []
    found += [f"{links} broken link{'s' * (links > 1)}"] if links else []
    return ", ".join(found)


def is_pattern(path: Path) -> bool:
    """Whether it is a pattern of files, and not one of them."""
    return glob.has_magic(str(path)) and not path.exists()


def bare_row(file: Path, name: str) -> PictureRow:
    """A media file by itself, with the caption that stands beside it in NAME.txt."""
    caption = file.with_suffix(".txt")
    prompt = caption.read_text(encoding="utf-8", errors="replace").strip() if caption.is_file() else ""
    return PictureRow(name, prompt, file, {})


def with_whole_paths(row: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """A record whose paths start at `home`, as one whose paths hold wherever it stands."""

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(each) for each in value]
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return value | {"path": str(home / value["path"])}
        return str(home / value) if isinstance(value, str) and value else value

    whole = {column: placed(value) if column in _NAMING else value for column, value in row.items()}
    reference = row.get("reference")  # of somebody else's column with this name nothing is changed
    if isinstance(reference, str) and (home / reference).is_file():
        whole["reference"] = str(home / reference)
    return whole


def _rows_of(path: Path) -> Iterator[PictureRow]:
    if is_pattern(path):
        first = next(place for place, part in enumerate(path.parts) if glob.has_magic(part))
        root = Path(*path.parts[:first])
        return _bare_pictures(map(Path, glob.glob(str(path), recursive=True)), root)
    if path.is_file() and path.suffix.lower() in MEDIA_FILES:
        return _bare_pictures([path], path.parent)
    if path.is_dir() and PartFiles(path / LISTING).paths():
        raise DataError(f"{path}: generate has not finished there; start it again, with all of its processes")
    if path.is_dir() and not (path / LISTING).exists() and not any(path.glob("*.parquet")):
        return _bare_pictures(path.rglob("*"), path)
    return _listed_pictures(path)


def _bare_pictures(files: Iterable[Path], root: Path) -> Iterator[PictureRow]:
    for file in sorted(files):
        name = file.relative_to(root)
        if any(part.startswith(".") for part in name.parts) or not file.is_file():
            continue
        if file.name == LISTING and len(name.parts) > 1:
            raise DataError(f"{file}: records among bare files; give {file.parent} by itself, with its prompts")
        if file.suffix.lower() in MEDIA_FILES:
            yield bare_row(file, name.as_posix())


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
