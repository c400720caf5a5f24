"""The zoo's models as the tests of backbones and pipelines want them.

Files are read once: `load` and `diffusers_pipeline` give copies with a network and a scheduler of their own, around one
shared autoencoder and text encoder. `load_fresh` shares nothing.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from torch import Tensor

from diffalign.backbones import Backbone, LoRASettings, load_backbone
from diffalign.denoising import NoiseDraw, default_time, draw_noise
from diffalign.rewards._scene_grammar import parse_caption
from diffalign.rewards._scene_renderer import render_scene
from diffalign.types import Condition
from diffalign.zoo import locate

FAMILIES = ("sd", "sd3")
PROMPTS = ["a red circle", "a blue square left of a green triangle", "two yellow crosses", ""]
LORA = LoRASettings(rank=4, alpha=10.0)  # alpha / rank is not 1: forgetting it shows
OPTIONS: dict[str, dict[str, Any]] = {"sd": {}, "sd3": {"max_sequence_length": 1}}
PIPELINES = {"sd": StableDiffusionPipeline, "sd3": StableDiffusion3Pipeline}


def path_of(family: str) -> str:
    return f"zoo://shapes-{family}"


def load_fresh(family: str, lora: LoRASettings | None = LORA, **options: Any) -> Backbone:
    return load_backbone(family, path_of(family), lora=lora, **OPTIONS[family], **options)


def load(
    family: str, lora: LoRASettings | None = LORA, *, dtype: torch.dtype = torch.float32, **options: Any
) -> Backbone:
    first = _first(family, dtype)
    return type(first)(_copy(first.pipeline, first.network_name), lora=lora, **OPTIONS[family], **options)


@functools.cache
def _first(family: str, dtype: torch.dtype) -> Backbone:
    return load_fresh(family, lora=None, dtype=dtype)


def _copy(pipeline: DiffusionPipeline, network: str) -> DiffusionPipeline:
    copied = copy.copy(pipeline)
    for name in (network, "scheduler"):
        setattr(copied, name, copy.deepcopy(getattr(pipeline, name)))
    return copied


def diffusers_pipeline(family: str) -> DiffusionPipeline:
    """The same model without any of our code."""
    return _copy(_first_pipeline(family), {"sd": "unet", "sd3": "transformer"}[family])


@functools.cache
def _first_pipeline(family: str) -> DiffusionPipeline:
    absent = {"safety_checker": None, "requires_safety_checker": False} if family == "sd" else {}
    if family == "sd3":
        absent = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = PIPELINES[family].from_pretrained(locate(path_of(family)), dtype=torch.float32, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def perturb(backbone: Backbone, name: str = "policy", scale: float = 0.05, seed: int = 0) -> None:
    """Give an adapter an effect: B is 0 at the start."""
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in backbone.network.named_parameters():
        if f"lora_B.{name}." in key:
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def training_inputs(backbone: Backbone, groups: int = 2) -> tuple[Tensor, Condition, NoiseDraw]:
    """Random latents of pairs, their condition and a draw."""
    generator = torch.Generator().manual_seed(11)
    x0 = torch.randn(groups, 2, *backbone.sample_shape(), generator=generator)
    draw = draw_noise(x0, default_time(backbone.process), generator=generator)
    return x0, backbone.condition(PROMPTS[:groups]), draw


def answer(backbone: Backbone, view: str = "policy") -> Tensor:
    """What a view says to one fixed question."""
    x0, condition, draw = training_inputs(backbone)
    with torch.no_grad():
        return backbone.view(view)(x0[:, 0], draw.t[:, 0], condition)


def scenes() -> Tensor:
    """Pictures of the kind that the zoo's autoencoder was trained on, [3, 3, 32, 32] in [0, 1]."""
    rng = np.random.default_rng(0)
    pictures = [np.asarray(render_scene(parse_caption(prompt), rng)) for prompt in PROMPTS[:3]]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
