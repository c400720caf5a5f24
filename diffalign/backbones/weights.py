"""The networks behind a backbone's views: what a way to train is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

POLICY = "policy"
REFERENCE = "reference"


class Weights(ABC):
    """A network to train, and what is kept frozen beside it, under names.

    Views are switched, never trained apart: `requires_grad` stays as it is. At rest the policy is on, because gradient
    checkpointing runs the network again in the backward pass.

    Attributes:
        network: the policy's, as the pipeline holds it.
        called: what a forward goes through now: accelerate's wrapper of the network once it is prepared, or a frozen copy.
    """

    network: nn.Module
    called: nn.Module

    @abstractmethod
    def check(self, name: str) -> None:
        """Whether there is such a view.

        Raises:
            ValueError: there is none; says which there are.
        """

    @abstractmethod
    def active(self, name: str) -> AbstractContextManager[None]:
        """A context in which `called` runs as that view."""

    @abstractmethod
    def hold(self, name: str) -> None:
        """Make room for a view, while the policy is still the base model: before `prepare` and before a state is loaded.

        "reference" is the base from then on; another is no view before its first snapshot or its state.
        """

    @abstractmethod
    def release(self, name: str) -> None:
        """Let go of the memory of a view that is not needed any more; "reference" can still be had."""

    @abstractmethod
    def snapshot(self, name: str, decay: float) -> None:
        """Copy the policy into the frozen view `name`; with decay, into a running average of it."""

    def trained_parameters(self) -> list[nn.Parameter]:
        """What an optimizer is for, float32; empty where nothing is trained."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @abstractmethod
    def state(self, name: str) -> dict[str, Tensor]:
        """The tensors that make a view what it is; they are not copies."""

    @abstractmethod
    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Put the tensors of `state` back.

        Raises:
            ValueError: they are of another model.
        """

    @abstractmethod
    def write(
        self,
        folder: Path,
        pipeline: Any,
        part: str,
        name: str,
        card: str | None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write a view as diffusers reads it, whole or not at all.

        `part` is what the pipeline calls the network, `card` the text of README.md; `state` are the view's tensors where
        they had to be gathered.
        """

    @abstractmethod
    def read(self, folder: Path, pipeline: Any, part: str, name: str) -> None:
        """Read what `write` wrote.

        Raises:
            ConfigError: nothing that fits is there.
        """

    def begun_with(self) -> Mapping[str, Tensor]:
        """The tensors of the LoRA that training started from; none where it started from the base."""
        return {}

    def prepare(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Let accelerate wrap the network that is trained."""
        self.called = wrap(self.network)

    def kept_networks(self) -> list[nn.Module]:
        """The frozen networks beside the one that is trained."""
        return []


class FrozenWeights(Weights):
    """A network as it was loaded, for inference alone: its one view is "reference"."""

    _REFUSAL: ClassVar[str] = "this backbone was loaded without LoRA, so nothing in it can be trained or kept apart"

    def __init__(self, network: nn.Module) -> None:
        self.network = self.called = network

    def check(self, name: str) -> None:
        if name == POLICY:
            raise ValueError('this backbone was loaded without LoRA: it has no "policy", only "reference"')
        if name != REFERENCE:
            raise no_view(name, [])

    def active(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def hold(self, name: str) -> None:
        if name != REFERENCE:
            raise ValueError(self._REFUSAL)

    def release(self, name: str) -> None:
        return

    def snapshot(self, name: str, decay: float) -> None:
        raise ValueError(self._REFUSAL)

    def state(self, name: str) -> dict[str, Tensor]:
        raise ValueError(self._REFUSAL)

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        raise ValueError(self._REFUSAL)

    def write(
        self,
        folder: Path,
        pipeline: Any,
        part: str,
        name: str,
        card: str | None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        raise ValueError(self._REFUSAL)

    def read(self, folder: Path, pipeline: Any, part: str, name: str) -> None:
        raise ValueError(self._REFUSAL)


def no_view(name: str, kept: list[str]) -> ValueError:
    """The error that names the views that there are."""
    have = ", ".join([REFERENCE, *kept])
    return ValueError(f"no view {name!r}; there are {have}; make one with snapshot({name!r})")


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Compare names and shapes.

    Raises:
        ValueError: they differ.
    """
    if expected.keys() != state.keys():
        missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        raise ValueError(f"not this {what}: missing {missing[:3]}, unexpected {extra[:3]}")
    wrong = [key for key in expected if expected[key].shape != state[key].shape]
    if wrong:
        raise ValueError(f"{wrong[0]} has shape {tuple(state[wrong[0]].shape)}, not {tuple(expected[wrong[0]].shape)}")
