"""What a file of scores would lose if it were written anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffalign.data.judged import versions_in
from diffalign.data.picture_rows import PictureRow
from diffalign.data.records import picture_bytes
from diffalign.evaluation.known_scores import digest_of, scored_rows
from diffalign.exceptions import ConfigError, DataError


def check_nothing_is_lost(
    file: Path, rows: Iterable[PictureRow], columns: Mapping[str, str], *, components: bool
) -> None:
    """That a file which is there already is of these rows and holds nothing that would not be in the new one.

    Args:
        file: of scores; there, or not yet.
        rows: of the source, each with the prompt that it will be scored with.
        columns: that the new file will have, and the version of the reward of each.
        components: whether it will have what the rewards are made of.

    Raises:
        ConfigError: something would be lost; says what, and how to keep it. Or the file was not written by `score`.
    """
    if not file.exists():
        return
    there = {(row.id, _place(row)): row.prompt for row in rows}
    gone: list[str] = []
    found = False
    for row in scored_rows(file):
        name = row["id"]
        prompt = there.get((str(name), _kept_place(file, row)))
        if prompt is None:
            gone.append(str(name))
            continue
        found = True
        if prompt != str(row.get("prompt") or ""):
            raise ConfigError(
                f"out: {file} holds scores of {name!r} with another prompt ({row.get('prompt')!r}); write elsewhere, "
                "or say --overwrite"
            )
        _check_columns(file, row, columns, components=components)
    if gone and not found:
        raise ConfigError(
            f"out: {file} holds scores of another input ({gone[0]!r}); write elsewhere, or say --overwrite"
        )
    if gone:
        several = f" and {len(gone) - 1} more are" if len(gone) > 1 else " is"
        raise ConfigError(
            f"out: {file}: {gone[0]}{several} no longer in the input; --overwrite drops "
            f"{'their rows' if len(gone) > 1 else 'its row'} and keeps the scores of the others"
        )


def _check_columns(file: Path, row: Mapping[str, Any], columns: Mapping[str, str], *, components: bool) -> None:
    there = versions_in(row)
    other = sorted(column for column in columns if there.get(column, columns[column]) != columns[column])
    if other:
        raise ConfigError(
            f"out: {file} holds scores by {', '.join(other)} with other settings, or of an earlier version; write "
            "elsewhere, or say --overwrite"
        )
    lost = sorted(there.keys() - columns.keys())
    if lost:
        more = " ".join(f"--reward {column}" for column in lost)
        raise ConfigError(
            f"out: {file} holds scores by {', '.join(lost)} too; keep them by {more} (what is known is not scored "
            "again), write elsewhere, or say --overwrite"
        )
    parts = [key for key, value in row.items() if value is not None and key.startswith(tuple(f"{c}." for c in columns))]
    if parts and not components:
        raise ConfigError(
            f"out: {file} holds what rewards are made of ({', '.join(parts)}); keep it by --components, "
            "write elsewhere, or say --overwrite"
        )


def _place(row: PictureRow) -> Path | str:
    """Where its medium lies; of one that stands in the source itself, what it holds."""
    if row.file is not None:
        return row.file.resolve()
    try:
        return digest_of(picture_bytes(row.picture, row.id))
    except DataError:
        return ""


def _kept_place(file: Path, row: Mapping[str, Any]) -> Path | str:
    name = row.get("file_name")
    return str(row.get("picture") or "") if name is None else (file.parent / str(name)).resolve()
