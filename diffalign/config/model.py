"""The section `model`: which network is trained, and what of it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from diffalign.config.fields import LocalPath, ShareBelowOne
from diffalign.config.params import Params

Family = Literal["sd", "sdxl", "sd3", "flux"]
FAMILIES: tuple[str, ...] = get_args(Family)
FLOW_FAMILIES = ("sd3", "flux")
T5_FAMILIES = ("sd3", "flux")  # whose prompts have a second, longer part
GUIDED_FAMILIES = ("flux",)  # whose networks may be told a guidance scale
Precision = Literal["fp32", "bf16", "fp16"]


class LoRAConfig(Params):
    rank: PositiveInt = 8  # diffusers' Diffusion-DPO command: rank = alpha = 8
    alpha: PositiveFloat = 8.0
    dropout: ShareBelowOne = 0.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # None: the family's attention projections
    init: Literal["gaussian", "default"] = "gaussian"


class ModelConfig(Params):
    family: Family
    path: LocalPath  # zoo://name, a local folder in diffusers' format, a single .safetensors file or a hub id
    config: LocalPath | None = None  # of a single file: a folder or hub id with its settings and tokenizers
    precision: Precision = "fp32"  # of the frozen weights; trained LoRA weights are always fp32
    gradient_checkpointing: bool = False
    max_sequence_length: PositiveInt | None = None  # of T5: sd3 (None: 256) and flux (None: 512)
    guidance: NonNegativeFloat | None = None  # flux: scale that FLUX.1-dev is told in training; None: 1
    lora: LoRAConfig = LoRAConfig()
