"""From settings to parts. The only place that knows both the config and the classes."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from diffalign.backbones import Backbone, FullSettings, LoRASettings, load_backbone, load_network, refuse_pickles
from diffalign.config import RunConfig
from diffalign.config.model import GUIDED_FAMILIES, T5_FAMILIES, ModelConfig, Precision
from diffalign.config.samplers import SamplerParams
from diffalign.config.time import LogitNormalTime as LogitNormalParams
from diffalign.config.time import ShiftedTime as ShiftedParams
from diffalign.config.time import StratifiedTime as StratifiedParams
from diffalign.data import read_prompts
from diffalign.denoising import (
    VP,
    LogitNormalTime,
    SampleTime,
    ShiftedTime,
    StratifiedTime,
    default_time,
)
from diffalign.exceptions import ConfigError, DataError
from diffalign.pipelines import ImageGenerator
from diffalign.training.build_sampler import build_sampler
from diffalign.training.devices import find_device
from diffalign.zoo import is_zoo, locate

log = logging.getLogger(__name__)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_backbone(config: RunConfig, device: torch.device, *, network_waits: bool = False) -> Backbone:
    """Load the model with what is trained of it as it starts: a fresh adapter, seeded by the run's seed, or the network.

    `network_waits` is as in `load_backbone`.

    Raises:
        ConfigError: there is no such model, or its layers are not those that the adapter is for.
    """
    model = config.model
    return load_backbone(
        model.family, model.path, device=device, network_waits=network_waits, **model_arguments(config)
    )


def model_arguments(config: RunConfig) -> dict[str, Any]:
    """What the section `model` says of how to load the model that is to be trained, as `load_backbone` takes it."""
    model, lora = config.model, config.model.lora
    if model.train == "full":
        return _arguments(model) | {"full": _full_settings(model, torch.float32)}
    start = None if lora.start is None else Path(lora.start)
    adapter = LoRASettings(lora.rank, lora.alpha, lora.targets, lora.init, lora.dropout, config.seed, start)
    return _arguments(model) | {"lora": adapter}


def build_trained(config: RunConfig, run: Path, device: torch.device, precision: Precision | None = None) -> Backbone:
    """Load what a run has trained, as its "policy"; its "reference" is the base model.

    `precision` is of the frozen weights, and of a network that was trained as a whole; None is what the run had.

    Raises:
        ConfigError: the run has none yet, or it or its model cannot be loaded.
    """
    if precision is not None:
        asked = {"precision": precision, "quantise": None}
        config = config.model_copy(update={"model": config.model.model_copy(update=asked)})
    model, folder = config.model, run / config.model.result
    if not folder.is_dir():
        raise ConfigError(f"{run} has no {folder.name} yet: finish it with diffalign train --resume {run}")
    if model.train == "full":
        dtype = torch.float32 if precision is None else DTYPES[precision]
        given = _arguments(model) | {"config": None, "full": _full_settings(model, dtype)}
        return load_backbone(model.family, str(folder), device=device, **given)
    backbone = build_backbone(config, device)
    backbone.load_adapter(folder)
    return backbone


def _full_settings(model: ModelConfig, dtype: torch.dtype) -> FullSettings:
    reference = model.reference
    return FullSettings(
        dtype,
        None if reference.precision is None else DTYPES[reference.precision],
        reference.device,
        partial(load_network, model.family, model.path, dtype=dtype, config=model.config),
    )


def _arguments(model: ModelConfig) -> dict[str, Any]:
    """All but what is trained."""
    given: dict[str, Any] = {
        "dtype": DTYPES[model.precision],
        "gradient_checkpointing": model.gradient_checkpointing,
        "config": model.config,
        "quantise": model.quantise,
    }
    if model.family in T5_FAMILIES:
        given["max_sequence_length"] = model.max_sequence_length
    if model.family in GUIDED_FAMILIES:
        given["guidance"] = model.guidance
    return given


def build_inference(
    family: str,
    path: str,
    adapter: Path | None,
    device: str | None,
    precision: Precision = "fp32",
    config: str | None = None,
    *,
    setting: str = "--adapter",
) -> Backbone:
    """Load a model for drawing alone; a LoRA, of diffalign or anyone else, is loaded into its "reference".

    `config` is of a model in a single file, as `model.config` in a run's settings; `setting` names the adapter in messages.

    Raises:
        ConfigError: the model or the adapter cannot be loaded.
    """
    if adapter is not None and not adapter.exists():
        raise ConfigError(f"{setting}: no such file or folder: {adapter}")
    backbone = load_backbone(family, path, device=find_device(device), dtype=DTYPES[precision], config=config)
    if adapter is not None:
        refuse_pickles(adapter, setting)
        try:
            backbone.pipeline.load_lora_weights(adapter, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ConfigError(
                f"{setting}: {adapter} is not a LoRA of this model: {str(error).splitlines()[0]}"
            ) from None
    return backbone


def build_time(config: RunConfig, backbone: Backbone) -> SampleTime:
    """The sampler of training times, for pictures of the training resolution."""
    time, process = config.time, backbone.process
    model_shift = backbone.time_shift(config.data.resolution)
    if isinstance(time, LogitNormalParams):
        return LogitNormalTime(time.mean, time.std, model_shift if time.shift == "model" else time.shift)
    if isinstance(time, ShiftedParams):
        return ShiftedTime(model_shift if time.shift == "model" else time.shift)
    if isinstance(time, StratifiedParams):
        return StratifiedTime(config.groups_per_step, process.entries if isinstance(process, VP) else None)
    return default_time(process)


def build_generator(config: RunConfig, backbone: Backbone) -> ImageGenerator:
    """What draws the held-out pictures, as the section `evaluation` says.

    Raises:
        ConfigError: the model cannot be sampled so.
    """
    evaluation = config.evaluation
    return _generator(config, backbone, "evaluation", evaluation.sampler, evaluation.guidance_scale, evaluation.batch)


def build_drawing(config: RunConfig, backbone: Backbone, round_number: int = 0) -> ImageGenerator:
    """What draws the pictures of a round of an online run, as the section `online` says.

    Raises:
        ConfigError: the model cannot be sampled so.
    """
    online = config.online
    assert online is not None
    batch = config.training.max_batch or config.training.groups * online.members
    return _generator(config, backbone, "online", online.sampler, online.guidance_scale, batch, round_number)


def _generator(
    config: RunConfig,
    backbone: Backbone,
    section: str,
    params: SamplerParams | None,
    guidance: float,
    batch: int,
    round_number: int = 0,
) -> ImageGenerator:
    resolution = config.data.resolution
    try:
        backbone.sample_shape(resolution)
    except ValueError as error:
        raise ConfigError(_named("data.resolution", error)) from None
    try:
        sampler = None
        if params is not None:
            times = backbone.times(params.steps, resolution)
            sampler = build_sampler(params, times, round_number=round_number, seed=config.seed)
        return ImageGenerator.create(
            backbone,
            sampler=sampler,
            steps=None if params is None else params.steps,
            guidance_scale=guidance,
            batch=batch,
            resolution=resolution,
        )
    except ValueError as error:
        raise ConfigError(_named(f"{section}.sampler.steps", error)) from None


def _named(setting: str, error: ValueError) -> str:
    """The text with the setting's whole path, where the model knows but its last part."""
    text = str(error).removeprefix(f"{setting}: ").removeprefix(f"{setting.rpartition('.')[2]}: ")
    return f"{setting}: {text}"


def held_out_prompts(config: RunConfig) -> list[str]:
    """The prompts of the section `evaluation`, empty when it names none."""
    source = config.evaluation.prompts
    if source is None:
        return []
    try:
        prompts = read_prompts(locate(source) if is_zoo(source) else Path(source))
    except (ConfigError, DataError) as error:
        raise type(error)(f"evaluation.prompts: {error}") from None
    if len(prompts) < (config.evaluation.count or 0):
        log.info(
            "evaluation.count: %d prompts are asked for, and %s has %d", config.evaluation.count, source, len(prompts)
        )
    return prompts[: config.evaluation.count]
