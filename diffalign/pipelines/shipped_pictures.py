"""The pictures of a preference set that ships as latents, decoded by the model that drew them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffalign.backbones import load_backbone
from diffalign.data import ShippedLatents, content_key
from diffalign.data.comparisons import OVERALL, ComparedRecord, Comparison, compared_by_reward

log = logging.getLogger(__name__)
_BATCH = 64  # latents in one call of the autoencoder


def shipped_comparisons(
    path: Path,
    family: str,
    model: str,
    kind: Literal["pairs", "groups"] = "pairs",
    *,
    margin: float = 0.0,
    limit: int | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> list[ComparedRecord]:
    """Read a preference set as pictures, uint8 [height, width, 3], and what its rewards say of them.

    Args:
        path: a .safetensors file that `save_latents` wrote.
        family, model: of the model that drew them.
        kind: `pairs` (the best with the worst of each group and so on, as `ShippedLatents` has them) or `groups`.
        margin: of kind `groups`, members whose rewards are no further apart are tied.
        limit: only so many records, the first ones.
        cache: folder in which decoded pictures are kept; None: decode them now.
        device: where to decode.

    Raises:
        ConfigError, DataError: model or set cannot be read, or do not belong together.
    """
    backbone = load_backbone(family, model, device=device)
    latents = ShippedLatents(path, backbone.autoencoder_identity(), kind)
    count = min(len(latents.records), limit or len(latents.records))
    members = len(latents.of(0, 0, ""))
    key = content_key(latents.content_hash, backbone.autoencoder_identity(), str(count))
    file = None if cache is None else cache / f"pictures-{key[:16]}.safetensors"
    pictures = None if file is None else _kept(file, count * members)
    if pictures is None:
        log.info("decoding %d pictures of %s", count * members, path.name)
        rows = torch.cat([latents.of(number, 0, "") for number in range(count)])
        with torch.no_grad():
            parts = [backbone.decode(part.to(backbone.device)).cpu() for part in rows.split(_BATCH)]
        pictures = (torch.cat(parts).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}.{os.getpid()}.partial")
            save_file({"pictures": pictures}, draft)
            draft.replace(file)
    arrays = pictures.numpy()
    records = []
    for number, (name, prompt) in enumerate(latents.records[:count]):
        shown = tuple(arrays[number * members : (number + 1) * members])
        rewards = latents.reward(number)
        assert rewards is not None
        if kind == "groups":
            values = tuple(rewards.tolist())
            records.append(ComparedRecord(name, prompt, shown, compared_by_reward(values, margin), values))
        else:
            records.append(ComparedRecord(name, prompt, shown, (Comparison(0, 1, {OVERALL: (1.0, 0.0)}),)))
    return records


def _kept(file: Path, count: int) -> Tensor | None:
    """What an earlier call kept; a damaged file is made anew."""
    try:
        pictures = load_file(file)["pictures"]
    except (OSError, SafetensorError, KeyError):
        return None
    return pictures if len(pictures) == count else None
