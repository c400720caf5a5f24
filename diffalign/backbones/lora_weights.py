"""Training a LoRA: one network, and an adapter under each view's name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from diffalign.backbones.adapter_files import read_adapter, write_adapter
from diffalign.backbones.lora import (
    LoRASettings,
    active_adapter,
    adapter_state,
    add_adapter,
    blend_adapter,
    load_adapter_state,
    lora_layers,
)
from diffalign.backbones.weights import POLICY, REFERENCE, Weights, no_view
from diffalign.exceptions import ConfigError


class LoRAWeights(Weights):
    """The reference is the same network with the adapters off, so it costs no second copy of the weights."""

    def __init__(
        self, network: nn.Module, settings: LoRASettings, targets: Sequence[str], excluded: Sequence[str]
    ) -> None:
        self.network = self.called = network
        self._settings, self._targets, self._excluded = settings, targets, excluded
        self._layers: list[LoraLayer] = []
        self._adapters: list[str] = []
        self._empty: set[str] = set()  # held, and no view yet
        self._add(POLICY)

    def check(self, name: str) -> None:
        kept = [each for each in self._adapters if each not in self._empty]
        if name != REFERENCE and name not in kept:
            raise no_view(name, kept)

    def active(self, name: str) -> AbstractContextManager[None]:
        return active_adapter(self._layers, None if name == REFERENCE else name)

    def hold(self, name: str) -> None:
        if name != REFERENCE and name not in self._adapters:
            self._add(name)
            self._empty.add(name)

    def release(self, name: str) -> None:
        return  # an adapter's memory is not worth it

    def snapshot(self, name: str, decay: float) -> None:
        self.hold(name)
        blend_adapter(self.network, POLICY, name, 0.0 if name in self._empty else decay)
        self._empty.discard(name)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def state(self, name: str) -> dict[str, Tensor]:
        """By peft's names."""
        return adapter_state(self.network, name)

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        self.hold(name)
        load_adapter_state(self.network, name, state)
        self._empty.discard(name)

    def write(self, folder: Path, pipeline: Any, part: str, name: str) -> None:
        write_adapter(folder, type(pipeline), part, self.network, name)

    def read(self, folder: Path, pipeline: Any, part: str, name: str) -> None:
        state, alpha = read_adapter(folder, type(pipeline), part)
        try:
            if alpha is not None and alpha != self._settings.alpha:
                raise ValueError(
                    f"it was trained with alpha {alpha:g}, and this backbone has alpha {self._settings.alpha:g}"
                )
            self.load_state(name, state)
        except ValueError as error:
            raise ConfigError(f"cannot read the adapter in {folder}: {error}") from None

    def _add(self, name: str) -> None:
        add_adapter(self.network, name, self._settings, self._targets, self._excluded)
        self._adapters.append(name)
        self._layers = lora_layers(self.network)
        for layer in self._layers:
            layer._disable_adapters, layer._active_adapter = False, [POLICY]
            for each in self._adapters:
                layer.lora_A[each].requires_grad_(each == POLICY)
                layer.lora_B[each].requires_grad_(each == POLICY)
