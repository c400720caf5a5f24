"""Groups ready for training: from pictures through the cache, or from latents that were shipped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffalign.data.cache import TensorCache, content_key
from diffalign.data.order import seeded
from diffalign.data.readers import ReadCounts
from diffalign.data.records import Record, open_picture, picture_bytes
from diffalign.exceptions import DataError
from diffalign.types import Condition, GroupBatch

log = logging.getLogger(__name__)
_CHUNK = 64  # pictures or prompts per call of an encoder, and entries per cache shard
_NOTICE = 1000  # pictures between two lines of the log


@runtime_checkable
class Latents(Protocol):
    """Where the latents of every group come from."""

    def of(self, number: int, epoch: int, name: str) -> Tensor: ...

    def reward(self, number: int) -> Tensor | None: ...

    def preference(self, number: int) -> float: ...

    def metadata(self, number: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class GroupData:
    """All groups of a data set.

    Attributes:
        records: id and prompt of every group, in file order.
        latents: gives the latents [members, *sample] of a group, for one epoch, and what else its record said.
        texts: gives the text leaves of a prompt.
        empty_prompt_share: chance that a group is shown with the empty prompt.
        seed: of every draw made here.
        counts: what the reader left out.
    """

    records: Sequence[tuple[str, str]]
    latents: Latents
    texts: Texts
    empty_prompt_share: float = 0.0
    seed: int = 0
    counts: ReadCounts | None = None

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, places: Sequence[tuple[int, int]]) -> GroupBatch:
        """The groups at (epoch, record number) as one batch."""
        ids, prompts, latents, rewards = [], [], [], []
        for epoch, number in places:
            name, prompt = self.records[number]
            if self.empty_prompt_share:
                drawn = torch.rand((), generator=seeded(self.seed, epoch, name, "empty prompt"))
                prompt = "" if drawn < self.empty_prompt_share else prompt
            ids.append(name)
            prompts.append(prompt)
            latents.append(self.latents.of(number, epoch, name))
            rewards.append(self.latents.reward(number))
        numbers = [number for _, number in places]
        x0 = torch.stack(latents)
        return GroupBatch(
            x0=x0,
            condition=Condition(self.texts.stack(prompts)),
            valid=torch.isfinite(x0.flatten(2)).all(-1),
            record_ids=tuple(ids),
            reward=None if rewards[0] is None else torch.stack(rewards),  # type: ignore[arg-type]
            preference=torch.tensor([self.latents.preference(number) for number in numbers]),
            metadata=tuple(self.latents.metadata(number) for number in numbers),
        )


class Texts:
    """Text leaves by prompt, from the cache."""

    def __init__(self, cache: TensorCache, fingerprint: str) -> None:
        self._cache = cache
        self._fingerprint = fingerprint

    def key(self, prompt: str) -> str:
        return content_key(self._fingerprint, prompt)

    def stack(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return self._cache.stack([self.key(prompt) for prompt in prompts])

    def fill(self, prompts: Iterable[str], encode: Callable[[list[str]], dict[str, Tensor]]) -> None:
        """Encode what is not there yet."""
        wanted = {self.key(prompt): prompt for prompt in prompts}
        absent = self._cache.missing(list(wanted))
        for start in range(0, len(absent), _CHUNK):
            keys = absent[start : start + _CHUNK]
            self._cache.add(keys, encode([wanted[key] for key in keys]))


class ShippedLatents:
    """Latents [groups, members, *sample] of a .safetensors file, drawn by one model and readable by it alone."""

    def __init__(self, path: Path, autoencoder: str) -> None:
        """Read the file whole.

        Args:
            autoencoder: identity of the model's, as the backbone gives it.

        Raises:
            DataError: missing, damaged, or made with another autoencoder.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                self._latents = file.get_tensor("latents")
                self._rewards = file.get_tensor("rewards")
                numbers = file.get_tensor("prompt").tolist()
                prompts: list[str] = json.loads(about["prompts"])
                self.records = [(f"pair-{number}", prompts[index]) for number, index in enumerate(numbers)]
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise DataError(f"{path}: not a readable preference set ({error})") from None
        if not self.records:
            raise DataError(f"{path}: no usable pairs: the file is empty")
        if about.get("autoencoder") != autoencoder:
            raise DataError(
                f"{path}: these latents were made with another autoencoder than model.path has "
                f"(made with {about.get('autoencoder')}, have {autoencoder}); use the model that they ship with"
            )
        if not bool(torch.isfinite(self._latents).all()):
            raise DataError(f"{path}: some latents are not finite; the file is damaged")

    def of(self, number: int, epoch: int, name: str) -> Tensor:
        return self._latents[number].float()

    def reward(self, number: int) -> Tensor | None:
        return self._rewards[number].float()

    def preference(self, number: int) -> float:
        return 1.0

    def metadata(self, number: int) -> dict[str, Any]:
        return {}


class CachedLatents:
    """Latents from pictures: the posterior of every picture is kept, and a sample of it drawn each epoch."""

    def __init__(
        self,
        cache: TensorCache,
        keys: list[list[tuple[str, str]]],
        flip: bool,
        seed: int,
        said: list[tuple[float, dict[str, Any]]],
    ) -> None:
        self._cache = cache
        self._said = said  # [group] -> preference and optional columns
        self._keys = keys  # [group][member] -> (key, key of the mirror image)
        self._flip = flip
        self._seed = seed

    def of(self, number: int, epoch: int, name: str) -> Tensor:
        mirrored = self._flip and bool(torch.rand((), generator=seeded(self._seed, epoch, name, "flip")) < 0.5)
        posterior = self._cache.stack([keys[mirrored] for keys in self._keys[number]])
        mean, log_variance = posterior["mean"].float(), posterior["log_variance"].float()
        noise = torch.randn(mean.shape, generator=seeded(self._seed, epoch, name, "posterior"))
        return mean + (log_variance / 2).exp() * noise

    def reward(self, number: int) -> Tensor | None:
        return None

    def preference(self, number: int) -> float:
        return self._said[number][0]

    def metadata(self, number: int) -> dict[str, Any]:
        return self._said[number][1]


