"""From settings to parts. The only place that knows both the config and the classes."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError

from diffalign.backbones import Backbone, LoRASettings, load_backbone
from diffalign.config import RunConfig
from diffalign.config.model import GUIDED_FAMILIES, T5_FAMILIES, Precision
from diffalign.config.time import LogitNormalTime as LogitNormalParams
from diffalign.config.time import ShiftedTime as ShiftedParams
from diffalign.config.time import StratifiedTime as StratifiedParams
from diffalign.data import (
    read_prompts,
)
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
from diffalign.training.devices import find_device
from diffalign.zoo import is_zoo, locate

log = logging.getLogger(__name__)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_backbone(config: RunConfig, device: torch.device) -> Backbone:
    """Load the model with a fresh adapter, seeded by the run's seed.

    Raises:
        ConfigError: there is no such model, or its layers are not those that the adapter is for.
    """
    model, lora = config.model, config.model.lora
    settings = LoRASettings(lora.rank, lora.alpha, lora.targets, lora.init, lora.dropout, config.seed)
    options: dict[str, object] = {}
    if model.family in T5_FAMILIES:
        options["max_sequence_length"] = model.max_sequence_length
    if model.family in GUIDED_FAMILIES:
        options["guidance"] = model.guidance
    return load_backbone(
        model.family,
        model.path,
        device=device,
        dtype=_DTYPES[model.precision],
        lora=settings,
        gradient_checkpointing=model.gradient_checkpointing,
        config=model.config,
        **options,
    )


def build_inference(
    family: str,
    path: str,
    adapter: Path | None,
    device: str | None,
    precision: Precision = "fp32",
    config: str | None = None,
) -> Backbone:
    """Load a model for drawing alone; a LoRA, of diffalign or anyone else, is loaded into its "reference".

    `config` is of a model in a single file, as `model.config` in a run's settings.

    Raises:
        ConfigError: the model or the adapter cannot be loaded.
    """
    if adapter is not None and not adapter.exists():
        raise ConfigError(f"--adapter: no such file or folder: {adapter}")
    backbone = load_backbone(family, path, device=find_device(device), dtype=_DTYPES[precision], config=config)
    if adapter is not None:
        _refuse_pickles(adapter)
        try:
            backbone.pipeline.load_lora_weights(adapter, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ConfigError(
                f"--adapter: {adapter} is not a LoRA of this model: {str(error).splitlines()[0]}"
            ) from None
    return backbone


def _refuse_pickles(adapter: Path) -> None:
    """A pickle runs whatever code is in it when it is opened.

    Raises:
        ConfigError: a file of another format than safetensors, or a folder with pickles alone.
    """
    files = sorted(adapter.iterdir()) if adapter.is_dir() else [adapter]
    if any(path.suffix == ".safetensors" for path in files):
        return
    pickles = [path.name for path in files if adapter.is_file() or path.suffix in _PICKLES]
    if pickles:
        raise ConfigError(
            f"--adapter: {adapter}: {', '.join(pickles)} is not a .safetensors file; other formats can run code when they "
            "are opened, so they are not read: ask for the LoRA in safetensors, or convert it where you trust it"
        )


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
    sampler = evaluation.sampler
    options = {} if sampler is None else sampler.model_dump(exclude={"name"}) | {"sampler": sampler.name}
    try:
        backbone.sample_shape(config.data.resolution)
    except ValueError as error:
        raise ConfigError(_named("data.resolution", error)) from None
    try:
        return ImageGenerator.create(
            backbone,
            guidance_scale=evaluation.guidance_scale,
            batch=evaluation.batch,
            resolution=config.data.resolution,
            **options,
        )
    except ValueError as error:
        raise ConfigError(_named("evaluation.sampler.steps", error)) from None


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
    return prompts[: config.evaluation.count]
