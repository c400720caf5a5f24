"""Tensors kept on disk by the hash of what they were made from, so that a changed picture or model is never served stale.

A cache is a folder of shards: `NAME.safetensors` holds tensors [entries, ...], `NAME.json` the keys of its entries and
the shard's sha256. Both are written under temporary names and renamed, the keys last; a shard without keys does not
exist. Shards are named by their content, so several writers do not disturb each other. Reading maps the files.
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
        """Open, and check every shard's hash; a damaged shard is removed and its entries are made again.

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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / f"{name}.safetensors", content)
            _write(self.folder / f"{name}.json", json.dumps({"sha256": digest, "keys": list(keys)}).encode())
        except OSError as error:
            raise DataError(f"data.cache: cannot write in {self.folder}: {error.strerror}") from None
        self._places.update({key: (name, row) for row, key in enumerate(keys)})

    def get(self, key: str) -> dict[str, Tensor]:
        """The tensors of one entry, without the leading axis."""
        shard, row = self._places[key]
        if shard not in self._open:
            with safe_open(self.folder / f"{shard}.safetensors", framework="pt") as file:
                self._open[shard] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {name: tensor[row] for name, tensor in self._open[shard].items()}

    def stack(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The tensors of several entries [keys, ...]."""
        entries = [self.get(key) for key in keys]
        return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}

    def _read_listing(self, listing: Path) -> None:
        shard = listing.with_suffix(".safetensors")
        try:
            content = json.loads(listing.read_text())
            keys: list[str] = list(content["keys"])
            with shard.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == content["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            log.warning("cache shard %s is damaged: its entries are made again", shard.name)
            listing.unlink(missing_ok=True)
            shard.unlink(missing_ok=True)
            return
        self._places.update({key: (listing.stem, row) for row, key in enumerate(keys)})


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
