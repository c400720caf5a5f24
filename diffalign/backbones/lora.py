"""LoRA adapters on a diffusers network through peft: adding, switching, copying.

peft's own switching (`set_adapter`, `disable_adapters`) also flips `requires_grad`, which would silently stop training
after a reference pass. `active_adapter` switches without touching it.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from diffalign.backbones.weights import check_fit
from diffalign.exceptions import ConfigError


@dataclass(frozen=True)
class LoRASettings:
    """What a LoRA adapter looks like.

    Attributes:
        rank, alpha: the update is alpha / rank * B A.
        targets: names of the linear layers that get one; None is the family's attention projections.
        init: "gaussian" draws A with std 1 / rank, "default" is peft's Kaiming uniform; B is 0 in both.
        dropout: on the adapter's input, while training.
        seed: of the draw of A.
        start: a LoRA to begin with, a folder or .safetensors file of diffusers' or kohya's format; the reference is the
            base with it. It brings its own targets, and its rank and alpha where they are None.
    """

    rank: int | None = 8
    alpha: float | None = 8.0
    targets: tuple[str, ...] | None = None
    init: Literal["gaussian", "default"] = "gaussian"
    dropout: float = 0.0
    seed: int = 0
    start: Path | None = None


def lora_layers(network: nn.Module) -> list[LoraLayer]:
    """The layers that hold adapters."""
    return [module for module in network.modules() if isinstance(module, LoraLayer)]


def fresh_config(
    network: nn.Module, settings: LoRASettings, targets: Sequence[str], excluded: Sequence[str]
) -> LoraConfig:
    """An adapter on all targets but the `excluded` layers.

    Raises:
        ConfigError: no layer has one of the names in `settings.targets`, or one that has is of no kind that peft adapts.
    """
    if settings.targets is not None:
        _check_targets(network, settings.targets)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets or targets),
        exclude_modules=list(excluded) or None,
        lora_dropout=settings.dropout,
        init_lora_weights="gaussian" if settings.init == "gaussian" else True,
    )


def add_adapter(network: nn.Module, name: str, config: LoraConfig) -> None:
    """Add a float32 adapter, whose weights are still to be given.

    Raises:
        ConfigError: a target is of no kind that peft adapts, or there is no memory for the rank.
    """
    # peft draws from the global generator (whoever gives the weights replaces it), and warns of every further adapter
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        try:
            network.add_adapter(copy.deepcopy(config), adapter_name=name)  # type: ignore[operator]
        except ValueError as error:
            raise ConfigError(f"model.lora.targets: {str(error).splitlines()[0]}") from None
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise ConfigError(f"model.lora.rank: no adapter of rank {config.r} can be made: {first}") from None
    rest_adapter(network, name)


def rest_adapter(network: nn.Module, name: str) -> None:
    """In float32, with dropout off: it acts where `active_adapter` says so."""
    for layer in lora_layers(network):
        if name in layer.lora_A:
            layer.lora_A[name].to(torch.float32)
            layer.lora_B[name].to(torch.float32)
            layer.lora_dropout[name].eval()


@torch.no_grad()
def draw_adapter(network: nn.Module, name: str, settings: LoRASettings) -> None:
    """Weights that change nothing yet: A from `settings.seed`, B is 0."""
    generator = torch.Generator().manual_seed(settings.seed)
    for layer in lora_layers(network):
        if name not in layer.lora_A:
            continue
        down, up = layer.lora_A[name], layer.lora_B[name]
        drawn = torch.empty(down.weight.shape)
        if settings.init == "gaussian":
            drawn.normal_(std=1 / len(down.weight), generator=generator)
        else:
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        down.weight.copy_(drawn)
        up.weight.zero_()


def _check_targets(network: nn.Module, targets: Sequence[str]) -> None:
    """Every name must fit: peft is content with one, and a typo in another would train less than was asked for."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    absent = [name for name in targets if not any(f".{each}".endswith(f".{name}") for each in linear)]
    if absent:
        ends = {".".join(name.split(".")[-2:] if name[-1].isdigit() else name.split(".")[-1:]) for name in linear}
        raise ConfigError(
            f"model.lora.targets: no layer is named {', '.join(absent)}; there are {', '.join(sorted(ends))}"
        )


@contextmanager
def active_adapter(layers: Sequence[LoraLayer], name: str | None) -> Iterator[None]:
    """Inside, the network runs with the adapter `name` (None: with none). `requires_grad` stays as it is.

    Dropout acts only where gradients are recorded.
    """
    before = [(layer._disable_adapters, layer._active_adapter) for layer in layers]
    training = name is not None and torch.is_grad_enabled()
    for layer in layers:
        layer._disable_adapters = name is None
        if name is not None:
            layer._active_adapter = [name]
            layer.lora_dropout[name].training = training
    try:
        yield
    finally:
        for layer, (disabled, active) in zip(layers, before, strict=True):
            layer._disable_adapters, layer._active_adapter = disabled, active


def adapter_state(network: nn.Module, name: str) -> dict[str, Tensor]:
    """The adapter's tensors by peft's names, without the adapter's own name in them."""
    return get_peft_model_state_dict(network, adapter_name=name)


def load_adapter_state(network: nn.Module, name: str, state: dict[str, Tensor]) -> None:
    """Put tensors of `adapter_state` back.

    Raises:
        ValueError: they are not of this adapter's shape or names.
    """
    check_fit(adapter_state(network, name), state, "adapter")
    set_peft_model_state_dict(network, state, adapter_name=name)


@torch.no_grad()
def blend_adapter(network: nn.Module, source: str, target: str, decay: float) -> None:
    """target = decay * target + (1 - decay) * source, tensor by tensor."""
    for layer in lora_layers(network):
        for part in (layer.lora_A, layer.lora_B):
            part[target].weight.lerp_(part[source].weight, 1 - decay)
