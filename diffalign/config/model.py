"""The section `model`: which network is trained, and what of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from diffalign.config.fields import LocalPath, ShareBelowOne
from diffalign.config.params import Params

Family = Literal["sd", "sdxl", "sd3", "flux", "volume"]
FAMILIES: tuple[str, ...] = get_args(Family)
FLOW_FAMILIES = ("sd3", "flux", "volume")
T5_FAMILIES = ("sd3", "flux")  # whose prompts have a second, longer part
SHAPE_FAMILIES = ("volume",)  # which draw shapes, where the others draw pictures
GUIDED_FAMILIES = ("flux",)  # whose networks may be told a guidance scale
Precision = Literal["fp32", "bf16", "fp16"]


class LoRAConfig(Params):
    rank: PositiveInt | None = 8  # diffusers' Diffusion-DPO command: rank = alpha = 8; None: that of `start`
    alpha: PositiveFloat | None = 8.0
    dropout: ShareBelowOne = 0.0
    # None: the family's attention projections, or those of `start`
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    init: Literal["gaussian", "default"] = "gaussian"
    # a LoRA to go on with, a folder or .safetensors file of diffusers' or kohya's format; the reference is base + it
    start: LocalPath | None = None

    @model_validator(mode="before")
    @classmethod
    def _start_brings_its_own(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("start") is not None:
            return {"rank": None, "alpha": None, **given}
        return given

    def problems(self) -> Iterator[str]:
        """What does not fit together, with dotted paths."""
        for name in ("rank", "alpha"):
            if self.start is None and getattr(self, name) is None:
                yield f"model.lora.{name}: must be a number where there is no model.lora.start that brings one"
        if self.start is not None and self.targets is not None:
            yield "model.lora.targets: model.lora.start brings its own; leave them out"
        if self.start is not None and self.init != "gaussian":
            yield "model.lora.init: with model.lora.start nothing is drawn; leave it out"


class ReferenceConfig(Params):
    """Of the frozen copy that full fine-tuning compares with; a LoRA's reference is its own base."""

    precision: Precision | None = None  # None: fp32, as the network that is trained
    device: Literal["cpu"] | None = None  # cpu: kept and run there, which spares GPU memory and takes time


class ModelConfig(Params):
    family: Family
    path: LocalPath  # zoo://name, a local folder in diffusers' format, a single .safetensors file or a hub id
    config: LocalPath | None = None  # of a single file: a folder or hub id with its settings and tokenizers
    train: Literal["lora", "full"] = "lora"  # an adapter, or every weight of the network
    precision: Precision = "fp32"  # of the frozen weights; what is trained is always fp32
    quantise: Literal["8bit", "4bit"] | None = None  # the frozen base of a LoRA, by bitsandbytes (extra eightbit, CUDA)
    gradient_checkpointing: bool = False
    max_sequence_length: PositiveInt | None = None  # of T5: sd3 (None: 256) and flux (None: 512)
    guidance: NonNegativeFloat | None = None  # flux: scale that FLUX.1-dev is told in training; None: 1
    lora: LoRAConfig = LoRAConfig()  # null: as left out
    reference: ReferenceConfig = ReferenceConfig()

    @field_validator("lora", mode="before")
    @classmethod
    def _left_out(cls, value: object) -> object:
        return LoRAConfig() if value is None else value

    def problems(self) -> Iterator[str]:
        """What does not fit together, with dotted paths."""
        yield from self.lora.problems()
        if self.train == "full" and self.lora != LoRAConfig():
            yield "model.lora: is of model.train: lora, and that is 'full'; leave it out (model.lora=null)"
        if self.train == "full" and self.quantise is not None:
            yield "model.quantise: is for the frozen base of model.train: lora, and that is 'full'; leave it out"
        if self.quantise is not None and self.path.endswith(".safetensors"):
            yield "model.quantise: needs a model in diffusers' format, and model.path is a single file; leave it out"
        if self.train == "lora" and self.reference != ReferenceConfig():
            yield "model.reference: is of model.train: full (a LoRA's reference is its own base, at no cost); leave it out"

    @property
    def draws(self) -> str:
        """What rewards look at: "image", or "mesh" of a family that draws shapes."""
        return "mesh" if self.family in SHAPE_FAMILIES else "image"

    @property
    def result(self) -> str:
        """The folder of a run that what was trained is saved in."""
        return "adapter" if self.train == "lora" else "model"
