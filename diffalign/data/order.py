"""Which record comes when, and the generator of every draw: both follow from the seed alone, never from the batch split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def place_of(position: int, count: int, seed: int) -> tuple[int, int]:
    """(epoch, record number) of the group at `position` in the endless training order: a new shuffle every epoch."""
    epoch, within = divmod(position, count)
    return epoch, int(_shuffle(count, seed, epoch)[within])


@dataclass(frozen=True)
class TrainingOrder:
    """The endless training order, a new shuffle every epoch, that follows from the seed alone.

    With buckets an epoch is made of batches of `groups` records of one bucket: each bucket is shuffled, then the batches
    are. What a bucket has over is left out of this epoch, other records each time; so every record comes at most once in an
    epoch, and each epoch leaves out at most `groups` - 1 records of each bucket.

    Attributes:
        count: records of the data set.
        seed: of the shuffles.
        buckets: the bucket of every record [count], or None: all may stand beside each other.
        groups: how many positions, from a multiple of it on, are of one bucket.
    """

    count: int
    seed: int
    buckets: np.ndarray | None = None
    groups: int = 1
    _shuffles: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def epoch_length(self) -> int:
        """Records that an epoch sees."""
        if self.buckets is None:
            return self.count
        return int((np.bincount(self.buckets) // self.groups).sum()) * self.groups

    def place(self, position: int) -> tuple[int, int]:
        """(epoch, record number) of the group at `position`."""
        if self.buckets is None:
            return place_of(position, self.count, self.seed)
        epoch, within = divmod(position, self._length)
        return epoch, int(self._of_epoch(epoch)[within])

    @property
    def _length(self) -> int:
        if not self._shuffles:
            self._of_epoch(0)
        return len(next(iter(self._shuffles.values())))

    def _of_epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._shuffles:
            while len(self._shuffles) > 1:
                self._shuffles.pop(next(iter(self._shuffles)))
            self._shuffles[epoch] = self._shuffled(epoch)
        return self._shuffles[epoch]

    def _shuffled(self, epoch: int) -> np.ndarray:
        assert self.buckets is not None
        batches = []
        for bucket in np.unique(self.buckets).tolist():
            numbers = np.flatnonzero(self.buckets == bucket).astype(np.int32)
            drawn = torch.randperm(len(numbers), generator=seeded(self.seed, epoch, str(bucket), "order")).numpy()
            whole = len(numbers) // self.groups * self.groups
            batches.append(numbers[drawn[:whole]].reshape(-1, self.groups))
        every = np.concatenate(batches)
        return every[torch.randperm(len(every), generator=seeded(self.seed, epoch, "", "order")).numpy()].reshape(-1)


@lru_cache(maxsize=2)
def _shuffle(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=seeded(seed, epoch, "", "order"))


def seeded(seed: int, epoch: int, record: str, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one record in one epoch."""
    digest = hashlib.sha256(f"{seed}|{epoch}|{purpose}|{record}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
