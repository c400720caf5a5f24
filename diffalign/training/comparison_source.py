"""Where comparisons are read from: records of every kind as pictures, and the zoo's sets, which are decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from diffalign.config import RewardRunConfig, load_config
from diffalign.data import ReadCounts, Source
from diffalign.data.comparisons import OVERALL, ComparedRecord, read_comparisons
from diffalign.data.records import decoded, picture_bytes
from diffalign.exceptions import ConfigError
from diffalign.pipelines.shipped_pictures import shipped_comparisons
from diffalign.zoo import is_zoo, list_zoo, locate


def open_comparisons(
    path: str,
    kind: Literal["pairs", "groups"] = "pairs",
    *,
    dimensions: Sequence[str] = (OVERALL,),
    margin: float = 0.0,
    split: str = "train",
    config_name: str | None = None,
    columns: Mapping[Any, str] | None = None,
    limit: int | None = None,
    wanted: Callable[[str], bool] | None = None,
    on_bad: Literal["error", "skip"] = "error",
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    counts: ReadCounts | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[ComparedRecord]:
    """Read all comparisons of a source; the pictures of a zoo set are decoded by the model that drew them.

    Args:
        path: zoo://NAME/preferences, or what `Source` reads.
        wanted: whether records of a prompt are; None: all are. Then `limit` is of these.
        cache, device, progress: of decoding.
        kind, dimensions, margin, split, config_name, columns, limit, on_bad, counts: see `read_comparisons` and `Source`.

    Raises:
        ConfigError: the set cannot be had so.
        DataError: the source is missing, empty or bad.
    """
    if is_zoo(path):
        file = locate(path)
        if file.suffix != ".safetensors":
            raise ConfigError(f"{path}: is no set of comparisons; take {path.rpartition('/')[0]}/preferences")
        if set(dimensions) != {OVERALL}:
            raise ConfigError(f"{path}: its rewards speak of {OVERALL} alone, got {', '.join(dimensions)}")
        model = next(each for each in list_zoo() if each.folder == file.parent)
        found = shipped_comparisons(
            file,
            model.card["family"],
            f"zoo://{model.name}",
            kind,
            margin=margin,
            limit=limit,
            wanted=wanted,
            cache=cache,
            device=device,
            progress=progress,
        )
        if counts is not None:
            counts.kept = len(found)
            counts.ties = sum(a == b for each in found for one in each.comparisons for a, b in one.said.values())
        return found
    if path.endswith(".safetensors"):
        raise ConfigError(
            f"{path}: holds latents of a model, and which one is not known; give records that name pictures"
        )
    source = Source(path if path.startswith("hf://") else Path(path), split, config_name)
    read = read_comparisons(
        source,
        kind,
        dimensions=dimensions,
        margin=margin,
        columns=columns,
        limit=limit if wanted is None else None,
        on_bad=on_bad,
        counts=counts,
    )
    return list(islice((each for each in read if wanted is None or wanted(each.prompt)), limit))


def pixels_of(record: ComparedRecord) -> list[np.ndarray]:
    """The pictures of a record, uint8 [height, width, 3].

    Raises:
        DataError: one cannot be read; names the record.
    """
    return [
        each if isinstance(each, np.ndarray) else np.asarray(decoded(picture_bytes(each, record.id), record.id))
        for each in record.pictures
    ]


def split_by_prompt(
    records: Sequence[ComparedRecord], held_out: float, seed: int
) -> tuple[list[ComparedRecord], list[ComparedRecord]]:
    """Records to train on, and those of held-out prompts, of which training sees none.

    A prompt and the seed alone say where it belongs, whatever else a source holds; `held_out` is the share on average.

    Raises:
        ConfigError: there are too few prompts for that.
    """
    apart = {prompt: _is_held_out(prompt, held_out, seed) for prompt in {record.prompt for record in records}}
    count = sum(apart.values())
    if held_out and not 0 < count < len(apart):
        raise ConfigError(
            f"data.held_out: {held_out} of {len(apart)} prompts is {'none' if not count else 'all of them'}; "
            "set another share, or 0 to measure nothing"
        )
    return [each for each in records if not apart[each.prompt]], [each for each in records if apart[each.prompt]]


def kept_from(run: Path) -> tuple[Callable[[str], bool], Path]:
    """Which prompts a run of `task: reward` has kept from its training, and the folder of its decoded pictures.

    Raises:
        ConfigError: it is no such run, or it kept none.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"--held-out-of: {run} is not a run folder: it has no config.yaml")
    config = load_config((run / "config.yaml").resolve())
    if not isinstance(config, RewardRunConfig) or not config.data.held_out:
        raise ConfigError(f"--held-out-of: {run} is no run of task: reward that kept prompts from its training")
    share, seed = config.data.held_out, config.seed
    return lambda prompt: _is_held_out(prompt, share, seed), cache_of(config)


def cache_of(config: RewardRunConfig) -> Path:
    """Where a run keeps the pictures that it has decoded."""
    return Path(config.data.cache) if config.data.cache else Path(config.folder) / "cache"


def _is_held_out(prompt: str, share: float, seed: int) -> bool:
    digest = hashlib.sha256(f"{seed}|held out|{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