def encode_records(
    records: Iterable[Record],
    cache: TensorCache,
    *,
    fingerprint: str,
    posterior: Callable[[Tensor], dict[str, Tensor]],
    resolution: int,
    flip: bool,
    seed: int,
    on_bad: Literal["error", "skip"],
    counts: ReadCounts,
) -> tuple[list[tuple[str, str]], CachedLatents]:
    """Encode the pictures that the cache lacks, a chunk at a time, and say where every group's entries are.

    Args:
        records: read once, in order.
        posterior: pictures float [batch, 3, H, W] in [0, 1] -> {"mean", "log_variance"} [batch, *sample].
        fingerprint: hash of the autoencoder.

    Raises:
        DataError: a picture is missing or damaged and `on_bad` is "error".
    """
    encoder = _Encoder(cache, posterior)
    kept: list[tuple[str, str]] = []
    keys: list[list[tuple[str, str]]] = []
    said: list[tuple[float, dict[str, Any]]] = []
    for record in records:
        try:
            contents = [picture_bytes(item, record.id) for item in record.items]
            group = [
                (
                    content_key(fingerprint, str(resolution), "", each),
                    content_key(fingerprint, str(resolution), "mirror", each),
                )
                for each in contents
            ]
            opened: dict[str, Tensor] = {}
            for content, (key, mirror) in zip(contents, group, strict=True):
                wanted = [each for each in ((key, mirror) if flip else (key,)) if encoder.lacks(each)]
                if wanted:
                    picture = open_picture(content, record.id, resolution)
                    opened |= {each: picture.flip(-1) if each == mirror else picture for each in wanted}
        except DataError as error:
            _skip(str(error), on_bad, counts)
            continue
        encoder.add(opened)
        kept.append((record.id, record.prompt))
        keys.append(group)
        said.append((record.preference, _optional(record)))
    encoder.flush()
    fine = [not encoder.broken & {key for pair in group for key in pair} for group in keys]
    for (name, _), whole in zip(kept, fine, strict=True):
        if not whole:
            _skip(f"record {name!r}: the autoencoder's latents of its pictures are not finite", on_bad, counts)
    kept, keys, said = list(compress(kept, fine)), list(compress(keys, fine)), list(compress(said, fine))
    if not kept:
        first = f"; the first: {counts.reasons[0]}" if counts.reasons else ""
        raise DataError(f"no usable records: {counts.bad} are bad{first}")
    return kept, CachedLatents(cache, keys, flip, seed, said)


def _optional(record: Record) -> dict[str, Any]:
    """The columns that may be absent, those of them that are there."""
    named = {name: getattr(record, name) for name in ("votes", "preferences", "source", "condition")}
    return dict(record.metadata) | {name: value for name, value in named.items() if value is not None}


def _skip(reason: str, on_bad: Literal["error", "skip"], counts: ReadCounts) -> None:
    if on_bad == "error":
        raise DataError(reason)
    counts.kept -= 1
    counts.add_bad(reason)


class _Encoder:
    """Collects pictures and encodes them into the cache a chunk at a time."""

    def __init__(self, cache: TensorCache, posterior: Callable[[Tensor], dict[str, Tensor]]) -> None:
        self.broken: set[str] = set()  # keys of pictures whose latents are not finite
        self._cache = cache
        self._posterior = posterior
        self._waiting: dict[str, Tensor] = {}
        self._encoded = 0

    def lacks(self, key: str) -> bool:
        return key not in self._cache and key not in self._waiting and key not in self.broken

    def add(self, pictures: dict[str, Tensor]) -> None:
        self._waiting |= pictures
        if len(self._waiting) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        names, encoded = list(self._waiting), self._posterior(torch.stack(list(self._waiting.values())))
        finite = torch.stack([torch.isfinite(part.flatten(1)).all(1) for part in encoded.values()]).all(0)
        self.broken.update(compress(names, (~finite).tolist()))
        if bool(finite.any()):
            kept = list(compress(names, finite.tolist()))
            self._cache.add(kept, {part: values[finite] for part, values in encoded.items()})
        self._waiting.clear()
        before, self._encoded = self._encoded, self._encoded + len(names)
        if self._encoded // _NOTICE > before // _NOTICE:
            log.info("%d pictures encoded so far", self._encoded)


def save_latents(
    path: Path, latents: Tensor, rewards: Tensor, prompts: Sequence[str], numbers: Sequence[int], about: dict[str, Any]
) -> None:
    """Write a preference set as `ShippedLatents` reads it: latents [groups, members, *sample] in half precision."""
    from safetensors.torch import save_file

    save_file(
        {
            "latents": latents.to(torch.float16).contiguous(),
            "rewards": rewards.to(torch.float32).contiguous(),
            "prompt": torch.tensor(numbers, dtype=torch.int32),
        },
        path,
        metadata={"prompts": json.dumps(list(prompts)), **{key: str(value) for key, value in about.items()}},
    )
