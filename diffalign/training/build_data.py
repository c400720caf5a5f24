"""From the section `data` to groups that can be trained on: records are read, caches filled."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import (
    GroupData,
    Latents,
    ReadCounts,
    Share,
    ShippedLatents,
    Source,
    TensorCache,
    Texts,
    prompts_of,
    read_prompts,
)
from diffalign.exceptions import ConfigError, DataError, DiffalignError
from diffalign.training.build_pictures import build_latents
from diffalign.zoo import is_zoo, locate

log = logging.getLogger(__name__)


def build_data(config: RunConfig, backbone: Backbone, share: Share | None = None) -> GroupData:
    """Read the records and fill the caches.

    Args:
        share: of several processes, which pictures and prompts this one encodes; None: it encodes all.

    Raises:
        DataError: the data cannot be used, or the cache not be written; names the record, data.path or data.cache.
    """
    with _named(config):
        return _build_data(config, backbone, share or Share())


def build_prompts(
    config: RunConfig, backbone: Backbone, share: Share | None = None
) -> tuple[Sequence[tuple[str, str]], Texts]:
    """Of an online run, what is drawn for: (id, prompt) of each, and their text states, which are in the cache then.

    Args:
        share: as in `build_data`.

    Raises:
        DataError: they cannot be read, or the cache not be written; names data.path or data.cache.
    """
    with _named(config):
        records = _prompts(config)
        log.info("%d prompts; those that the cache does not hold are encoded now", len(records))
        texts = _build_texts(config, backbone, _home(config), records, share or Share())
    return records, texts


@contextmanager
def _named(config: RunConfig) -> Iterator[None]:
    """Inside, what goes wrong is said of the setting that it is about."""
    try:
        yield
    except (ConfigError, DataError) as error:
        if str(error).startswith(("record ", "data.")):
            raise
        raise type(error)(f"data.path: {error}") from None
    except OSError as error:
        if isinstance(error, DiffalignError):
            raise
        home = config.data.cache or f"{config.folder}/cache"
        raise DataError(f"data.cache: cannot write in {home}: {error.strerror or error}") from None


def _home(config: RunConfig) -> Path:
    """Folder of the caches."""
    return Path(config.data.cache) if config.data.cache else Path(config.folder) / "cache"


def _prompts(config: RunConfig) -> list[tuple[str, str]]:
    """(id, prompt) of each, once: of a file of prompts, or the captions of a preference set of the zoo."""
    path = locate(config.data.path) if is_zoo(config.data.path) else Path(config.data.path)
    texts = prompts_of(path) if path.suffix == ".safetensors" else read_prompts(path)
    return [(f"prompt-{number}", text) for number, text in enumerate(dict.fromkeys(texts))]


def check_source(config: RunConfig) -> None:
    """Look whether there is anything at data.path, before a model is loaded.

    Raises:
        DataError: there is not.
    """
    path = config.data.path
    if not is_zoo(path) and not path.startswith("hf://") and not Path(path).exists():
        raise DataError(f"data.path: {path}: cannot be read: No such file or folder")


def _build_data(config: RunConfig, backbone: Backbone, share: Share) -> GroupData:
    data, home = config.data, _home(config)
    assert data.kind != "prompts"  # `build_prompts` reads those
    source = _source(config)
    counts = ReadCounts()
    latents: Latents
    records: Sequence[tuple[str, str]]
    if not source.is_dataset and Path(source.path).suffix == ".safetensors":
        _refuse_picture_settings(config, backbone)
        if data.kind == "labelled":
            raise ConfigError(f"data.kind: {data.path} holds ranked groups; take pairs or groups")
        latents = ShippedLatents(
            Path(source.path), backbone.autoencoder_identity(), data.kind, pairs_per_group=data.pairs_per_group
        )
        wanted = backbone.sample_shape()
        if latents.sample_shape != wanted:
            raise DataError(f"{data.path}: a latent of this model is {wanted}, and these are {latents.sample_shape}")
        records = latents.records
        counts.kept, counts.ties = len(records), latents.ties
    else:
        if data.pairs_per_group is not None:
            raise ConfigError(f"data.pairs_per_group: {data.path} holds pairs, not groups; leave it out")
        _refuse_dataset_settings(config, source)
        records, latents, counts = build_latents(config, backbone, source, home, share)
    texts = _build_texts(config, backbone, home, records, share)
    labels = ""
    if data.kind == "labelled":
        good = sum(int((said.labels == 1).sum()) for said in latents.said() if said.labels is not None)
        labels = f"{good} good, {len(records) - good} bad; "
    log.info(
        "%d %s (%s%d ties left out, %d bad rows skipped)", len(records), data.kind, labels, counts.ties, counts.bad
    )
    return GroupData(
        records, latents, texts, data.members, data.empty_prompt_share, config.seed, counts, backbone.crop_leaf
    )


def _source(config: RunConfig) -> Source:
    data = config.data
    if is_zoo(data.path):
        return Source(locate(data.path))
    path = data.path if data.path.startswith("hf://") else Path(data.path)
    return Source(path, data.split, data.config_name, data.streaming)


# ------------------------------------------------------------ prompts


def _build_texts(
    config: RunConfig, backbone: Backbone, home: Path, records: Sequence[tuple[str, str]], share: Share
) -> Texts:
    """The cached text states of all prompts; of several processes, each encodes its share first."""
    fingerprint = backbone.fingerprint("text")
    folder, batch = home / f"texts-{fingerprint[:16]}", 8 * config.data.encode_batch

    def prompts() -> Iterator[str]:
        if config.data.empty_prompt_share:
            yield ""
        yield from (prompt for _, prompt in records)

    if share.world > 1:
        Texts(TensorCache(folder), fingerprint).fill(prompts(), backbone.text, batch=batch, mine=share.has)
        share.wait()

    def encode_again(texts: Texts, lost: Iterable[str]) -> None:
        with backbone.encoders.borrowed("text"):
            texts.fill(chain(lost, prompts()), backbone.text, batch=batch)

    texts = Texts(TensorCache(folder), fingerprint, encode_again)
    texts.fill(prompts(), backbone.text, batch=batch)
    return texts


# ------------------------------------------------------------ settings that would have no effect


def _refuse_picture_settings(config: RunConfig, backbone: Backbone) -> None:
    """Latents that were shipped cannot be mirrored or cropped any more."""
    data = config.data
    given = {
        "data.flip": data.flip,
        "data.columns": bool(data.columns),
        "data.resolution": data.resolution not in (None, backbone.resolution),
        "data.buckets": data.buckets is not None,
        "data.fit": data.fit != "crop",
        "data.dimension": data.dimension is not None,
        "data.streaming": data.streaming,
        "data.limit": data.limit is not None,
    }
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise ConfigError(
            "\n".join(
                f"{name}: {data.path} holds latents, not pictures, so this has no effect; leave it out"
                for name in wrong
            )
        )


def _refuse_dataset_settings(config: RunConfig, source: Source) -> None:
    data = config.data
    if source.is_dataset:
        if data.streaming and not data.path.startswith("hf://"):
            raise ConfigError(f"data.streaming: {data.path} is on this disk and is read from there; leave it out")
        return
    given = {
        "data.split": data.split != "train",
        "data.config_name": data.config_name is not None,
        "data.streaming": data.streaming,
    }
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise ConfigError("\n".join(f"{name}: {data.path} is no Hugging Face dataset; leave it out" for name in wrong))
