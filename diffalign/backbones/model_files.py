"""What is wrong with a model's files, in words: the libraries raise nearly anything, or load something else."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from diffalign.exceptions import ConfigError

log = logging.getLogger(__name__)


def check_index(path: str, source: str, index: object, absent: Collection[str]) -> dict[str, Any]:
    """The content of a model_index.json, if every part that it names has a folder (of a hub id nobody knows).

    Raises:
        ConfigError: it is none, or a folder is missing.
    """
    if not isinstance(index, dict) or not index.get("_class_name"):
        raise ConfigError(f"model.path: cannot load {path!r}: its model_index.json names no pipeline class")
    parts = [name for name, value in index.items() if isinstance(value, list) and value[:1] != [None]]
    lacking = [name for name in parts if name not in absent and not (Path(source) / name).is_dir()]
    if Path(source).is_dir() and lacking:
        raise ConfigError(
            f"model.path: cannot load {path!r}: it has no folder {', '.join(lacking)}, which its model_index.json names; "
            "copy the model again, whole"
        )
    return index


def check_parts(path: str, pipeline: DiffusionPipeline) -> None:
    """Refuse what the libraries would load half of: a network without all of its weights, a tokenizer without words.

    Raises:
        ConfigError: names the part.
    """
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            lacking = [each for each, tensor in part.state_dict().items() if tensor.is_meta]
            if lacking:
                raise ConfigError(
                    f"model.path: cannot load {path!r}: the weights of {name} lack {', '.join(lacking[:3])}"
                    f"{', ...' if len(lacking) > 3 else ''}; they are of another model, or damaged"
                )
        elif name.startswith("tokenizer") and part is not None and len(part) < 4:  # its special tokens
            raise ConfigError(
                f"model.path: cannot load {path!r}: {name} knows no words; its folder lacks tokenizer.json or vocab.json"
            )


def check_prediction(file: Path, pipeline: DiffusionPipeline) -> None:
    """Refuse a single file that says it predicts v where the settings it was read with say something else.

    Trained so, the first loss would be right and every one after it wrong. The marks are the empty tensors `v_pred` and
    `ztsnr` that ComfyUI and sd-scripts go by, and modelspec's `prediction_type`.

    Raises:
        ConfigError: names the setting of the scheduler.
    """
    settings: Any = pipeline.scheduler.config
    predicts_v = settings.get("prediction_type") == "v_prediction"
    with safe_open(file, framework="pt") as content:
        names, about = set(content.keys()), content.metadata() or {}
    wanted = {}
    if ("v_pred" in names or about.get("modelspec.prediction_type") == "v") and not predicts_v:
        wanted["prediction_type"] = '"v_prediction"'
    if "ztsnr" in names and not settings.get("rescale_betas_zero_snr"):
        wanted["rescale_betas_zero_snr"] = "true"
    if wanted:
        raise ConfigError(
            f"model.config: {file.name} says that it was trained with {' and '.join(wanted)}, and the scheduler that it is "
            "read with says otherwise; name a folder whose scheduler/scheduler_config.json has "
            + ", ".join(f'"{name}": {value}' for name, value in wanted.items())
        )
    if re.search(r"v[-_ ]?pred", file.stem, re.IGNORECASE) and not predicts_v:
        log.warning(
            "model.path: %s is called v-prediction, and the scheduler that it is read with says %s: if the name is right, "
            "name a folder with its settings in model.config",
            file.name,
            settings.get("prediction_type"),
        )


def why(source: str, error: Exception) -> str:
    """The first line of what a library said, or the file that is cut off."""
    for file in sorted(Path(source).glob("*/*.safetensors")) if Path(source).is_dir() else [Path(source)]:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as damage:
            return f"{file} is damaged or cut off ({damage}); copy it again"
        except OSError:  # no file, or one that is no safetensors at all
            continue
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
