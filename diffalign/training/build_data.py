"""From the section `data` to groups that can be trained on: records are read, caches filled."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.config import RunConfig
from diffalign.data import (
    GroupData,
    Latents,
    PictureEncoding,
    ReadCounts,
    Share,
    ShippedLatents,
    TensorCache,
    Texts,
    encode_records,
    encode_share,
    read_records,
)
from diffalign.exceptions import ConfigError, DataError
from diffalign.zoo import is_zoo, locate

log = logging.getLogger(__name__)


def build_data(config: RunConfig, backbone: Backbone, share: Share | None = None) -> GroupData:
    """Read the records and fill the caches.

    Args:
        share: of several processes, which pictures and prompts this one encodes; None: it encodes all.

    Raises:
        DataError: the data cannot be used; names the record, or data.path.
    """
    try:
        return _build_data(config, backbone, share)
    except (ConfigError, DataError) as error:
        if str(error).startswith(("record ", "data.")):
            raise
        raise type(error)(f"data.path: {error}") from None


def _build_data(config: RunConfig, backbone: Backbone, share: Share | None) -> GroupData:
    data, share = config.data, share or Share()
    path = locate(data.path) if is_zoo(data.path) else Path(data.path)
    home = Path(data.cache) if data.cache else Path(config.folder) / "cache"
    text_print, image_print = backbone.fingerprint("text"), backbone.fingerprint("vae")
    counts = ReadCounts()
    latents: Latents
    if path.suffix == ".safetensors":
        _refuse_picture_settings(config, backbone)
        if data.kind == "labelled":
            raise ConfigError(f"data.kind: {data.path} holds ranked groups; take pairs or groups")
        latents = ShippedLatents(path, backbone.autoencoder_identity(), data.kind, pairs_per_group=data.pairs_per_group)
        wanted = backbone.sample_shape()
        if latents.sample_shape != wanted:
            raise DataError(f"{data.path}: a latent of this model is {wanted}, and these are {latents.sample_shape}")
        records = latents.records
        counts.kept, counts.ties = len(records), latents.ties
    else:
        if data.pairs_per_group is not None:
            raise ConfigError(f"data.pairs_per_group: {data.path} holds pairs, not groups; leave it out")
        encoding = PictureEncoding(
            fingerprint=image_print,
            posterior=lambda pictures: _posterior(backbone, pictures),
            resolution=backbone.checked_resolution(data.resolution),
            flip=data.flip,
            batch=data.encode_batch,
        )
        cache = home / f"latents-{image_print[:16]}"
        if share.world > 1:
            first = read_records(path, data.kind, members=data.members, columns=data.columns, on_bad=data.on_bad)
            encode_share(first, TensorCache(cache), encoding, share=share, on_bad=data.on_bad)
        rows = read_records(
            path, data.kind, members=data.members, columns=data.columns, on_bad=data.on_bad, counts=counts
        )
        records, latents = encode_records(
            rows, TensorCache(cache), encoding, seed=config.seed, on_bad=data.on_bad, counts=counts
        )
    prompts = sorted({prompt for _, prompt in records} | ({""} if data.empty_prompt_share else set()))
    texts = _build_texts(home / f"texts-{text_print[:16]}", text_print, backbone, prompts, data.encode_batch, share)
    good = sum(latents.label(number) == 1 for number in range(len(records))) if data.kind == "labelled" else None
    labels = "" if good is None else f"{good} good, {len(records) - good} bad; "
    log.info(
        "%d %s (%s%d ties left out, %d bad rows skipped)", len(records), data.kind, labels, counts.ties, counts.bad
    )
    return GroupData(
        records, latents, texts, data.members, data.empty_prompt_share, config.seed, counts, backbone.crop_leaf
    )


def _build_texts(
    folder: Path, fingerprint: str, backbone: Backbone, prompts: list[str], batch: int, share: Share
) -> Texts:
    """The cached text states of all prompts; of several processes, each encodes its share first."""

    def fill(wanted: list[str]) -> Texts:
        texts = Texts(TensorCache(folder), fingerprint)
        texts.fill(wanted, backbone.text, batch=8 * batch)
        return texts

    if share.world > 1:
        fill([prompt for index, prompt in enumerate(prompts) if share.has(index)])
        share.wait()
    return fill(prompts)


def _refuse_picture_settings(config: RunConfig, backbone: Backbone) -> None:
    """Latents that were shipped cannot be mirrored or cropped any more."""
    data = config.data
    given = {
        "data.flip": data.flip,
        "data.columns": bool(data.columns),
        "data.resolution": data.resolution not in (None, backbone.resolution),
    }
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise ConfigError(
            "\n".join(
                f"{name}: {data.path} holds latents, not pictures, so this has no effect; leave it out"
                for name in wrong
            )
        )


def _posterior(backbone: Backbone, pictures: Tensor) -> dict[str, Tensor]:
    seen = backbone.posterior(pictures)
    return {"mean": seen.mean, "log_variance": seen.log_variance}
