"""Scores that are known already, by what the picture holds: no change of a picture, prompt or reward is overlooked."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from diffalign.data.file_state import FileState
from diffalign.data.judged import versions_in
from diffalign.data.media_files import SHAPES
from diffalign.data.part_files import PartFiles
from diffalign.data.picture_rows import PictureRow
from diffalign.data.records import PictureSource, picture_bytes
from diffalign.data.row_files import csv_rows
from diffalign.data.sources import Source
from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import RewardSpec
from diffalign.rewards.cache import score_key
from diffalign.rgb import FORM
from diffalign.sim.gltf import files_beside

REFERENCE_DIGEST = "reference_picture"  # the column that says which reference a row's scores are of
METADATA_DIGEST = "metadata_digest"  # and which metadata, where a reward has read them
_BLOCK = "block"


class Score(NamedTuple):
    """What a reward says of one picture.

    Attributes:
        value: None where it is unscored.
        reason: why it is.
        components: None where they were not asked for.
    """

    value: float | None
    reason: str | None = None
    components: Mapping[str, float | None] | None = None


@dataclass
class KnownScores:
    """Scores by key, and the digests of picture files by path, from earlier calls and other processes.

    Attributes:
        scores: by `score_key`.
        digests: path -> (state, digest).
    """

    scores: dict[str, Score] = field(default_factory=dict)
    digests: dict[str, tuple[str, str]] = field(default_factory=dict)

    def digest(self, picture: PictureSource, record: str) -> str:
        """Of all that is read of the picture; what is as it was is not read again.

        Of a mesh that is its ending too, which says what the bytes mean and which axis is up, and the files beside it.

        Raises:
            DataError: it cannot be read; names the record.
        """
        if not isinstance(picture, Path):
            return digest_of(picture_bytes(picture, record))
        is_shape = picture.suffix.lower() in SHAPES
        files = [picture, *_beside(picture)] if is_shape else [picture]
        states = [FileState.of(each) for each in files]
        told = (b"mesh" * is_shape + b"".join(each.packed for each in states)).hex()
        seen, known = self.digests.get(str(picture), ("", ""))
        if told != seen or not all(each.settled for each in states):
            known = _digest_of_mesh(files, record) if is_shape else digest_of(picture_bytes(picture, record))
            self.digests[str(picture)] = (told, known)
        return known

    def add_parts(self, parts: PartFiles, *, failures: bool) -> None:
        """What the lines of `part_line` say; with `failures`, also what could not be scored."""
        for line in (each for block in parts.read() for each in block.get(_BLOCK, ())):
            if line["file"] is not None:
                self.digests[line["file"]] = (line["state"], line["picture"])
            for key, (value, reason, components) in line["scores"].items():
                if failures or value is not None:
                    self.scores[key] = Score(value, reason, components)

    def others_in(self, parts: PartFiles, keys: Container[str]) -> list[dict[str, Any]]:
        """The lines of parts that hold scores of other keys than these, with those alone."""
        found = []
        for block in parts.read():
            lines = []
            for line in block.get(_BLOCK, ()):
                scores = {key: each for key, each in line["scores"].items() if key not in keys and each[0] is not None}
                lines += [line | {"scores": scores}] if scores else []
            found += self.part_of(lines)
        return found

    def add_rows(self, file: Path, specs: Mapping[str, RewardSpec], *, failures: bool) -> None:
        """What an earlier call wrote, by columns of the same rewards; with `failures`, also what could not be scored.

        Raises:
            ConfigError: the file was not written by an earlier call.
        """
        for row in scored_rows(file):
            versions = versions_in(row)
            for column, spec in specs.items():
                value, reason = row.get(column), row.get(f"{column}_reason")
                if versions.get(column) != spec.version or not row.get("picture") or (value is None and not failures):
                    continue
                parts = {
                    name.removeprefix(f"{column}."): None if each is None else float(each)
                    for name, each in row.items()
                    if name.startswith(f"{column}.")
                }
                reference, metadata = (str(row.get(name) or "") for name in (REFERENCE_DIGEST, METADATA_DIGEST))
                key = score_key(spec, str(row.get("prompt") or ""), str(row["picture"]), reference, metadata)
                self.scores[key] = Score(None if value is None else float(value), reason, parts or None)

    @staticmethod
    def part_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What is written of samples that were scored together: whole or not at all, so that they are so again.

        A model's numbers differ in the last digits with the number of samples beside.
        """
        return [{_BLOCK: list(lines)}] if lines else []

    def part_line(self, row: PictureRow, picture: str, scores: Mapping[str, Score]) -> dict[str, Any]:
        """A line that tells other processes, and a later call."""
        file = None if row.file is None else str(row.file)
        state, _ = self.digests.get(str(file), ("", ""))
        return {
            "file": file,
            "state": state,
            "picture": picture,
            "scores": {key: list(each) for key, each in scores.items()},
        }


def scored_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows that an earlier call wrote.

    Raises:
        ConfigError: the file was not written by one.
    """
    try:
        for row in csv_rows(file) if file.suffix == ".csv" else (row for row, _ in Source(file).rows()):
            if isinstance(row, DataError):
                raise row
            if not isinstance(row.get("versions"), dict) or "picture" not in row:
                raise DataError("no columns versions and picture")
            yield row
    except DataError as error:
        raise ConfigError(
            f"out: {file} was not written by score ({error}); choose another file, it would be overwritten"
        ) from None


def digest_of(content: bytes) -> str:
    """Of a medium's bytes, and of how pictures become RGB: scores of pictures that were read otherwise do not hold."""
    return hashlib.sha256(f"{FORM} ".encode() + content).hexdigest()[:24]


def _beside(mesh: Path) -> list[Path]:
    """The files that hold what a glTF file only names; none of one that cannot be read, whose reason comes later."""
    if mesh.suffix.lower() not in (".glb", ".gltf") or not mesh.is_file():
        return []
    try:
        return files_beside(mesh)
    except (DataError, OSError):
        return []


def _digest_of_mesh(files: Sequence[Path], record: str) -> str:
    told = files[0].suffix.lower().encode()
    for number, file in enumerate(files):
        there = number == 0 or file.is_file()  # of what is missing there is a reason, until it comes
        told += hashlib.sha256(picture_bytes(file, record)).digest() if there else b"missing"
    return digest_of(told)
