"""Reference errors kept on disk, so that no step asks the frozen model.

All that is random about a record in one epoch (its times and noise, the latent's own draw, mirror and empty prompt)
follows from (seed, epoch, record). With a bank of n, epoch e repeats the draws of epoch e mod n, and the reference
errors of n epochs are worked out once: they serve every later epoch, and every later run that draws the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)


class ReferenceBank:
    """Reference errors [records, members] for each of n epochs' draws, one file each."""

    def __init__(self, home: Path, key: dict[str, object], epochs: int, records: int) -> None:
        """Open the folder of this key; files of another are never read.

        Args:
            home: folder of all banks.
            key: whatever the errors depend on: model, data, seed, times, measure, precision. Plain JSON values.
            epochs: how many epochs' draws it holds.
            records: of the data set.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = home / f"reference-{digest[:24]}"
        self.epochs = epochs
        self._records = records
        self._errors: list[Tensor] = []

    def fill(self, compute: Callable[[int, list[int]], Tensor], *, batch: int) -> None:
        """Work out what is not on disk yet, and load all of it.

        Args:
            compute: errors [len(numbers), members] of the record numbers, with the draws of an epoch.
            batch: records per call.
        """
        self._errors = []
        for epoch in range(self.epochs):
            errors = self._load(epoch)
            if errors is None:
                log.info("reference bank: epoch %d of %d, %d records", epoch + 1, self.epochs, self._records)
                parts = [
                    compute(epoch, list(range(start, min(start + batch, self._records))))
                    for start in range(0, self._records, batch)
                ]
                errors = torch.cat(parts).cpu().contiguous()
                self._save(epoch, errors)
            self._errors.append(errors)

    def of(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """The errors [groups, members] of (epoch, record number); the epoch is one of the bank's."""
        return torch.stack([self._errors[epoch][number] for epoch, number in places])

    def _file(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.safetensors"

    def _load(self, epoch: int) -> Tensor | None:
        try:
            errors = load_file(self._file(epoch))["errors"]
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            log.warning("reference bank: %s cannot be read (%s): worked out again", self._file(epoch), error)
            return None
        return errors if len(errors) == self._records else None

    def _save(self, epoch: int, errors: Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self._file(epoch).with_suffix(f".{os.getpid()}.partial")
        save_file({"errors": errors}, draft)
        draft.replace(self._file(epoch))
