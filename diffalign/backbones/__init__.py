"""Adapters from diffusers pipelines to denoisers: one file per family."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from diffusers.loaders import FromSingleFileMixin
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from torch import nn

from diffalign.backbones.adapter import Backbone, Trained, View
from diffalign.backbones.adapter_files import put_adapter, refuse_pickles, write_adapter
from diffalign.backbones.autoencoder import Posterior
from diffalign.backbones.distilled import check_trainable
from diffalign.backbones.encoders import Encoders
from diffalign.backbones.flux import FluxBackbone
from diffalign.backbones.folder_swap import recover_folders, replace_folder
from diffalign.backbones.full_weights import FullSettings
from diffalign.backbones.kohya import write_kohya
from diffalign.backbones.lora import LoRASettings
from diffalign.backbones.model_files import check_index, check_parts, check_prediction, why
from diffalign.backbones.pipeline_files import write_pipeline
from diffalign.backbones.quantise import Bits, check_bitsandbytes, check_quantisation, quantisation_of
from diffalign.backbones.sd import SDBackbone
from diffalign.backbones.sd3 import SD3Backbone
from diffalign.backbones.sdxl import REFINER, SDXLBackbone
from diffalign.backbones.volume import VolumeBackbone
from diffalign.backbones.volume_pipeline import VolumePipeline
from diffalign.exceptions import ConfigError, DiffalignError
from diffalign.zoo import is_zoo, locate

__all__ = [
    "FAMILIES",
    "Backbone",
    "FluxBackbone",
    "FullSettings",
    "LoRASettings",
    "Posterior",
    "SD3Backbone",
    "SDBackbone",
    "SDXLBackbone",
    "View",
    "VolumeBackbone",
    "VolumePipeline",
    "check_bitsandbytes",
    "load_backbone",
    "load_network",
    "load_skeleton",
    "put_adapter",
    "recover_folders",
    "refuse_pickles",
    "replace_folder",
    "write_adapter",
    "write_kohya",
    "write_pipeline",
]

log = logging.getLogger(__name__)
FAMILIES: dict[str, type[Backbone]] = {
    kind.family: kind for kind in (SDBackbone, SDXLBackbone, SD3Backbone, FluxBackbone, VolumeBackbone)
}


def load_backbone(
    family: str,
    path: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    lora: LoRASettings | None = None,
    full: FullSettings | None = None,
    gradient_checkpointing: bool = False,
    config: str | None = None,
    network_waits: bool = False,
    quantise: Bits | None = None,
    **options: Any,
) -> Backbone:
    """Load a model.

    Args:
        family: a key of `FAMILIES`.
        path: `zoo://name`, a local folder in diffusers' format (volume: or TRELLIS'), a single .safetensors file, or a hub
            id.
        device, dtype: of the frozen weights; LoRA weights are always float32.
        lora: the adapter to train; None, and no `full`, for inference only.
        full: how to train the whole network.
        gradient_checkpointing: trade time for memory in the backward pass.
        config: of a single file: a folder or hub id in diffusers' format, whose settings, scheduler and tokenizers it is
            read with (the file holds weights alone); None: diffusers guesses it from the weights, and asks the hub.
        network_waits: leave the network in main memory, so that the encoders have the device for themselves, until
            `backbone.network.to(device)`.
        quantise: the frozen network in 8 or 4 bit; not with `full`.
        options: what the family's adapter takes besides (sd3 and flux: max_sequence_length; flux: guidance).

    Raises:
        ConfigError: no such family or model, the model is of another family, it has no layer that `lora.targets` names, or
            it cannot be quantised here.
        MissingExtraError: `quantise` without bitsandbytes.
    """
    kind = _kind_of(family)
    if quantise is not None:
        check_quantisation(quantise, device)
    network_dtype = dtype if full is None else full.dtype
    pipeline = _load_pipeline(kind, path, dtype, config, network_dtype, quantise)
    if network_waits and quantise is None:  # what is quantised is made so on its way to the device
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module) and name != kind.network_name:
                part.to(device)
    else:
        pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    trained: Trained | None = lora if full is None else full
    if trained is not None:
        check_trainable(pipeline, path)
    backbone = kind(pipeline, trained=trained, gradient_checkpointing=gradient_checkpointing, **options)
    backbone.encoders = Encoders(pipeline, partial(_load_pipeline, kind, path, dtype, config, None))
    return backbone


def load_network(family: str, path: str, *, dtype: torch.dtype = torch.float32, config: str | None = None) -> nn.Module:
    """The network of a model alone, as `load_backbone` would load it.

    Raises:
        ConfigError: what `load_backbone` raises.
    """
    kind = _kind_of(family)
    if path.endswith(".safetensors"):
        network: nn.Module = getattr(_load_pipeline(kind, path, dtype, config, dtype), kind.network_name)
        return network
    source = str(locate(path)) if is_zoo(path) else path
    try:
        index = kind.pipeline_class.load_config(source)
        if kind.network_name not in index:  # a published layout that is not diffusers'
            return getattr(_load_pipeline(kind, path, dtype, None, dtype), kind.network_name)
        found = _network_class(kind, index)
        return found.from_pretrained(source, subfolder=kind.network_name, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"model.path: cannot load the network of {path!r}: {str(error).splitlines()[0]}") from None


def load_skeleton(family: str, path: str, *, config: str | None = None) -> nn.Module:
    """The network of a model without its weights, to put an adapter in and write it out again.

    Its tensors hold nothing; memory that nobody writes into is not taken.

    Raises:
        ConfigError: what `load_backbone` raises.
    """
    kind = _kind_of(family)
    if path.endswith(".safetensors") and config is None:  # only its weights say what it is
        return load_network(family, path)
    named = config or path
    source = str(locate(named)) if is_zoo(named) else named
    try:
        index = kind.pipeline_class.load_config(source)
        if kind.network_name not in index:
            return load_network(family, path)
        found = _network_class(kind, index)
        settings = found.load_config(source, subfolder=kind.network_name)
        with init_empty_weights():
            network: nn.Module = found.from_config(settings)
        return network.to_empty(device="cpu")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"model.path: cannot read what {path!r} is: {str(error).splitlines()[0]}") from None


def _kind_of(family: str) -> type[Backbone]:
    if family not in FAMILIES:
        raise ConfigError(f"model.family: must be one of {', '.join(FAMILIES)}, got {family!r}")
    return FAMILIES[family]


def _network_class(kind: type[Backbone], index: Mapping[str, Any]) -> Any:
    library, class_name = index[kind.network_name]
    return getattr(importlib.import_module(library), class_name)


def _load_pipeline(
    kind: type[Backbone],
    path: str,
    dtype: torch.dtype,
    config: str | None,
    network_dtype: torch.dtype | None,
    quantise: Bits | None = None,
) -> DiffusionPipeline:
    """With its network in `network_dtype`; None: of a folder without it."""
    try:
        source = str(locate(path)) if is_zoo(path) else path
    except ConfigError as error:
        raise ConfigError(f"model.path: {error}") from None
    wanted = kind.pipeline_class
    absent: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False} if kind.family == "sd" else {}
    try:
        if source.endswith(".safetensors"):
            found = _load_single_file(kind, source, network_dtype or dtype, config, absent)
            if kind.family in ("sd", "sdxl") and Path(source).is_file():
                check_prediction(Path(source), found)
            return _in_dtypes(found, kind.network_name, dtype)
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
        if network_dtype is None:
            absent[kind.network_name] = None
        dtypes = {"default": dtype, kind.network_name: network_dtype or dtype}
        if quantise is not None:
            absent["quantization_config"] = quantisation_of(kind.network_name, quantise, network_dtype or dtype)
        pipeline = wanted.from_pretrained(source, dtype=dtypes, use_safetensors=True, **absent)  # no foreign pickle
        check_parts(path, pipeline)
        return pipeline
    except DiffalignError:
        raise
    except Exception as error:  # on damaged files the libraries raise nearly anything
        local = "" if Path(source).exists() else " (no such folder here, and no such model on the hub or no network)"
        raise ConfigError(f"model.path: cannot load {path!r}{local}: {why(source, error)}") from None


def _in_dtypes(pipeline: DiffusionPipeline, network: str, dtype: torch.dtype) -> DiffusionPipeline:
    """All but the network in the other dtype."""
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and name != network and part.dtype != dtype:
            part.to(dtype)
    return pipeline


def _load_single_file(
    kind: type[Backbone], source: str, dtype: torch.dtype, config: str | None, absent: dict[str, Any]
) -> DiffusionPipeline:
    """All parts from the file; or the network alone, as FLUX is published, and the rest from `config`.

    Raises:
        ConfigError: no such file; `config` is of another family; or there is none, and the file does not do without.
    """
    wanted, name = kind.pipeline_class, kind.network_name
    if not issubclass(wanted, FromSingleFileMixin):
        raise ConfigError(
            f"model.path: family {kind.family!r} is not published in single files, got {source}; name a folder or hub id"
        )
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
                f"model.path: cannot load {source!r} by itself: {why(source, error)} Name a folder or hub id with the "
                f"settings and parts of a {wanted.__name__} in model.config"
            ) from None
        if isinstance(error, OSError):
            raise
    alone = _network_class(kind, index).from_single_file(source, config=config, subfolder=name, torch_dtype=dtype)
    return wanted.from_pretrained(config, dtype=dtype, use_safetensors=True, **{name: alone}, **absent)
