"""The pictures of a preference set that ships as latents, decoded by the model that drew them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

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
    wanted: Callable[[str], bool] | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[ComparedRecord]:
    """Read a preference set as pictures, uint8 [height, width, 3], and what its rewards say of them.

    Args:
        path: a .safetensors file that `save_latents` wrote.
        family, model: of the model that drew them.
        kind: `pairs` (the best with the worst of each group and so on, as `ShippedLatents` has them) or `groups`.
        margin: of kind `groups`, members whose rewards are no further apart are tied.
        limit: only so many records, the first ones.
        wanted: whether records of a prompt are; None: all are.
        cache: folder in which decoded pictures are kept, but for those of some prompts alone; None: decode them now.
        device: where to decode.
        progress: called while pictures are decoded, with (done, total).

    Raises:
        ConfigError, DataError: model or set cannot be read, or do not belong together.
    """
    backbone = load_backbone(family, model, device=device)
    latents = ShippedLatents(path, backbone.autoencoder_identity(), kind)
    members, every = len(latents.of(0, 0, "")), len(latents.records)
    numbers = [number for number, (_, prompt) in enumerate(latents.records) if wanted is None or wanted(prompt)][:limit]
    if not numbers:
        return []

    def file_of(count: int) -> Path | None:
        key = content_key(latents.content_hash, backbone.autoencoder_identity(), str(count))
        return None if cache is None else cache / f"pictures-{key[:16]}.safetensors"

    whole, own = file_of(every), None if wanted is not None else file_of(len(numbers))
    if (kept := _kept(whole, every * members)) is not None:
        pictures = kept.unflatten(0, (every, members))[numbers].flatten(0, 1)
    elif (kept := _kept(own, len(numbers) * members)) is not None:
        pictures = kept
    else:
        log.info("decoding %d pictures of %s", len(numbers) * members, path.name)
        pictures = _decoded(backbone, torch.cat([latents.of(number, 0, "") for number in numbers]), progress)
        if own is not None:
            own.parent.mkdir(parents=True, exist_ok=True)
            draft = own.with_name(f".{own.name}.{os.getpid()}.partial")
            save_file({"pictures": pictures}, draft)
            draft.replace(own)
    arrays = pictures.numpy()
    records = []
    for place, number in enumerate(numbers):
        name, prompt = latents.records[number]
        shown = tuple(arrays[place * members : (place + 1) * members])
        rewards = latents.reward(number)
        assert rewards is not None
        if kind == "groups":
            values = tuple(rewards.tolist())
            records.append(ComparedRecord(name, prompt, shown, compared_by_reward(values, margin), values))
        else:
            records.append(ComparedRecord(name, prompt, shown, (Comparison(0, 1, {OVERALL: (1.0, 0.0)}),)))
    return records


def _decoded(backbone: Any, rows: Tensor, progress: Callable[[int, int], object]) -> Tensor:
    """uint8 [rows, height, width, 3]."""
    parts: list[Tensor] = []
    for start in range(0, len(rows), _BATCH):
        with torch.no_grad():
            part = backbone.decode(rows[start : start + _BATCH].to(backbone.device)).cpu()
        parts.append((part.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
        progress(start + len(part), len(rows))
    return torch.cat(parts).contiguous()


def _kept(file: Path | None, count: int) -> Tensor | None:
    """What an earlier call kept; a damaged file is made anew."""
    if file is None:
        return None
    try:
        pictures = load_file(file)["pictures"]
    except (OSError, SafetensorError, KeyError):
        return None
    return pictures if len(pictures) == count else None
