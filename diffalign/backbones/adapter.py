"""What every family shares: a diffusers pipeline seen as denoisers, an encoder and a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from diffalign.backbones.encoders import Encoders
from diffalign.backbones.fingerprint import (
    network_fingerprint,
    process_fingerprint,
    sampled_fingerprint,
    tensors_fingerprint,
)
from diffalign.backbones.full_weights import FullSettings, FullWeights
from diffalign.backbones.latent_space import LatentSpace
from diffalign.backbones.lora import LoRASettings
from diffalign.backbones.lora_weights import LoRAWeights
from diffalign.backbones.weights import POLICY, FrozenWeights, Weights
from diffalign.denoising import Prediction, Process
from diffalign.types import Condition

Trained = LoRASettings | FullSettings  # what of the network is trained


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

    Media are what `medium` says, in [0, 1]; x0 are latents [batch, C, ...], scaled as the network was trained on them,
    whatever layout the network itself takes. Everything is frozen but what `trained` says: the network,
    or an adapter in it; None is for inference alone.

    Attributes:
        process, prediction: the network's conventions.
        pipeline: the diffusers pipeline, with the policy in it.
        network: its denoiser.
        weights: the networks behind the views.
        encoders: text encoders and autoencoder, which may be let go of and come back when they are needed.
    """

    family: ClassVar[str]
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    network_name: ClassVar[str]  # the pipeline's attribute
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    process: Process
    prediction: Prediction

    def __init__(
        self, pipeline: DiffusionPipeline, *, trained: Trained | None = None, gradient_checkpointing: bool = False
    ) -> None:
        self.pipeline = pipeline
        self.network: nn.Module = getattr(pipeline, self.network_name)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self.encoders = Encoders(pipeline)
        self._base = sampled_fingerprint(self.network)
        self.weights = self._weights_of(trained)
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
        """Layers whose output nothing reads: trained, they would stay as they are, or be worn away by weight decay."""
        return []

    # ------------------------------------------------------------ networks

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network that is called now."""
        return next(each.dtype for each in self.wrapped.parameters() if each.is_floating_point())

    @property
    def wrapped(self) -> nn.Module:
        """What `predict` calls: the policy's network in accelerate's wrapper, or a frozen one while its view runs."""
        return self.weights.called

    def view(self, name: str) -> View:
        """A denoiser: "policy", "reference" (the base model), or a snapshot's name ("behaviour", "ema").

        Raises:
            ValueError: there is no such snapshot yet.
        """
        self.weights.check(name)
        return View(self, name)

    def active(self, name: str) -> AbstractContextManager[None]:
        """A context in which the network runs as that view."""
        return self.weights.active(name)

    def hold(self, name: str) -> None:
        """Make room for a view, while the policy is still the base model: before `prepare` and before a state is loaded.

        "reference" is the base from then on; another is no view before its first snapshot or its state.
        """
        self.weights.hold(name)

    def release(self, name: str) -> None:
        """Let go of the memory of a view that is not needed any more; "reference" can still be had."""
        self.weights.release(name)

    def snapshot(self, name: str, decay: float = 0.0) -> None:
        """Copy the policy into the frozen view `name`; with decay, into a running average of it."""
        self.weights.snapshot(name, decay)

    def trained_parameters(self) -> list[nn.Parameter]:
        """What an optimizer is for, float32: the policy's LoRA or its network; empty for inference alone."""
        return self.weights.trained_parameters()

    def state(self, name: str = POLICY) -> dict[str, Tensor]:
        """A view's tensors, as `load_state` takes them: its LoRA by peft's names, or its network; they are not copies."""
        return self.weights.state(name)

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Put a view's tensors back.

        Raises:
            ValueError: they are of another adapter or network.
        """
        self.weights.load_state(name, state)

    def prepare(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Let accelerate wrap the network; all views of what is trained go through the wrapped one."""
        self.weights.prepare(wrap)

    def kept_networks(self) -> list[nn.Module]:
        """The frozen networks that are kept beside the one that is trained (none with a LoRA)."""
        return self.weights.kept_networks()

    def _weights_of(self, trained: Trained | None) -> Weights:
        if trained is None:
            return FrozenWeights(self.network)
        if isinstance(trained, FullSettings):
            return FullWeights(self.network, trained, self._unlearnable())
        return LoRAWeights(self.pipeline, self.network_name, trained, self.lora_targets, self._unlearnable())

    # ------------------------------------------------------------ text

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text leaves [prompts, ...], the part of a condition that training keeps in its cache.

        The empty prompt is encoded like any other.
        """
        known = self.encoders.known_texts(prompts)
        if known is not None:
            return {name: leaf.to(self.device) for name, leaf in known.items()}
        self.encoders.need("text")
        return self._encode_prompts(prompts)

    def free_encoders(self, *parts: str) -> None:
        """Let go of the text encoders ("text") and the autoencoder ("vae"): they are read again when they are needed."""
        for part in parts:
            if self.encoders.has(part):
                self.encoders.prints[part] = self.fingerprint(part)
                self.encoders.free(part)

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
        """A hash of what makes tensors of pictures ("vae") or prompts ("text"), or of what training starts from.

        That is the LoRA "start", the frozen "network", and "base", a sample of the network's values as it was loaded, with
        its process and prediction.
        """
        if part == "base":
            return self._base + process_fingerprint(self.process, self.prediction.value + self._network_options())
        if part == "start":
            return tensors_fingerprint(self.weights.begun_with())
        if part == "network":
            told = self.prediction.value + self._network_options()
            return network_fingerprint(self.network, self.pipeline.scheduler, told)
        return self.encoders.fingerprint(part, self._text_options())

    def _text_options(self) -> str:
        return ""

    # ------------------------------------------------------------ saving

    def save_adapter(
        self,
        folder: Path,
        name: str = POLICY,
        *,
        card: str | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write a view, whole or not at all, with `card` as its README.md.

        A LoRA is written as `pipe.load_lora_weights(folder)` reads it, a network with all of its pipeline as
        `DiffusionPipeline.from_pretrained(folder)` does.

        Args:
            state: the view's whole tensors, where the network holds but pieces of them; None: as they are.
        """
        pipeline = self.encoders.whole() if isinstance(self.weights, FullWeights) else self.pipeline
        self.weights.write(folder, pipeline, self.network_name, name, card, state)

    def load_adapter(self, folder: Path, name: str = POLICY) -> None:
        """Read what `save_adapter` wrote into this backbone's policy.

        Raises:
            ConfigError: nothing there, or it is of another model, rank, alpha or set of targets.
        """
        self.weights.read(folder, self.pipeline, self.network_name, name)
