"""Whole models in files, in the format of diffusers: what `DiffusionPipeline.from_pretrained(folder)` reads."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from diffalign.backbones.folder_swap import recover_folder, replace_folder
from diffalign.exceptions import ConfigError, SaveError


def write_pipeline(folder: Path, pipeline: Any, part: str, network: nn.Module, card: str | None = None) -> None:
    """Write a pipeline with `network` in the place of its `part` ("unet", "transformer"), whole or not at all.

    Args:
        folder: replaced, if there is one.
        card: the text of README.md.

    Raises:
        SaveError: it cannot be written; the folder is as it was.
    """
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    whole = copy.copy(pipeline)
    setattr(whole, part, network)
    try:
        whole.save_pretrained(draft, safe_serialization=True)
        if card is not None:
            (draft / "README.md").write_text(card, encoding="utf-8")
        replace_folder(draft, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise SaveError(f"{folder}: cannot be written ({error}); what was saved before is unharmed") from None


def read_network(folder: Path, network: type[Any], part: str) -> dict[str, Tensor]:
    """The tensors of a pipeline's network.

    Raises:
        ConfigError: no such folder, or none that can be read.
    """
    recover_folder(folder)
    if not folder.exists():
        raise ConfigError(f"no model in {folder}: no such folder")
    try:
        found: nn.Module = network.from_pretrained(folder, subfolder=part, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"cannot read the model in {folder}: {str(error).splitlines()[0]}") from None
    return dict(found.state_dict())
