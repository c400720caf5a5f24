"""A model's shapes without its weights: built from its settings of fake tensors, which take no memory."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffalign.backbones import FAMILIES
from diffalign.backbones.adapter import Backbone, Trained
from diffalign.backbones.full_weights import FullSettings, FullWeights
from diffalign.backbones.lora import LoRASettings
from diffalign.backbones.published import PUBLISHED, Part
from diffalign.exceptions import ConfigError
from diffalign.zoo import is_zoo, locate

_ROUGHLY = (
    "the settings of a model are model_index.json and the config.json of each of its parts; weights are not needed"
)


def load_weightless(
    family: str,
    path: str,
    mode: FakeTensorMode,
    *,
    views: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    lora: LoRASettings | None = None,
    full: FullSettings | None = None,
    gradient_checkpointing: bool = False,
    config: str | None = None,
    quantise: object = None,
    **options: Any,
) -> Backbone:
    """A backbone whose parameters are fake tensors of `mode`; arguments but `views` are those of `load_backbone`.

    Its tokenizers give ids of the right number, all alike. Only settings are read: of a checkpoint in `PUBLISHED` none, of
    a folder its own, of another hub id what the hub has; of a single file those of `config`. A reference for another device
    is made like any other, and what is to be quantised is as wide as the rest.

    Args:
        views: that are held.

    Raises:
        ConfigError: the settings are not here and cannot be had, or are of another family.
    """
    kind = FAMILIES[family]
    modules: dict[str, Any] = {}
    for name, part in _describe(kind, path, config).items():
        wanted = full.dtype if full is not None and name == kind.network_name else dtype
        modules[name] = None if part is None else _build(part, wanted)
        if name.startswith("text_encoder") and part is not None:
            places = getattr(modules[name].config, "max_position_embeddings", 512)  # T5 has none: the pipeline says
            modules[name.replace("text_encoder", "tokenizer")] = _Tokenizer(places)
    taken = inspect.signature(kind.pipeline_class.__init__).parameters
    absent = {name: None for name in taken if name not in ("self", *modules) and not _has_default(taken[name])}
    plain = {"requires_safety_checker": False} if "requires_safety_checker" in taken else {}
    pipeline = kind.pipeline_class(**{name: each for name, each in modules.items() if name in taken}, **absent, **plain)
    backbone = kind(pipeline, gradient_checkpointing=gradient_checkpointing, **options)
    trained: Trained | None = None if full is None else replace(full, reference_device=None)
    if lora is not None:
        trained = replace(lora, start=None, rank=lora.rank or 8, alpha=lora.alpha or 8.0)  # `start` is not read
    with torch.device("meta"):
        backbone.weights = backbone._weights_of(trained)
        for view in views:
            backbone.hold(view)
    for module in [*parts_of(backbone).values(), *copies_of(backbone).values()]:
        _make_fake(module, mode)
    return backbone


def copies_of(backbone: Backbone) -> dict[str, nn.Module]:
    """The frozen networks that full fine-tuning holds, by view."""
    return backbone.weights.copies if isinstance(backbone.weights, FullWeights) else {}


def _has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty


def _describe(kind: type[Backbone], path: str, config: str | None) -> dict[str, Part | None]:
    """The modules and the scheduler of a pipeline; None: it has no such part."""
    source = config if path.endswith(".safetensors") else str(locate(path)) if is_zoo(path) else path
    if source is None:
        raise ConfigError(
            f"model.config: {path} is a single file, whose settings diffusers guesses from its weights; name a folder with "
            f"its settings here ({_ROUGHLY})"
        )
    if source in PUBLISHED and not Path(source).exists():
        described: dict[str, Part | None] = {**PUBLISHED[source]}
        if kind.network_name not in described or kind.family != _family_of(source):
            raise ConfigError(
                f"model.path: {path} is of family {_family_of(source)!r}, and model.family is {kind.family!r}"
            )
        return described
    try:
        return _read(kind, source, path)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        known = ", ".join(PUBLISHED)
        raise ConfigError(
            f"model.path: the settings of {path!r} are not here and cannot be had from the hub: {first}; {_ROUGHLY}: "
            f'hf download {source} --include "*.json". Known without files: {known}'
        ) from None


def _family_of(published: str) -> str:
    parts = PUBLISHED[published]
    if "unet" in parts:
        return "sdxl" if "text_encoder_2" in parts else "sd"
    families = {"SD3": "sd3", "Flux": "flux", "SparseStructure": "volume"}
    return next(family for start, family in families.items() if parts["transformer"][1].startswith(start))


def _read(kind: type[Backbone], source: str, path: str) -> dict[str, Part | None]:
    index = kind.pipeline_class.load_config(source)
    if index.get("_class_name") != kind.pipeline_class.__name__:
        raise ConfigError(
            f"model.path: {path} holds a {index.get('_class_name')}, but model.family {kind.family!r} needs "
            f"{kind.pipeline_class.__name__}"
        )
    if kind.network_name not in index:
        raise ConfigError(
            f"model.path: {path} is not in diffusers' format, whose settings are read; without weights these are known "
            f"otherwise: {', '.join(PUBLISHED)}"
        )
    found: dict[str, Part | None] = {}
    for name, value in index.items():
        if not isinstance(value, list) or name.startswith(("tokenizer", "safety_checker", "feature_extractor")):
            continue
        library, class_name = value
        if library is None:
            found[name] = None
            continue
        made = _class(library, class_name)
        if library == "transformers":
            settings = made.config_class.get_config_dict(source, subfolder=name)[0]
        else:
            settings = made.load_config(source, subfolder=name)
        found[name] = (library, class_name, dict(settings))
    return found


def _class(library: str, name: str) -> Any:
    if library not in ("diffusers", "transformers") and not library.startswith("diffalign.backbones."):
        raise ConfigError(f"model.path: a part of this model is a {library}.{name}, which diffalign does not know")
    return getattr(importlib.import_module(library), name)


def _build(part: Part, dtype: torch.dtype) -> Any:
    library, name, settings = part
    made = _class(library, name)
    if name.endswith("Scheduler"):
        return made.from_config(settings)
    with torch.device("meta"):
        module = (
            made(made.config_class.from_dict(settings)) if library == "transformers" else made.from_config(settings)
        )
    wide = (getattr(module, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else ()  # T5 overflows
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32 if set(wide) & set(name.split(".")) else dtype)
    return module


def _make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Put fake tensors of the same sizes in the place of all parameters and buffers; what was shared stays so.

    fp16 becomes bf16, which takes as much: the CPU's autocast mixes no fp16 in.
    """
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with mode:
                narrow = tensor.dtype == torch.float16
                empty = torch.empty(tensor.shape, dtype=torch.bfloat16 if narrow else tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return made[id(tensor)]

    for each in module.modules():
        for tensors in (each._parameters, each._buffers):
            for key, tensor in list(tensors.items()):
                if tensor is not None:
                    tensors[key] = fake(tensor)  # type: ignore[assignment]


class _Tokenizer:
    """Gives as many ids as are asked for: what stands in a prompt changes no shape."""

    def __init__(self, model_max_length: int) -> None:
        self.model_max_length = model_max_length

    def tokenize(self, prompt: str) -> list[str]:
        return []

    def __call__(self, prompts: Any, *, padding: Any = False, max_length: int | None = None, **_: Any) -> Any:
        rows = 1 if isinstance(prompts, str) else len(prompts)
        length = (max_length or self.model_max_length) if padding == "max_length" else 1
        ids = torch.zeros(rows, length, dtype=torch.long)
        return SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))


def parts_of(backbone: Backbone) -> dict[str, nn.Module]:
    """The modules of its pipeline by name."""
    return {name: each for name, each in backbone.pipeline.components.items() if isinstance(each, nn.Module)}


def autoencoder_of(backbone: Backbone) -> dict[str, nn.Module]:
    """Its autoencoder by name; nothing where the latents are the media."""
    return {name: each for name, each in parts_of(backbone).items() if name == "vae"}
