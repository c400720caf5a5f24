"""Hugging Face datasets, through the library `datasets` (extra `data`)."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.exceptions import DataError, MissingExtraError

log = logging.getLogger(__name__)
_SCHEME = "hf://"
_ROWS = 32  # at a time: they may hold pictures
_REVISED = re.compile(r"(\w[\w.-]*/\w[\w.-]*)@(.+)")  # OWNER/NAME@REVISION
_INSIDE = frozenset({"zip", "tar", "gzip", "bz2", "xz", "zstd", "file", "hf"})  # no row makes us ask any other server
_SAVED = ("dataset_info.json", "dataset_dict.json")  # of `save_to_disk`: one split, several


@dataclass(frozen=True)
class Remote:
    """A file in an archive, or on the hub.

    Attributes:
        address: as fsspec has it: zip://a.png::/data/train.zip.
    """

    address: str

    def __str__(self) -> str:
        return self.address

    def read_bytes(self) -> bytes:
        """What is in it.

        Raises:
            OSError: it cannot be read.
        """
        from datasets.utils.file_utils import xopen  # rows that name such files came through `datasets`

        try:
            with xopen(self.address, "rb") as file:
                return file.read()
        except Exception as error:  # of the archive, or of the network
            raise OSError(errno.EIO, (str(error).splitlines() or [type(error).__name__])[0]) from None


def is_address(path: Path | str) -> bool:
    """Whether it names a dataset of the hub, hf://OWNER/NAME."""
    return isinstance(path, str) and path.startswith(_SCHEME)


def is_saved(path: Path) -> bool:
    """Whether it is a folder that `save_to_disk` wrote."""
    return any((path / name).is_file() for name in _SAVED)


def load(path: Path | str, split: str, config_name: str | None, *, streaming: bool) -> Any:
    """One split of a dataset: on this disk, or streamed.

    Raises:
        DataError: it cannot be had.
        MissingExtraError: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            f"data.path: {path} needs the library datasets; install it with: pip install 'diffalign[data]'"
        ) from None
    try:
        if is_address(path):
            name, revision = _name_and_revision(str(path).removeprefix(_SCHEME))
            return datasets.load_dataset(name, config_name, split=split, revision=revision, streaming=streaming)
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # of the network, of the hub, of the builder: all with a text of their own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"data.path: {path} cannot be loaded: {first}; see also data.split and data.config_name"
        ) from None
    if isinstance(found, Mapping):
        if split not in found:
            raise DataError(f"data.split: {path} has no {split!r}, only {', '.join(found)}")
        found = found[split]
    return found


def rows(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """The rows, with pictures as {"bytes": ..., "path": ...}, or `Remote`: they are not decoded here."""
    batches = iter(dataset.with_format("arrow").iter(batch_size=_ROWS))
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:  # of the network, or a damaged file
            raise DataError(f"data.path: the dataset cannot be read on: {error}") from None
        if batch is None:
            return
        for row in batch.to_pylist():
            yield {column: _with_remotes(value) for column, value in row.items()}


def _with_remotes(value: Any) -> Any:
    """A picture, or a list of some, of which `Remote` stands for those that are no plain files."""
    if isinstance(value, list):
        return [_with_remotes(each) for each in value]
    if isinstance(value, dict) and value.keys() == {"bytes", "path"} and value["bytes"] is None:
        schemes = set(re.findall(r"(\w+)://", str(value["path"])))
        return Remote(value["path"]) if schemes and schemes <= _INSIDE else value
    return value


def _name_and_revision(told: str) -> tuple[str, str | None]:
    """Folders may have an @ in their names."""
    found = _REVISED.fullmatch(told)
    return (told, None) if found is None or Path(told).exists() else (found[1], found[2])


def files(dataset: Any) -> list[Path]:
    """The files on this disk that hold it."""
    return [Path(each["filename"]) for each in dataset.cache_files]


def fingerprint(dataset: Any) -> str:
    """The library's own hash of data and transformations."""
    return str(dataset._fingerprint)
