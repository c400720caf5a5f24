"""Rows of a source as samples: the picture, sound, video or shape that a reward judges, read."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from diffalign.data.media_files import media_of, read_sound, read_video
from diffalign.data.picture_rows import PictureRow
from diffalign.data.records import PictureSource, decoded, picture_bytes
from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards import Audio, Sample, Video
from diffalign.rewards.media import MEDIA
from diffalign.sim import Mesh, read_mesh

_NAMED = re.compile(r"""^((?:reference: )?)record (?:'[^']*'|"[^"]*"): """)
_OWN = re.compile(
    r"""'[^']*'|"[^"]*"|\([^()]*\)|\S*/\S*|\S+\.\w+|\d+"""
)  # of one sample: quotations, details, paths, files, numbers


def sample_of(row: PictureRow, medium: str, judge: str, *, compares: bool = False) -> Sample:
    """The row's medium with what the source says of it; where it is compared, with its reference read too.

    Args:
        row: that it stands in.
        medium: that is judged: image, audio, video or mesh.
        judge: who does, for messages.
        compares: whether the reward looks at the reference.

    Raises:
        DataError: one of them cannot be read, or is of another medium than the reward judges; names the record.
        MissingExtraError: the library that reads it is not installed.
    """
    read = _read(row.picture, row, medium, judge)
    reference = row.reference if compares else None
    if reference is None:
        return Sample(read, row.prompt, row.columns, row.id)
    try:
        other = _read(reference, row, medium, judge)
    except DataError as error:
        raise DataError(f"reference: {error}") from None
    return Sample(read, row.prompt, {**row.columns, "reference": other}, row.id)


def reason_of(error: DataError) -> str:
    """Why a row is unscored, without the record's name, which stands in the row: what is alike can then be counted."""
    return _NAMED.sub(r"\1", str(error))


def grouped(reasons: Counter[str]) -> dict[str, int]:
    """Reasons that differ in numbers, names and quotations alone as one, the first of them; the commonest ones first."""
    alike: dict[str, Counter[str]] = {}
    for reason, count in reasons.items():
        alike.setdefault(_OWN.sub("", reason), Counter())[reason] += count
    found = {
        next(iter(each)) + (f" (and {len(each) - 1} alike)" if len(each) > 1 else ""): each.total()
        for each in alike.values()
    }
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def _read(source: PictureSource, row: PictureRow, medium: str, judge: str) -> Any:
    name = row.id
    if isinstance(source, Path):
        if source.name not in name:  # a record says what it is called, and not always which file it is
            name = f"{name} ({source.name})"
        found = media_of(source)
        if found and medium not in found:
            raise DataError(
                f"record {name!r}: {source.name} is a {MEDIA[found[0]].one}, and {judge} judges {MEDIA[medium].several}"
            )
    if medium == "mesh":
        return _shape(source, name)
    content = picture_bytes(source, row.id)
    try:
        if medium == "audio":
            return Audio(*read_sound(content, name))
        if medium == "video":
            return Video(*read_video(content, name))
    except ShapeError as error:
        raise DataError(f"record {name!r}: {error}") from None
    return decoded(content, name)


def _shape(source: PictureSource, record: str) -> Mesh:
    if not isinstance(source, Path):
        raise DataError(f"record {record!r}: a shape must be a file of its own, whose ending says what it is")
    try:
        return read_mesh(source)
    except DataError as error:
        raise DataError(f"record {record!r}: {str(error).removeprefix(f'{source}: ')}") from None
