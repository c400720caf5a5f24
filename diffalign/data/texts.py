"""Text leaves of prompts, from the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from torch import Tensor

from diffalign.data.cache import DamagedShardError, TensorCache, content_key

log = logging.getLogger(__name__)
Encode = Callable[[list[str]], dict[str, Tensor]]
_CHUNK = 8192  # prompts that are looked up together
_SHARD_BYTES = 64 * 2**20  # of one shard, unless a single prompt has more


class Texts:
    """Text leaves by prompt, from the cache."""

    def __init__(
        self,
        cache: TensorCache,
        fingerprint: str,
        encode_again: Callable[[Texts, Iterable[str]], None] | None = None,
    ) -> None:
        """`encode_again` fills in these prompts, and others that were lost with them, where a shard turns out damaged."""
        self._cache = cache
        self._fingerprint = fingerprint
        self._encode_again = encode_again

    def key(self, prompt: str) -> str:
        return content_key(self._fingerprint, prompt)

    def stack(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        keys = [self.key(prompt) for prompt in prompts]
        try:
            return self._cache.stack(keys)
        except DamagedShardError:
            if self._encode_again is None:
                raise
            log.warning("a shard of %s was damaged: encoding its prompts again", self._cache.folder)
            self._encode_again(self, prompts)
            return self._cache.stack(keys)

    def fill(
        self,
        prompts: Iterable[str],
        encode: Encode,
        *,
        batch: int = 64,
        mine: Callable[[str], bool] = lambda key: True,
    ) -> None:
        """Encode what is not there yet, `batch` prompts at a time; of several processes, the keys that are `mine`."""
        for keys, missing in _batches(self._absent(prompts, mine), batch):
            leaves = encode(missing)
            size = sum(leaf.nbytes for leaf in leaves.values()) // len(keys)
            step = max(1, min(len(keys), _SHARD_BYTES // max(size, 1)))
            for start in range(0, len(keys), step):
                part = slice(start, start + step)
                self._cache.add(keys[part], {name: leaf[part] for name, leaf in leaves.items()})

    def _absent(self, prompts: Iterable[str], mine: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        every = iter(prompts)
        while chunk := {self.key(prompt): prompt for prompt in islice(every, _CHUNK)}:
            for key in self._cache.missing(list(chunk)):
                if mine(key) and key not in self._cache:
                    yield key, chunk[key]


def _batches(pairs: Iterator[tuple[str, str]], size: int) -> Iterator[tuple[list[str], list[str]]]:
    while batch := dict(islice(pairs, size)):
        yield list(batch), list(batch.values())
