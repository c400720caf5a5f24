"""One small model per family as the tests of backbones and pipelines want them: the zoo's, and random ones of the rest.

Files are read once: `load` and `diffusers_pipeline` give copies with a network and a scheduler of their own, around one
shared autoencoder and text encoder. `load_fresh` shares nothing.
"""

from __future__ import annotations

import atexit
import copy
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from diffalign.backbones import Backbone, LoRASettings, VolumePipeline, load_backbone
from diffalign.denoising import NoiseDraw, default_time, draw_noise
from diffalign.rewards._scene_grammar import parse_caption
from diffalign.rewards._scene_renderer import render_scene
from diffalign.types import Condition
from diffalign.zoo import locate
from makers.tiny_pipelines import SIDE, save_flux, save_sdxl, save_volume

FAMILIES = ("sd", "sdxl", "sd3", "flux")  # of pictures
ALL_FAMILIES = (*FAMILIES, "volume")
ZOO_FAMILIES = ("sd", "sd3")
PROMPTS = ["a red circle", "a blue square left of a green triangle", "two yellow crosses", ""]
LORA = LoRASettings(rank=4, alpha=10.0)  # alpha / rank is not 1: forgetting it shows
OPTIONS: dict[str, dict[str, Any]] = {
    "sd": {},
    "sdxl": {},
    "sd3": {"max_sequence_length": 1},
    "flux": {"max_sequence_length": 24},
    "volume": {},
}
PIPELINES = {
    "sd": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline,
    "flux": FluxPipeline,
    "volume": VolumePipeline,
}
NETWORKS = {"sd": "unet", "sdxl": "unet", "sd3": "transformer", "flux": "transformer", "volume": "transformer"}


def path_of(family: str) -> str:
    return f"zoo://shapes-{family}" if family in ZOO_FAMILIES else str(_random_folder(family))


def folder_of(family: str) -> Path:
    return locate(path_of(family)) if family in ZOO_FAMILIES else _random_folder(family)


@functools.cache
def _random_folder(family: str) -> Path:
    home = Path(tempfile.mkdtemp(prefix="diffalign-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return {"sdxl": save_sdxl, "flux": save_flux, "volume": save_volume}[family](home / "model")


def load_fresh(family: str, lora: LoRASettings | None = LORA, **options: Any) -> Backbone:
    return load_from(family, path_of(family), lora=lora, **options)


def load_from(family: str, path: str, lora: LoRASettings | None = LORA, **options: Any) -> Backbone:
    backbone = load_backbone(family, path, lora=lora, **OPTIONS[family] | options)
    of_test_size(backbone.pipeline, family)
    return backbone


def of_test_size(pipeline: DiffusionPipeline, family: str) -> None:
    """FLUX has no size of its own: its pipeline draws 128 latents along a side unless told otherwise."""
    if family == "flux":
        pipeline.default_sample_size = SIDE


def load(
    family: str, lora: LoRASettings | None = LORA, *, dtype: torch.dtype = torch.float32, **options: Any
) -> Backbone:
    first = _first(family, dtype)
    return type(first)(_copy(first.pipeline, first.network_name), trained=lora, **OPTIONS[family], **options)


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
    return _copy(_first_pipeline(family), NETWORKS[family])


@functools.cache
def _first_pipeline(family: str) -> DiffusionPipeline:
    absent = {"safety_checker": None, "requires_safety_checker": False} if family == "sd" else {}
    if family == "sd3":
        absent = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = PIPELINES[family].from_pretrained(folder_of(family), dtype=torch.float32, **absent)
    if family == "sdxl":  # its own sampler is Euler's, on a noise of another scale
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    of_test_size(pipeline, family)
    return pipeline


def diffusers_pictures(
    pipeline: DiffusionPipeline, family: str, prompts: list[str], seeds: list[int], output_type: str, **options: Any
) -> Tensor:
    """What the pipeline draws with these seeds, media or latents; latents [batch, C, h, w] for the output type "latent"."""
    drawn = pipeline(
        prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type=output_type,
        **OPTIONS[family],
        **options,
    )
    if family == "volume":
        return drawn.volumes
    drawn = drawn.images
    if family != "flux" or output_type != "latent":
        return drawn
    side = pipeline.default_sample_size * pipeline.vae_scale_factor
    return pipeline._unpack_latents(drawn, side, side, pipeline.vae_scale_factor)


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
