"""How pictures become entries of the cache: their names, their sizes, and the encoder's batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.data.buckets import Size, nearest_bucket
from diffalign.data.cache import TensorCache, content_key
from diffalign.data.records import Fit, OpenedPicture, open_picture, picture_size

log = logging.getLogger(__name__)
# entries and bytes of a cache shard: a process that is killed loses at most so many
_SHARD, _SHARD_BYTES = 1024, 32 * 2**20
# bytes over all sizes: pictures that wait for their batch to be full, and latents for their shard
_WAITING_BYTES, _READY_BYTES = 512 * 2**20, 256 * 2**20
_FORMAT = 3  # of how a picture becomes pixels (`open_picture`): raise it with every change that can be seen in them
_NOTICE = 1000  # pictures between two lines of the log

Keys = list[tuple[str, str]]  # [member] -> (key, key of the mirror image; "" where nothing is mirrored)


@dataclass(frozen=True)
class PictureEncoding:
    """How pictures become entries of the cache.

    Attributes:
        fingerprint: hash of the autoencoder; entries of another one are never served.
        posterior: pictures float [batch, 3, H, W] in [0, 1] -> {"mean", "log_variance"} [batch, *sample].
        resolution: pixels along a side of the square that is encoded, where there are no buckets.
        flip: whether the mirror images are encoded too.
        batch: pictures in one call of `posterior`, all of one size.
        sizes: the buckets, of which each group takes the nearest; None: squares of `resolution`.
        fit: how a picture comes to its size (`open_picture`).
        cell: pixels along a side of a latent.
        borrowed: a context around calls of `posterior` in mid-training, when the autoencoder may have left memory.
    """

    fingerprint: str
    posterior: Callable[[Tensor], dict[str, Tensor]]
    resolution: int
    flip: bool = False
    batch: int = 8
    sizes: tuple[Size, ...] | None = None
    fit: Fit = "crop"
    cell: int = 1
    borrowed: Callable[[], AbstractContextManager[None]] = nullcontext

    def bucket(self, contents: Iterable[bytes], record: str) -> int:
        """The bucket of a group of pictures; 0 where there are none.

        Raises:
            DataError: not a picture; names the record.
        """
        if self.sizes is None:
            return 0
        return nearest_bucket([picture_size(content, record) for content in contents], self.sizes)

    def size(self, bucket: int) -> Size:
        """Height and width of the pictures in a bucket."""
        return (self.resolution, self.resolution) if self.sizes is None else self.sizes[bucket]

    def keys(self, contents: Iterable[bytes], bucket: int = 0) -> Keys:
        """The names of the pictures' entries: each holds a posterior, and how its picture was cropped."""
        how = self.name(bucket)
        return [
            (
                content_key(self.fingerprint, how, "", each),
                content_key(self.fingerprint, how, "mirror", each) if self.flip else "",
            )
            for each in contents
        ]

    def name(self, bucket: int) -> str:
        """All that a picture's entry depends on besides the picture, its mirror and the autoencoder."""
        height, width = self.size(bucket)
        if self.fit == "pad":
            return f"{_FORMAT} pad {height}x{width} {self.cell}"
        return f"{_FORMAT} crop {height}x{width}"

    def open(self, content: bytes, record: str, bucket: int) -> OpenedPicture:
        """The picture at its bucket's size.

        Raises:
            DataError: not a picture, or a damaged one; names the record.
        """
        return open_picture(content, record, self.size(bucket), fit=self.fit, cell=self.cell)


