"""Training a whole network: a frozen copy of it under each other view's name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from diffalign.backbones.pipeline_files import read_network, write_pipeline
from diffalign.backbones.weights import POLICY, REFERENCE, Weights, check_fit, no_view


@dataclass(frozen=True)
class FullSettings:
    """How a network is trained as a whole.

    Attributes:
        dtype: of the network that is trained, and of its snapshots; in training it is float32.
        reference_dtype, reference_device: of the reference that is held while training; None is the trained network's. On
            another device the reference's inputs and answer travel there and back.
        base: reads the base network anew, for a reference that is asked for when none is held: after training.
    """

    dtype: torch.dtype = torch.float32
    reference_dtype: torch.dtype | None = None
    reference_device: str | torch.device | None = None
    base: Callable[[], nn.Module] | None = None


class FullWeights(Weights):
    """The reference and the snapshots are modules of their own; only the policy's goes through accelerate's wrapper.

    A reference that no one needs costs nothing: it is copied when it is held, or else read when it is first run.
    """

    def __init__(self, network: nn.Module, settings: FullSettings, excluded: Sequence[str]) -> None:
        self.network = self.called = network
        self._settings = settings
        self._copies: dict[str, nn.Module] = {}
        self._empty: set[str] = set()  # held, and no view yet
        network.requires_grad_(True)
        for name in excluded:  # weight decay would wear them away
            network.get_submodule(name).requires_grad_(False)

    def check(self, name: str) -> None:
        kept = [POLICY, *(each for each in self._copies if each != REFERENCE and each not in self._empty)]
        if name == REFERENCE and name not in self._copies and self._settings.base is None:
            raise ValueError('no "reference" is held; call hold("reference") before training')
        if name != REFERENCE and name not in kept:
            raise no_view(name, kept)

    def active(self, name: str) -> AbstractContextManager[None]:
        return self._calling(None if name == POLICY else self.module(name))

    @contextmanager
    def _calling(self, frozen: nn.Module | None) -> Iterator[None]:
        before = self.called
        if frozen is not None:
            self.called = frozen
        try:
            yield
        finally:
            self.called = before

    def module(self, name: str) -> nn.Module:
        """The network of a view."""
        if name == POLICY:
            return self.network
        if name == REFERENCE and name not in self._copies:
            self.check(name)
            assert self._settings.base is not None
            own = next(self.network.parameters())
            self._copies[name] = frozen_copy(self._settings.base(), own.dtype, own.device)
        return self._copies[name]

    @property
    def copies(self) -> dict[str, nn.Module]:
        """The frozen networks that are held, by view."""
        return dict(self._copies)

    def hold(self, name: str) -> None:
        if name in self._copies:
            return
        if name == REFERENCE:
            self._copies[name] = self._held_reference()
        else:
            self._copies[name] = frozen_copy(self.network)
            self._empty.add(name)

    def _held_reference(self) -> nn.Module:
        own = next(self.network.parameters()).device
        device = torch.device(self._settings.reference_device or own)
        reference = frozen_copy(self.network, self._settings.reference_dtype, device)
        if device.type != own.type:
            add_hook_to_module(reference, AlignDevicesHook(execution_device=device, io_same_device=True))
        return reference

    def release(self, name: str) -> None:
        self._copies.pop(name, None)
        self._empty.discard(name)

    @torch.no_grad()
    def snapshot(self, name: str, decay: float) -> None:
        self.hold(name)
        weight = 1.0 if name in self._empty else 1.0 - decay
        self._empty.discard(name)
        for mine, new in zip(self._copies[name].parameters(), self.network.parameters(), strict=True):
            mine.lerp_(new, weight)
        for buffer, other in zip(self._copies[name].buffers(), self.network.buffers(), strict=True):
            buffer.copy_(other)

    def state(self, name: str) -> dict[str, Tensor]:
        """By the network's own names."""
        return dict(self.module(name).state_dict())

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        if name != POLICY:
            self.hold(name)
        check_fit(self.state(name), state, "network")
        self.module(name).load_state_dict(state)
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
        network = self.module(name) if state is None else _network_of(self.network, state)
        write_pipeline(folder, pipeline, part, network, card)

    def kept_networks(self) -> list[nn.Module]:
        return list(self._copies.values())

    def read(self, folder: Path, pipeline: Any, part: str, name: str) -> None:
        self.load_state(name, read_network(folder, type(self.network), part))


def _network_of(network: Any, state: Mapping[str, Tensor]) -> nn.Module:
    """A network of the same kind that holds these tensors themselves, where `network` holds pieces."""
    kind: Any = next(each for each in type(network).__mro__ if not issubclass(each, FSDPModule))
    with torch.device("meta"):
        bare: nn.Module = kind.from_config(network.config)
    bare.load_state_dict(dict(state), assign=True)
    return bare


def frozen_copy(network: nn.Module, dtype: torch.dtype | None = None, device: torch.device | None = None) -> nn.Module:
    """A copy that no gradient reaches, floating-point tensors in `dtype`; None is as it is.

    Its tensors are made one by one in their new form: there is never a second copy in the old one.
    """
    memo: dict[int, Any] = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        kind = dtype if tensor.is_floating_point() else None
        moved = tensor.detach().to(device=device or tensor.device, dtype=kind or tensor.dtype, copy=True)
        memo[id(tensor)] = nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
    copied = copy.deepcopy(network, memo)
    for name in ("forward", "_original_forward"):  # accelerate's, which casts, laid over the class's
        vars(copied).pop(name, None)
    return copied
