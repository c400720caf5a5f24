"""Adapters from diffusers pipelines to denoisers: one file per family."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError

from diffalign.backbones.adapter import Backbone, View
from diffalign.backbones.autoencoder import Posterior
from diffalign.backbones.distilled import check_trainable
from diffalign.backbones.flux import FluxBackbone
from diffalign.backbones.folder_swap import recover_folders, replace_folder
from diffalign.backbones.lora import LoRASettings
from diffalign.backbones.model_files import check_index, check_parts, why
from diffalign.backbones.sd import SDBackbone
from diffalign.backbones.sd3 import SD3Backbone
from diffalign.backbones.sdxl import REFINER, SDXLBackbone
from diffalign.exceptions import ConfigError
from diffalign.zoo import is_zoo, locate

__all__ = [
    "FAMILIES",
    "Backbone",
    "FluxBackbone",
    "LoRASettings",
    "Posterior",
    "SD3Backbone",
    "SDBackbone",
    "SDXLBackbone",
    "View",
    "load_backbone",
    "recover_folders",
    "replace_folder",
]

log = logging.getLogger(__name__)
FAMILIES: dict[str, type[Backbone]] = {
    kind.family: kind for kind in (SDBackbone, SDXLBackbone, SD3Backbone, FluxBackbone)
}


def load_backbone(
    family: str,
    path: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    lora: LoRASettings | None = None,
    gradient_checkpointing: bool = False,
    config: str | None = None,
    **options: Any,
) -> Backbone:
    """Load a model.

    Args:
        family: a key of `FAMILIES`.
        path: `zoo://name`, a local folder in diffusers' format, a single .safetensors file, or a hub id.
        device, dtype: of the frozen weights; LoRA weights are always float32.
        lora: the adapter to train; None for inference only.
        gradient_checkpointing: trade time for memory in the backward pass.
        config: of a single file: a folder or hub id in diffusers' format, whose settings, scheduler and tokenizers it is
            read with (the file holds weights alone); None: diffusers guesses it from the weights, and asks the hub.
        options: what the family's adapter takes besides (sd3 and flux: max_sequence_length; flux: guidance).

    Raises:
        ConfigError: no such family or model, the model is of another family, or it has no layer that `lora.targets` names.
    """
    if family not in FAMILIES:
        raise ConfigError(f"model.family: must be one of {', '.join(FAMILIES)}, got {family!r}")
    kind = FAMILIES[family]
    pipeline = _load_pipeline(kind, path, dtype, config)
    check_parts(path, pipeline)
    pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        check_trainable(pipeline, path)
    return kind(pipeline, lora=lora, gradient_checkpointing=gradient_checkpointing, **options)


def _load_pipeline(kind: type[Backbone], path: str, dtype: torch.dtype, config: str | None) -> DiffusionPipeline:
    try:
        source = str(locate(path)) if is_zoo(path) else path
    except ConfigError as error:
        raise ConfigError(f"model.path: {error}") from None
    wanted = kind.pipeline_class
    absent: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False} if kind.family == "sd" else {}
    try:
        if source.endswith(".safetensors"):
            return _load_single_file(kind, source, dtype, config, absent)
        index = check_index(path, source, wanted.load_config(source), absent)
        found = index.get("_class_name")
        if found == "StableDiffusionXLImg2ImgPipeline" and index.get("requires_aesthetics_score"):
            raise ConfigError(REFINER)
        if found != wanted.__name__:
            raise ConfigError(
                f"model.path: {path} holds a {found}, but model.family {kind.family!r} needs {wanted.__name__}"
            )
        # components that a checkpoint was saved without must be named as absent
        absent |= {name: None for name, value in index.items() if isinstance(value, list) and value == [None, None]}
        return wanted.from_pretrained(source, dtype=dtype, use_safetensors=True, **absent)  # never a foreign pickle
    except ConfigError:
        raise
    except Exception as error:  # on damaged files the libraries raise nearly anything
        local = "" if Path(source).exists() else " (no such folder here, and no such model on the hub or no network)"
        raise ConfigError(f"model.path: cannot load {path!r}{local}: {why(source, error)}") from None


def _load_single_file(
    kind: type[Backbone], source: str, dtype: torch.dtype, config: str | None, absent: dict[str, Any]
) -> DiffusionPipeline:
    """All parts from the file; or the network alone, as FLUX is published, and the rest from `config`.

    Raises:
        ConfigError: no such file; `config` is of another family; or there is none, and the file does not do without.
    """
    wanted, name = kind.pipeline_class, kind.network_name
    if not source.startswith("https://") and not Path(source).is_file():
        raise ConfigError(f"model.path: no such file: {source}")
    index = {} if config is None else wanted.load_config(config)
    if config is not None and index.get("_class_name") != wanted.__name__:
        raise ConfigError(
            f"model.config: {config} holds a {index.get('_class_name')}, but model.family {kind.family!r} needs "
            f"{wanted.__name__}"
        )
    try:
        return wanted.from_single_file(source, dtype=dtype, config=config, **absent)
    except (OSError, SingleFileComponentError) as error:
        if config is None:
            raise ConfigError(
                f"model.path: cannot load {source!r} by itself: {why(source, error)} Name a folder or hub id with the settings and "
                f"parts of a {wanted.__name__} in model.config"
            ) from None
        if isinstance(error, OSError):
            raise
    library, class_name = index[name]
    network = getattr(importlib.import_module(library), class_name)
    alone = network.from_single_file(source, config=config, subfolder=name, torch_dtype=dtype)
    return wanted.from_pretrained(config, dtype=dtype, use_safetensors=True, **{name: alone}, **absent)