class Encoder:
    """Collects pictures, encodes them a batch at a time and writes them a shard at a time.

    Attributes:
        broken: keys of pictures whose latents are not finite.
    """

    def __init__(self, cache: TensorCache, encoding: PictureEncoding) -> None:
        self.encoding = encoding
        self.broken: set[str] = set()
        self._cache = cache
        self._waiting: dict[Size, dict[str, OpenedPicture]] = {}
        self._ready: dict[tuple[int, ...], dict[str, dict[str, Tensor]]] = {}  # shape -> key -> posterior and crop
        self._unknown: set[str] = set()  # keys of what waits
        self._unwritten: set[str] = set()
        self._encoded = 0

    def lacks(self, key: str) -> bool:
        return not any(key in place for place in (self._unknown, self._unwritten, self.broken, self._cache))

    def waits(self, key: str) -> bool:
        """Whether it is not known yet what becomes of this picture."""
        return key in self._unknown

    def opened(
        self, record: str, contents: list[bytes], keys: Keys, bucket: int
    ) -> Iterator[tuple[str, OpenedPicture]]:
        """The pictures of a record, and their mirror images, that are not encoded yet, by key.

        Raises:
            DataError: not a picture, or a damaged one.
        """
        for content, pair in zip(contents, keys, strict=True):
            wanted = [key for key in pair if key and self.lacks(key)]
            if wanted:
                picture = self.encoding.open(content, record, bucket)
                yield from ((key, picture if key == pair[0] else picture.mirrored()) for key in wanted)

    def add(self, pictures: dict[str, OpenedPicture]) -> None:
        for key, picture in pictures.items():
            _, height, width = picture.pixels.shape
            waiting = self._waiting.setdefault((height, width), {})
            waiting[key] = picture
            self._unknown.add(key)
            while len(waiting) >= self.encoding.batch:
                self._encode(waiting, list(waiting)[: self.encoding.batch])
        while sum(map(_pixel_bytes, self._waiting.values())) > _WAITING_BYTES:
            fullest = max(self._waiting.values(), key=_pixel_bytes)
            self._encode(fullest, list(fullest))

    def settle(self) -> None:
        """Encode all that waits."""
        for waiting in self._waiting.values():
            if waiting:
                self._encode(waiting, list(waiting))

    def flush(self) -> None:
        """Encode and write what is left."""
        self.settle()
        for ready in self._ready.values():
            self._write(ready)

    def _encode(self, waiting: dict[str, OpenedPicture], keys: list[str]) -> None:
        pictures = [waiting.pop(key) for key in keys]
        encoded = self.encoding.posterior(torch.stack([picture.pixels for picture in pictures]))
        parts = {name: part.detach().cpu() for name, part in encoded.items()}
        finite = torch.stack([torch.isfinite(part.flatten(1)).all(1) for part in parts.values()]).all(0).tolist()
        ready = self._ready.setdefault(tuple(parts["mean"].shape[1:]), {})
        for row, (key, whole) in enumerate(zip(keys, finite, strict=True)):
            self._unknown.discard(key)
            if whole:
                ready[key] = {name: part[row] for name, part in parts.items()} | self._about(pictures[row])
                self._unwritten.add(key)
            else:
                self.broken.add(key)
        before, self._encoded = self._encoded, self._encoded + len(keys)
        if self._encoded // _NOTICE > before // _NOTICE:
            log.info("%d pictures encoded so far", self._encoded)
        if len(ready) >= _SHARD or _latent_bytes(ready) >= _SHARD_BYTES:
            self._write(ready)
        while sum(map(_latent_bytes, self._ready.values())) > _READY_BYTES:
            self._write(max(self._ready.values(), key=_latent_bytes))

    def _about(self, picture: OpenedPicture) -> dict[str, Tensor]:
        if self.encoding.fit == "crop":
            return {"crop": picture.crop}
        return {"crop": picture.crop, "box": torch.tensor([each // self.encoding.cell for each in picture.box])}

    def _write(self, ready: dict[str, dict[str, Tensor]]) -> None:
        if not ready:
            return
        entries = list(ready.values())
        self._cache.add(list(ready), {name: torch.stack([each[name] for each in entries]) for name in entries[0]})
        self._unwritten.difference_update(ready)
        ready.clear()


def _pixel_bytes(waiting: dict[str, OpenedPicture]) -> int:
    """Of pictures of one size."""
    return len(waiting) * next((picture.pixels.nbytes for picture in waiting.values()), 0)


def _latent_bytes(ready: dict[str, dict[str, Tensor]]) -> int:
    """Of entries of one shape."""
    return len(ready) * next((sum(part.nbytes for part in entry.values()) for entry in ready.values()), 0)
