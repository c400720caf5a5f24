"""Latents of pictures, from the cache: read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from diffalign.data.cache import DamagedShardError, TensorCache
from diffalign.data.encoder import PictureEncoding
from diffalign.data.order import seeded
from diffalign.data.record_list import RecordList
from diffalign.data.said import Said


class CachedLatents:
    """Latents from pictures: the posterior of every picture is kept, and a sample of it drawn each epoch.

    Attributes:
        buckets: the bucket of every record [records], or None where all pictures are of one size.
    """

    def __init__(
        self,
        cache: TensorCache,
        records: RecordList,
        encoding: PictureEncoding,
        seed: int,
        encode_again: Callable[[set[str]], None] | None = None,
    ) -> None:
        """`encode_again` makes the entries of the records of these ids again, where their shard turns out damaged."""
        self._cache = cache
        self._records = records
        self._flip = encoding.flip
        self._padded = encoding.fit == "pad"
        self._seed = seed
        self._encode_again = encode_again
        self.buckets: np.ndarray | None = None
        if encoding.sizes is not None:
            self.buckets = np.concatenate([np.asarray(chunk.column("bucket")) for _, chunk in records.chunks()])

    @property
    def content_hash(self) -> str:
        return self._records.about["content"]

    def of(self, number: int, epoch: int, name: str) -> Tensor:
        posterior = self._entries(number, epoch, name, ("mean", "log_variance"))
        mean, log_variance = posterior["mean"].float(), posterior["log_variance"].float()
        noise = torch.randn(mean.shape, generator=seeded(self._seed, epoch, name, "posterior"))
        return mean + (log_variance / 2).exp() * noise

    def crops(self, number: int, epoch: int, name: str) -> Tensor:
        return self._entries(number, epoch, name, ("crop",))["crop"]

    def masks(self, number: int, epoch: int, name: str) -> Tensor | None:
        if not self._padded:
            return None
        found = self._entries(number, epoch, name, ("mean", "box"))
        masks = torch.zeros(len(found["mean"]), 1, *found["mean"].shape[2:])
        for mask, (top, left, height, width) in zip(masks, found["box"].tolist(), strict=True):
            mask[:, top : top + height, left : left + width] = 1
        return masks

    def reward(self, number: int) -> Tensor | None:
        rewards = self._records.value("rewards", number)
        return None if rewards is None else torch.tensor(rewards)

    def preference(self, number: int) -> float:
        return self._records.value("preference", number)

    def label(self, number: int) -> int | None:
        return self._records.value("label", number)

    def said(self) -> Iterator[Said]:
        for first, chunk in self._records.chunks():
            scored, labelled = chunk.column("rewards").null_count == 0, chunk.column("label").null_count == 0
            yield Said(
                first,
                torch.from_numpy(self._records.matrix("rewards", chunk)) if scored else None,
                torch.from_numpy(np.array(chunk.column("label"))) if labelled else None,
                torch.from_numpy(np.array(chunk.column("preference"))),
            )

    def absent(self) -> Iterator[str]:
        """Ids of the records of which an entry is not in the cache."""
        for _, chunk in self._records.chunks():
            keys, lengths = self._records.keys(chunk)
            there = self._cache.has(keys)
            if not there.all():
                gone = np.logical_or.reduceat(~there, np.concatenate([[0], np.cumsum(lengths)[:-1]]))
                yield from (chunk.column("id")[number].as_py() for number in np.flatnonzero(gone).tolist())

    def _entries(self, number: int, epoch: int, name: str, parts: Sequence[str]) -> dict[str, Tensor]:
        """Of a record's pictures, or of their mirror images, [members, ...]."""
        keys = [key.hex() for key in self._records.value("keys", number)]
        if self._flip:
            mirrored = bool(torch.rand((), generator=seeded(self._seed, epoch, name, "flip")) < 0.5)
            keys = keys[mirrored::2]
        try:
            return self._cache.stack(keys, parts)
        except DamagedShardError:
            if self._encode_again is None:
                raise
            lost = set(self.absent())
            if not lost:
                raise
            self._encode_again(lost)
            if any(key not in self._cache for key in keys):
                raise
            return self._cache.stack(keys, parts)
