"""Reference errors kept on disk, so that no step asks the frozen model.

All that is random about a record in one epoch (its times and noise, the latent's own draw, mirror, empty prompt and
members) follows from (seed, epoch, record). With a bank of n, epoch e repeats the draws of epoch e mod n, and the
reference errors of n epochs are worked out once: they serve every later epoch, and every later run that draws the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffalign.data import TrainingOrder
from diffalign.exceptions import SaveError

log = logging.getLogger(__name__)
# Of everything that turns (seed, epoch, record) into an error: draws, order of members, errors. Counted up by whoever
# changes one of them, so that no bank of before is read.
FORMAT = 2
_BATCHES_PER_SAVE = 1000  # of each process: a fill that is killed loses at most so many


class ReferenceBank:
    """Reference errors [records, members] for each of n epochs' draws, one file each; NaN where not worked out."""

    def __init__(self, home: Path, key: dict[str, object], epochs: int, shape: tuple[int, int]) -> None:
        """Open the folder of this key; files of another are never read.

        Args:
            home: folder of all banks.
            key: whatever the errors depend on: model, data, seed, times, measure, precision. Plain JSON values. The
                version of torch, whose generators make the draws, and `FORMAT` are added.
            epochs: how many epochs' draws it holds.
            shape: records of the data set, members of each.
        """
        torch_version = ".".join(torch.__version__.split(".")[:2])
        every = {"key": key, "format": FORMAT, "torch": torch_version}
        digest = hashlib.sha256(json.dumps(every, sort_keys=True).encode()).hexdigest()
        self.folder = home / f"reference-{digest[:24]}"
        self.epochs = epochs
        self._shape = shape
        self._errors: list[Tensor] = []

    def visited(self, groups: int, order: TrainingOrder) -> list[list[int]]:
        """Which records a run of so many groups asks for, in each of the bank's epochs."""
        length = order.epoch_length
        whole, rest = divmod(groups, length)
        places = [list(range(self._shape[0])) if epoch < whole else [] for epoch in range(self.epochs)]
        if whole < self.epochs:
            places[whole] = sorted(order.place(whole * length + each)[1] for each in range(rest))
        return places

    def fill(
        self,
        visited: Sequence[Sequence[int]],
        compute: Callable[[int, list[int]], Tensor],
        accelerator: Accelerator,
        *,
        batch: int,
        buckets: np.ndarray | None = None,
    ) -> None:
        """Work out what is wanted and not on disk yet, each process its share; the main one writes it.

        Args:
            visited: the record numbers that are wanted of each epoch.
            compute: errors [len(numbers), members] of the record numbers, with the draws of an epoch.
            batch: records per call.
            buckets: of every record [records]; a call has records of one alone. None: all are of one.
        """
        rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
        self._errors = []
        for epoch, numbers in enumerate(visited):
            errors = torch.full(self._shape, torch.nan)
            if rank == 0:
                errors = self._load(epoch, errors)
            errors = broadcast(errors.to(device)).cpu()  # what the main process finds counts, also with disks apart
            gone = errors.isnan().any(1).tolist()
            absent = [number for number in numbers if gone[number]]
            if absent:
                log.info("reference bank: epoch %d of %d, %d records", epoch + 1, self.epochs, len(absent))
            block = _BATCHES_PER_SAVE * batch * world
            for first in range(0, len(absent), block):
                wanted = absent[first : first + block]
                found, mine = torch.zeros(len(wanted), self._shape[1]), range(rank, len(wanted), world)
                for rows in _batches(mine, batch, None if buckets is None else buckets[wanted]):
                    found[rows] = compute(epoch, [wanted[row] for row in rows]).float().cpu()
                errors[wanted] = accelerator.reduce(found.to(device), "sum").cpu()
                if rank == 0:
                    self._save(epoch, errors)
            self._errors.append(errors)

    def of(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """The errors [groups, members] of (epoch, record number); the epoch is one of the bank's."""
        return torch.stack([self._errors[epoch][number] for epoch, number in places])

    def _file(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.safetensors"

    def _load(self, epoch: int, absent: Tensor) -> Tensor:
        try:
            errors = load_file(self._file(epoch))["errors"]
        except FileNotFoundError:
            return absent
        except (OSError, SafetensorError, KeyError) as error:
            log.warning("reference bank: %s cannot be read (%s): worked out again", self._file(epoch), error)
            return absent
        return errors if errors.shape == absent.shape else absent

    def _save(self, epoch: int, errors: Tensor) -> None:
        draft = self._file(epoch).with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"errors": errors.contiguous()}, draft)
            draft.replace(self._file(epoch))
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            raise SaveError(f"data.cache: {self.folder} cannot be written ({error}); free some space") from None


def _batches(rows: Sequence[int], size: int, buckets: np.ndarray | None) -> Iterator[list[int]]:
    """The rows, at most `size` at a time, each time of one bucket."""
    for bucket in [None] if buckets is None else np.unique(buckets).tolist():
        own = [row for row in rows if buckets is None or buckets[row] == bucket]
        for start in range(0, len(own), size):
            yield own[start : start + size]
