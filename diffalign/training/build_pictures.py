"""Records with pictures: read, or found as they were listed before, and their latents in the cache."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import (
    CachedLatents,
    PictureEncoding,
    ReadCounts,
    Record,
    RecordList,
    Share,
    Source,
    TensorCache,
    bucket_sizes,
    content_key,
    encode_records,
    encode_share,
    latents_of,
    open_list,
    read_records,
)
from diffalign.exceptions import ConfigError

log = logging.getLogger(__name__)


def build_latents(
    config: RunConfig, backbone: Backbone, source: Source, home: Path, share: Share
) -> tuple[RecordList, CachedLatents, ReadCounts]:
    """The records of a source of pictures, their latents, and what was left out.

    Args:
        home: folder of the caches.

    Raises:
        DataError: the data cannot be used; names the record.
    """
    encoding = _encoding(config, backbone)
    records, latents, counts = _read(config, source, encoding, home, share)
    if latents.buckets is not None:
        _note_buckets(latents, encoding, config.training.groups)
    return records, latents, counts


def _encoding(config: RunConfig, backbone: Backbone) -> PictureEncoding:
    data = config.data
    resolution = backbone.checked_resolution(data.resolution)
    return PictureEncoding(
        fingerprint=backbone.fingerprint("vae"),
        posterior=lambda pictures: _posterior(backbone, pictures),
        resolution=resolution,
        flip=data.flip,
        batch=data.encode_batch,
        sizes=_sizes(config, backbone, resolution),
        fit=data.fit,
        borrowed=partial(backbone.encoders.borrowed, "vae"),
        cell=resolution // backbone.sample_shape(resolution)[-1],
    )


def _sizes(config: RunConfig, backbone: Backbone, resolution: int) -> tuple[tuple[int, int], ...] | None:
    """The buckets.

    Raises:
        ConfigError: the model cannot work at one of them.
    """
    told = config.data.buckets
    if told is None:
        return None
    smallest, largest = told.smallest or resolution // 2, told.largest
    if largest is None:
        largest = min(2 * resolution, backbone.largest_side or 2 * resolution)
    if not smallest <= resolution <= largest:
        raise ConfigError(
            f"data.buckets: smallest <= data.resolution <= largest must hold, got {smallest}, {resolution} and {largest}"
        )
    sizes = bucket_sizes(resolution, step=told.step, smallest=smallest, largest=largest)
    for side in sorted({side for size in sizes for side in size}):
        try:
            backbone.checked_resolution(side)
        except ConfigError as error:
            why = str(error).partition(": ")[2]
            raise ConfigError(
                f"data.buckets: step {told.step} makes sides that this model does not take: {why}"
            ) from None
    return sizes


def _read(
    config: RunConfig, source: Source, encoding: PictureEncoding, home: Path, share: Share
) -> tuple[RecordList, CachedLatents, ReadCounts]:
    """The records and their latents: as they were listed before if nothing has changed since, else read anew."""
    data, counts = config.data, ReadCounts()
    assert data.kind != "prompts"  # an online run has no pictures to read
    folder = home / f"latents-{encoding.fingerprint[:16]}"
    path = home / "records" / f"{_list_name(config, source, encoding)}.arrow"
    read = partial(
        read_records,
        source,
        data.kind,
        members=data.members,
        dimension=data.dimension,
        columns=data.columns,
        limit=data.limit,
        on_bad=data.on_bad,
    )
    state, seen = source.state(), config.groups_per_step * config.training.steps
    latents_from = partial(latents_of, seed=config.seed, read_again=read)
    found = _listed(path, state, folder, encoding, latents_from)
    if share.world > 1:
        share.wait()  # all have looked before one writes
        if found is None:
            encode_share(_counted(read(), seen), TensorCache(folder), encoding, share=share, on_bad=data.on_bad)
        else:
            share.wait()
        if share.rank:  # the main process lists the records; the others find its list, unless they share no disk
            share.wait()
            found = found or _listed(path, state, folder, encoding, latents_from)
    if found is None:
        records, latents = encode_records(
            read(counts=counts) if share.world > 1 else _counted(read(counts=counts), seen),
            TensorCache(folder),
            encoding,
            seed=config.seed,
            on_bad=data.on_bad,
            counts=counts,
            path=path,
            source=state,
            read_again=read,
        )
    else:
        records, latents = found
        counts = ReadCounts(**records.about["counts"])
        if counts.bad:
            log.warning(
                "%d bad rows were left out when %s was read; the first: %s", counts.bad, data.path, counts.reasons[0]
            )
    if share.world > 1 and not share.rank:
        share.wait()
    return records, latents, counts


def _counted(records: Iterable[Record], seen: int) -> Iterator[Record]:
    """The records; says so when more than twice as many are encoded as the run sees."""
    for number, record in enumerate(records):
        if number == 2 * seen:
            log.warning(
                "data.limit: the run sees %d groups, and the source has over twice as many: all are encoded before the "
                "first step; data.limit=%d would read no more than these",
                seen,
                seen,
            )
        yield record


def _listed(
    path: Path,
    state: dict[str, Any] | None,
    folder: Path,
    encoding: PictureEncoding,
    latents_from: partial[CachedLatents],
) -> tuple[RecordList, CachedLatents] | None:
    """The records as they were listed before; None if anything has changed since or an entry is missing."""
    records = open_list(path, state)
    if records is None:
        return None
    latents = latents_from(records, TensorCache(folder), encoding)
    return None if next(latents.absent(), None) is not None else (records, latents)


def _list_name(config: RunConfig, source: Source, encoding: PictureEncoding) -> str:
    """A name for all that a list of records depends on but the state of its source."""
    data = config.data
    path = source.path if isinstance(source.path, str) else os.path.abspath(source.path)
    told = data.model_dump(
        include={"kind", "members", "split", "config_name", "dimension", "limit", "on_bad", "columns"}
    )
    sizes = [encoding.name(bucket) for bucket in range(len(encoding.sizes or [0]))]
    return content_key(path, json.dumps(told, sort_keys=True), encoding.fingerprint, str(encoding.flip), *sizes)


def _note_buckets(latents: CachedLatents, encoding: PictureEncoding, groups: int) -> None:
    assert latents.buckets is not None and encoding.sizes is not None
    numbers = {bucket: int((latents.buckets == bucket).sum()) for bucket in sorted(set(latents.buckets.tolist()))}
    log.info(
        "buckets (height x width: groups): %s",
        ", ".join(
            f"{encoding.sizes[bucket][0]}x{encoding.sizes[bucket][1]}: {count}" for bucket, count in numbers.items()
        ),
    )
    small = {bucket: count for bucket, count in numbers.items() if count < groups}
    if len(small) == len(numbers):
        raise ConfigError(
            f"training.groups: no bucket has {groups} groups, which one forward needs of one size (the largest has "
            f"{max(numbers.values())}); take fewer groups and more training.accumulation, or a larger data.buckets.step"
        )
    if small:
        log.warning(
            "%d groups are never trained on: their %d buckets have fewer than training.groups (%d); take fewer groups and "
            "more training.accumulation, or a larger data.buckets.step",
            sum(small.values()),
            len(small),
            groups,
        )


def _posterior(backbone: Backbone, pictures: Tensor) -> dict[str, Tensor]:
    seen = backbone.posterior(pictures)
    return {"mean": seen.mean, "log_variance": seen.log_variance}
