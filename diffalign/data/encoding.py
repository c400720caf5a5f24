"""Pictures to latents in the cache: what is missing is encoded, by one process or by several, each its share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, compress
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffalign.data.cache import TensorCache, content_key
from diffalign.data.order import seeded
from diffalign.data.readers import ReadCounts
from diffalign.data.records import OpenedPicture, Record, open_picture, picture_bytes
from diffalign.exceptions import DataError

log = logging.getLogger(__name__)
_SHARD = 64  # entries per cache shard: a process that is killed loses at most so many
_NOTICE = 1000  # pictures between two lines of the log

Keys = list[tuple[str, str]]  # [member] -> (key, key of the mirror image; "" where nothing is mirrored)


class Said(NamedTuple):
    """What a record says of its pictures."""

    preference: float
    rewards: tuple[float, ...] | None
    label: int | None


@dataclass(frozen=True)
class Share:
    """Which part of the work is this process's.

    Attributes:
        rank, world: number index of a sequence is this process's when index % world == rank.
        wait: returns once every process has called it.
    """

    rank: int = 0
    world: int = 1
    wait: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be from 0 to {self.world - 1}, got {self.rank}")

    def has(self, index: int) -> bool:
        """Whether number `index` is this process's."""
        return index % self.world == self.rank


@dataclass(frozen=True)
class PictureEncoding:
    """How pictures become entries of the cache.

    Attributes:
        fingerprint: hash of the autoencoder; entries of another one are never served.
        posterior: pictures float [batch, 3, H, W] in [0, 1] -> {"mean", "log_variance"} [batch, *sample].
        resolution: pixels along a side of the square that is encoded.
        flip: whether the mirror images are encoded too.
        batch: pictures in one call of `posterior`.
    """

    fingerprint: str
    posterior: Callable[[Tensor], dict[str, Tensor]]
    resolution: int
    flip: bool = False
    batch: int = 8

    def keys(self, contents: Iterable[bytes]) -> Keys:
        """The names of the pictures' entries: each holds a posterior, and how its picture was cropped."""
        size = f"crop {self.resolution}"
        return [
            (
                content_key(self.fingerprint, size, "", each),
                content_key(self.fingerprint, size, "mirror", each) if self.flip else "",
            )
            for each in contents
        ]


class CachedLatents:
    """Latents from pictures: the posterior of every picture is kept, and a sample of it drawn each epoch."""

    def __init__(self, cache: TensorCache, keys: list[Keys], said: list[Said], flip: bool, seed: int) -> None:
        self._cache = cache
        self._keys = keys
        self._said = said
        self._flip = flip
        self._seed = seed

    @property
    def content_hash(self) -> str:
        names = chain.from_iterable(chain.from_iterable(self._keys))
        return content_key(*names, *map(str, self._said))

    def of(self, number: int, epoch: int, name: str) -> Tensor:
        posterior = self._cache.stack(self._names(number, epoch, name))
        mean, log_variance = posterior["mean"].float(), posterior["log_variance"].float()
        noise = torch.randn(mean.shape, generator=seeded(self._seed, epoch, name, "posterior"))
        return mean + (log_variance / 2).exp() * noise

    def crops(self, number: int, epoch: int, name: str) -> Tensor:
        return torch.stack([self._cache.get(key)["crop"] for key in self._names(number, epoch, name)])

    def _names(self, number: int, epoch: int, name: str) -> list[str]:
        """The entries of a record's pictures, or of their mirror images."""
        mirrored = self._flip and bool(torch.rand((), generator=seeded(self._seed, epoch, name, "flip")) < 0.5)
        return [keys[mirrored] for keys in self._keys[number]]

    def reward(self, number: int) -> Tensor | None:
        rewards = self._said[number].rewards
        return None if rewards is None else torch.tensor(rewards)

    def preference(self, number: int) -> float:
        return self._said[number].preference

    def label(self, number: int) -> int | None:
        return self._said[number].label


def encode_records(
    records: Iterable[Record],
    cache: TensorCache,
    encoding: PictureEncoding,
    *,
    seed: int,
    on_bad: Literal["error", "skip"],
    counts: ReadCounts,
) -> tuple[list[tuple[str, str]], CachedLatents]:
    """Encode the pictures that the cache lacks, a batch at a time, and say where every group's entries are.

    Of a record its id, prompt, rewards, label and preference are kept in memory, and the names of its entries.

    Args:
        records: read once, in order.
        seed: of the draws from the posteriors.

    Raises:
        DataError: a picture is missing or damaged and `on_bad` is "error".
    """
    encoder = _Encoder(cache, encoding)
    kept: list[tuple[str, str]] = []
    keys: list[Keys] = []
    said: list[Said] = []
    for record in records:
        try:
            contents = [picture_bytes(item, record.id) for item in record.items]
            group = encoding.keys(contents)
            opened = dict(_opened(record.id, contents, group, encoder))
        except DataError as error:
            _skip(str(error), on_bad, counts)
            continue
        encoder.add(opened)
        kept.append((record.id, record.prompt))
        keys.append(group)
        said.append(Said(record.preference, record.rewards, record.label))
    encoder.flush()
    fine = [not encoder.broken & {key for pair in group for key in pair} for group in keys]
    for (name, _), whole in zip(kept, fine, strict=True):
        if not whole:
            _skip(f"record {name!r}: the autoencoder's latents of its pictures are not finite", on_bad, counts)
    kept, keys, said = list(compress(kept, fine)), list(compress(keys, fine)), list(compress(said, fine))
    if not kept:
        first = f"; the first: {counts.reasons[0]}" if counts.reasons else ""
        raise DataError(f"no usable records: {counts.bad} are bad{first}")
    return kept, CachedLatents(cache, keys, said, encoding.flip, seed)


