"""Tensors kept on disk by the hash of what they were made from, so that a changed picture or model is never served stale.

A cache is a folder of shards: `NAME.safetensors` holds tensors [entries, ...], `NAME.json` the keys of its entries, the
shard's size and its sha256. Both are written under temporary names and renamed, the keys last; a shard without keys does
not exist. Shards are named by their content, so several writers do not disturb each other. Reading maps the files. A
shard's hash is checked when an entry of it is first asked for: opening a large cache reads the lists of keys alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from diffalign.exceptions import DataError

log = logging.getLogger(__name__)


def content_key(*parts: str | bytes) -> str:
    """A hash of everything that an entry depends on."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:40]


class TensorCache:
    """Named tensors for each key."""

    def __init__(self, folder: Path) -> None:
        """Read the lists of keys; a shard that is missing or cut short is removed, and its entries are made again.

        The folder is made when the first shard is written.
        """
        self.folder = folder
        self._places: dict[str, tuple[str, int]] = {}
        self._open: dict[str, dict[str, Tensor]] = {}
        for listing in sorted(folder.glob("*.json")):
            self._read_listing(listing)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys that are not there yet, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def add(self, keys: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        """Write one shard: tensors [keys, ...].

        Raises:
            DataError: the folder cannot be made or written.
        """
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(content).hexdigest()
        name = content_key(digest, *keys)
        listing = json.dumps({"sha256": digest, "bytes": len(content), "keys": list(keys)}).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / f"{name}.safetensors", content)
            _write(self.folder / f"{name}.json", listing)
        except OSError as error:
            raise DataError(f"data.cache: cannot write in {self.folder}: {error.strerror}") from None
        self._places.update({key: (name, row) for row, key in enumerate(keys)})

    def get(self, key: str) -> dict[str, Tensor]:
        """The tensors of one entry, without the leading axis.

        Raises:
            DataError: the entry's shard cannot be read, or is damaged; then it is removed, so that the next start makes
                its entries again.
        """
        shard, row = self._places[key]
        if shard not in self._open:
            self._open[shard] = self._read_shard(shard)
        return {name: tensor[row] for name, tensor in self._open[shard].items()}

    def stack(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The tensors of several entries [keys, ...]."""
        entries = [self.get(key) for key in keys]
        return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}

    def _read_listing(self, listing: Path) -> None:
        try:
            content = json.loads(listing.read_text())
            keys: list[str] = list(content["keys"])
            size = listing.with_suffix(".safetensors").stat().st_size
            whole = isinstance(content["sha256"], str) and content.get("bytes", size) == size  # old lists have no size
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            log.warning("cache shard %s is damaged: its entries are made again", listing.stem)
            self._remove(listing.stem)
            return
        self._places.update({key: (listing.stem, row) for row, key in enumerate(keys)})

    def _read_shard(self, name: str) -> dict[str, Tensor]:
        shard = self.folder / f"{name}.safetensors"
        try:
            digest = json.loads(shard.with_suffix(".json").read_text())["sha256"]
            with shard.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == digest
        except OSError as error:
            raise DataError(f"data.cache: cannot read {shard}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self._remove(name)
            raise DataError(
                f"data.cache: {shard} is damaged and was removed; start again (diffalign train --resume RUN), "
                "and its entries are made anew"
            )
        with safe_open(shard, framework="pt") as file:
            return {part: file.get_tensor(part) for part in file.keys()}  # noqa: SIM118

    def _remove(self, name: str) -> None:
        self._places = {key: place for key, place in self._places.items() if place[0] != name}
        for suffix in (".json", ".safetensors"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
