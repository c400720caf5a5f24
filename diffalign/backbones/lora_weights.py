"""Training a LoRA: one network, and an adapter under each view's name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from diffalign.backbones.adapter_files import put_adapter, read_adapter, write_adapter
from diffalign.backbones.lora import (
    LoRASettings,
    active_adapter,
    adapter_state,
    add_adapter,
    blend_adapter,
    draw_adapter,
    fresh_config,
    load_adapter_state,
    lora_layers,
    rest_adapter,
)
from diffalign.backbones.weights import POLICY, REFERENCE, Weights, no_view
from diffalign.exceptions import ConfigError


class LoRAWeights(Weights):
    """The reference is the same network with the adapters off, so it costs no second copy of the weights.

    Where training starts from a LoRA, the reference is the network with a frozen copy of that LoRA.
    """

    def __init__(
        self, pipeline: Any, part: str, settings: LoRASettings, targets: Sequence[str], excluded: Sequence[str]
    ) -> None:
        self.network: nn.Module = getattr(pipeline, part)
        self.called = self.network
        self._layers: list[LoraLayer] = []
        self._adapters: list[str] = []
        self._empty: set[str] = set()  # held, and no view yet
        self._started = settings.start is not None
        if settings.start is None:
            self._config = fresh_config(self.network, settings, targets, excluded)
            self._add(POLICY)
            draw_adapter(self.network, POLICY, settings)
        else:
            put_adapter(self.network, type(pipeline), part, settings.start, REFERENCE, "model.lora.start")
            rest_adapter(self.network, REFERENCE)
            self._config = _config_of(self.network, settings)
            self._adapters.append(REFERENCE)
            self._add(POLICY)
            blend_adapter(self.network, REFERENCE, POLICY, 0.0)

    def check(self, name: str) -> None:
        kept = [each for each in self._adapters if each not in self._empty and each != REFERENCE]
        if name != REFERENCE and name not in kept:
            raise no_view(name, kept)

    def active(self, name: str) -> AbstractContextManager[None]:
        return active_adapter(self._layers, None if name == REFERENCE and not self._started else name)

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

    def state(self, name: str) -> dict[str, Tensor]:
        """By peft's names."""
        return adapter_state(self.network, name)

    def begun_with(self) -> Mapping[str, Tensor]:
        return adapter_state(self.network, REFERENCE) if self._started else {}

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        self.hold(name)
        load_adapter_state(self.network, name, state)
        self._empty.discard(name)

    def write(
        self,
        folder: Path,
        pipeline: Any,
        part: str,
        name: str,
        card: str | None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        write_adapter(folder, type(pipeline), part, self.network, name, card, state)

    def read(self, folder: Path, pipeline: Any, part: str, name: str) -> None:
        state, alpha = read_adapter(folder, type(pipeline), part)
        try:
            if alpha is not None and alpha != self._config.lora_alpha:
                raise ValueError(
                    f"it was trained with alpha {alpha:g}, and this backbone has alpha {self._config.lora_alpha:g}"
                )
            self.load_state(name, state)
        except ValueError as error:
            raise ConfigError(f"cannot read the adapter in {folder}: {error}") from None

    def _add(self, name: str) -> None:
        add_adapter(self.network, name, self._config)
        self._adapters.append(name)
        self._layers = lora_layers(self.network)
        for layer in self._layers:
            layer._disable_adapters, layer._active_adapter = False, [POLICY]
            for each in self._adapters:
                layer.lora_A[each].requires_grad_(each == POLICY)
                layer.lora_B[each].requires_grad_(each == POLICY)


def _config_of(network: nn.Module, settings: LoRASettings) -> LoraConfig:
    """The one of the LoRA that training starts from, for further adapters like it.

    Raises:
        ConfigError: `settings` ask for another rank or alpha.
    """
    config: LoraConfig = copy.deepcopy(network.peft_config[REFERENCE])  # type: ignore[index]
    for name, wanted, found in (("rank", settings.rank, config.r), ("alpha", settings.alpha, config.lora_alpha)):
        if wanted is not None and wanted != found:
            raise ConfigError(
                f"model.lora.{name}: the adapter in {settings.start} has {name} {found:g}, got {wanted:g}; leave it out"
            )
    config.lora_dropout = settings.dropout
    return config