def encode_share(
    records: Iterable[Record],
    cache: TensorCache,
    encoding: PictureEncoding,
    *,
    share: Share,
    on_bad: Literal["error", "skip"],
) -> None:
    """Encode this process's share of the pictures that the cache lacks, and wait until every process has done so.

    Pictures are counted as they first come, so each is encoded by one process. `encode_records`, called with the cache
    opened anew, then finds nothing to do but what the others could not encode (or did into a cache that is not shared),
    and counts bad records the same way in all processes.

    Raises:
        DataError: a picture of this share is damaged and `on_bad` is "error". The other processes wait until whoever
            started them ends them, as torchrun does.
    """
    encoder = _Encoder(cache, encoding)
    seen: set[str] = set()
    for record in records:
        try:
            contents = [picture_bytes(item, record.id) for item in record.items]
            group = encoding.keys(contents)
            mine = []
            for number, (key, _) in enumerate(group):
                if key not in seen and share.has(len(seen)):
                    mine.append(number)
                seen.add(key)
            picked = [contents[number] for number in mine], [group[number] for number in mine]
            encoder.add(dict(_opened(record.id, *picked, encoder)))
        except DataError:
            if on_bad == "error":
                raise
    encoder.flush()
    share.wait()


def _opened(record: str, contents: list[bytes], keys: Keys, encoder: _Encoder) -> Iterator[tuple[str, OpenedPicture]]:
    """The pictures of a record, and their mirror images, that are not encoded yet, by key."""
    for content, pair in zip(contents, keys, strict=True):
        wanted = [key for key in pair if key and encoder.lacks(key)]
        if wanted:
            picture = open_picture(content, record, encoder.encoding.resolution)
            yield from ((key, picture if key == pair[0] else picture.mirrored()) for key in wanted)


def _skip(reason: str, on_bad: Literal["error", "skip"], counts: ReadCounts) -> None:
    if on_bad == "error":
        raise DataError(reason)
    counts.kept -= 1
    counts.add_bad(reason)


class _Encoder:
    """Collects pictures, encodes them a batch at a time and writes them a shard at a time."""

    def __init__(self, cache: TensorCache, encoding: PictureEncoding) -> None:
        self.encoding = encoding
        self.broken: set[str] = set()  # keys of pictures whose latents are not finite
        self._cache = cache
        self._waiting: dict[str, OpenedPicture] = {}
        self._ready: dict[str, dict[str, Tensor]] = {}  # key -> posterior and crop
        self._encoded = 0

    def lacks(self, key: str) -> bool:
        return not any(key in place for place in (self._cache, self._waiting, self._ready, self.broken))

    def add(self, pictures: dict[str, OpenedPicture]) -> None:
        self._waiting |= pictures
        while len(self._waiting) >= self.encoding.batch:
            self._encode(list(self._waiting)[: self.encoding.batch])
        if len(self._ready) >= _SHARD:
            self._write()

    def flush(self) -> None:
        """Encode and write what is left."""
        if self._waiting:
            self._encode(list(self._waiting))
        self._write()

    def _encode(self, keys: list[str]) -> None:
        pictures = [self._waiting.pop(key) for key in keys]
        encoded = self.encoding.posterior(torch.stack([picture.pixels for picture in pictures]))
        parts = {name: part.detach().cpu() for name, part in encoded.items()}
        finite = torch.stack([torch.isfinite(part.flatten(1)).all(1) for part in parts.values()]).all(0).tolist()
        for row, (key, whole) in enumerate(zip(keys, finite, strict=True)):
            if whole:
                self._ready[key] = {name: part[row] for name, part in parts.items()} | {"crop": pictures[row].crop}
            else:
                self.broken.add(key)
        before, self._encoded = self._encoded, self._encoded + len(keys)
        if self._encoded // _NOTICE > before // _NOTICE:
            log.info("%d pictures encoded so far", self._encoded)

    def _write(self) -> None:
        if not self._ready:
            return
        entries = list(self._ready.values())
        self._cache.add(list(self._ready), {name: torch.stack([each[name] for each in entries]) for name in entries[0]})
        self._ready.clear()
