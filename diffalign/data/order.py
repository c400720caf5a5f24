"""Which record comes when, and the generator of every draw: both follow from the seed alone, never from the batch split."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def place_of(position: int, count: int, seed: int) -> tuple[int, int]:
    """(epoch, record number) of the group at `position` in the endless training order: a new shuffle every epoch."""
    epoch, within = divmod(position, count)
    return epoch, _shuffle(count, seed, epoch)[within]


@lru_cache(maxsize=2)
def _shuffle(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=seeded(seed, epoch, "", "order")).tolist()


def seeded(seed: int, epoch: int, record: str, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one record in one epoch."""
    digest = hashlib.sha256(f"{seed}|{epoch}|{purpose}|{record}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
