"""What every image family shares: a diffusers pipeline seen as denoisers, an encoder and a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from diffalign.backbones.adapter_files import read_adapter, write_adapter
from diffalign.backbones.fingerprint import fingerprint_of, network_fingerprint
from diffalign.backbones.latent_space import LatentSpace
from diffalign.backbones.lora import (
    LoRASettings,
    active_adapter,
    adapter_state,
    add_adapter,
    blend_adapter,
    load_adapter_state,
    lora_layers,
)
from diffalign.denoising import Prediction, Process
from diffalign.exceptions import ConfigError
from diffalign.types import Condition

POLICY = "policy"


@dataclass(frozen=True)
class View:
    """One of the networks that a backbone holds, as a denoiser."""

    backbone: Backbone
    name: str

    @property
    def process(self) -> Process:
        return self.backbone.process

    @property
    def prediction(self) -> Prediction:
        return self.backbone.prediction

    def __call__(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        with self.backbone.active(self.name):
            return self.backbone.predict(x_t, t, condition)


class Backbone(LatentSpace, ABC):
    """A diffusers pipeline with its conventions declared.

    Media are pictures, float [batch, 3, H, W] in [0, 1]; x0 are latents [batch, C, h, w], scaled as the network was
    trained on them, whatever layout the network itself takes. The network is frozen but for the adapter "policy"; the
    reference is the same network with the adapter off, so it costs no second copy of the weights.

    Attributes:
        process, prediction: the network's conventions.
        pipeline: the diffusers pipeline, with the adapter in it.
        network: its denoiser, frozen but for the adapter.
    """

    family: ClassVar[str]
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    network_name: ClassVar[str]  # the pipeline's attribute
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    process: Process
    prediction: Prediction

    def __init__(
        self, pipeline: DiffusionPipeline, *, lora: LoRASettings | None = None, gradient_checkpointing: bool = False
    ) -> None:
        self.pipeline = pipeline
        self.network: nn.Module = getattr(pipeline, self.network_name)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self.wrapped: nn.Module = self.network  # what is called: accelerate's wrapper, once prepared
        self._lora = lora
        self._layers: list[LoraLayer] = []
        self._adapters: list[str] = []
        if lora is not None:
            self._add(POLICY)
        if gradient_checkpointing:
            self.network.enable_gradient_checkpointing()

    # ------------------------------------------------------------ what a family says

    @abstractmethod
    def predict(
        self, x_t: Float[Tensor, "batch *sample"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch *sample"]:
        """Call the network as it is switched now."""

    @abstractmethod
    def _encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text leaves of a Condition [prompts, ...]."""

    @abstractmethod
    def times(self, steps: int, resolution: int | None = None) -> Float[Tensor, " times"]:
        """The process times, descending, at which the checkpoint's own scheduler samples in `steps` steps.

        Args:
            steps: one less than there are times.
            resolution: pixels along a side, for schedulers that go by it; None: the model's own.

        Raises:
            ConfigError: the scheduler has no such number of steps.
        """

    def time_shift(self, resolution: int | None = None) -> float:
        """How the checkpoint's scheduler shifts times at that resolution: t -> shift t / (1 + (shift - 1) t)."""
        return 1.0

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network is told the guidance scale, in the place of a second call with the empty prompt."""
        return False

    def _null(self, empty: dict[str, Tensor]) -> dict[str, Tensor]:
        """What guidance compares with, as the pipeline does it, given the leaves of the empty prompt."""
        return empty

    def _network_options(self) -> str:
        """What the network's answers depend on besides weights, inputs and scheduler."""
        return ""

    def _unlearnable(self) -> list[str]:
        """Layers whose output nothing reads: an adapter on them would stay as it is for ever."""
        return []

    # ------------------------------------------------------------ networks

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def view(self, name: str) -> View:
        """A denoiser: "policy", "reference" (the adapter off), or a snapshot's name ("behaviour", "ema").

        Raises:
            ValueError: there is no such snapshot yet.
        """
        if name == POLICY and self._lora is None:
            raise ValueError('this backbone was loaded without LoRA: it has no "policy", only "reference"')
        if name != "reference" and name not in self._adapters:
            have = ", ".join(["reference", *self._adapters])
            raise ValueError(f"no view {name!r}; there are {have}; make one with snapshot({name!r})")
        return View(self, name)

    def active(self, name: str) -> Any:
        """A context in which the network runs as that view."""
        return active_adapter(self._layers, None if name == "reference" else name)

    def snapshot(self, name: str, decay: float = 0.0) -> None:
        """Copy the policy into the frozen view `name`; with decay, into a running average of it."""
        if name not in self._adapters:
            self._add(name)
            decay = 0.0
        blend_adapter(self.network, POLICY, name, decay)

    def trained_parameters(self) -> list[nn.Parameter]:
        """What an optimizer is for: the policy's LoRA weights, float32; empty where the model was loaded without LoRA."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def state(self, name: str = POLICY) -> dict[str, Tensor]:
        """A view's LoRA weights by peft's names, as `load_state` takes them; they are not copies."""
        return adapter_state(self.network, name)

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Put a view's tensors back.

        Raises:
            ValueError: they are of another adapter.
        """
        if name not in self._adapters:
            self._add(name)
        load_adapter_state(self.network, name, state)

    def prepare(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Let accelerate wrap the network; all views go through the wrapped one."""
        self.wrapped = wrap(self.network)

    def _add(self, name: str) -> None:
        if self._lora is None:
            raise ValueError("this backbone was loaded without LoRA, so nothing in it can be trained or kept apart")
        add_adapter(self.network, name, self._lora, self.lora_targets, self._unlearnable())
        self._adapters.append(name)
        self._layers = lora_layers(self.network)
        for layer in self._layers:  # at rest, the policy is on: gradient checkpointing runs it again in the backward
            layer._disable_adapters, layer._active_adapter = False, [POLICY]
            for each in self._adapters:
                layer.lora_A[each].requires_grad_(each == POLICY)
                layer.lora_B[each].requires_grad_(each == POLICY)

    # ------------------------------------------------------------ text

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text leaves [prompts, ...], the part of a condition that training keeps in its cache.

        The empty prompt is encoded like any other.
        """
        return self._encode_prompts(prompts)

    def condition(self, prompts: Sequence[str], *, guidance: float | None = None) -> Condition:
        """Text conditions [prompts, ...], with what guidance compares with beside them.

        Args:
            prompts: one per row.
            guidance: the scale that a network with `embeds_guidance` is told; None: the one that it is trained with.

        Raises:
            ValueError: a scale for a network that takes none.
        """
        leaves = self.text([*prompts, ""])
        given = {name: leaf[:-1] for name, leaf in leaves.items()}
        empty = self._null({name: leaf[-1:] for name, leaf in leaves.items()})
        null = {name: leaf.expand(len(prompts), *leaf.shape[1:]) for name, leaf in empty.items()}
        if guidance is not None:
            if not self.embeds_guidance:
                raise ValueError("guidance: this network is not told a scale; wrap its view in samplers.ClassifierFree")
            given["guidance"] = null["guidance"] = torch.full((len(prompts),), float(guidance), device=self.device)
        return Condition(given, null)

    def fingerprint(self, part: str) -> str:
        """A hash of what turns pictures ("vae") or prompts ("text") into tensors, or of the frozen network ("network").

        It changes when they would.
        """
        if part == "network":
            told = self.prediction.value + self._network_options()
            return network_fingerprint(self.network, self.pipeline.scheduler, told)
        if part == "vae":
            return fingerprint_of(part, {"vae": self.pipeline.vae}, {})
        parts = {name: value for name, value in self.pipeline.components.items() if value is not None}
        encoders = {name: value for name, value in parts.items() if name.startswith("text_encoder")}
        tokenizers = {name: value for name, value in parts.items() if name.startswith("tokenizer")}
        return fingerprint_of(part, encoders, tokenizers, [self._text_options()])

    def _text_options(self) -> str:
        return ""

    # ------------------------------------------------------------ saving

    def save_adapter(self, folder: Path, name: str = POLICY) -> None:
        """Write the adapter as `pipe.load_lora_weights(folder)` reads it, whole or not at all."""
        write_adapter(folder, self.pipeline_class, self.network_name, self.network, name)

    def load_adapter(self, folder: Path, name: str = POLICY) -> None:
        """Read what `save_adapter` wrote into this backbone's adapter.

        Raises:
            ConfigError: no adapter there, or one of another model, rank, alpha or set of targets.
        """
        state, alpha = read_adapter(folder, self.pipeline_class, self.network_name)
        try:
            if self._lora is not None and alpha is not None and alpha != self._lora.alpha:
                raise ValueError(
                    f"it was trained with alpha {alpha:g}, and this backbone has alpha {self._lora.alpha:g}"
                )
            self.load_state(name, state)
        except ValueError as error:
            raise ConfigError(f"cannot read the adapter in {folder}: {error}") from None
