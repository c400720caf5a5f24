"""The processes of a run as one: who does what, and what becomes of a failure in one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from diffalign.exceptions import DiffalignError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """Several processes, or one that is alone.

    Attributes:
        rank, world: which of how many this is; the first is the main one.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator) -> Team:
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def from_main(self, make: Callable[[], Value]) -> Value:
        """What `make` returns in the main process, in all of them; it is called there alone.

        Raises:
            DiffalignError: the one that `make` raised, in all processes.
        """
        made: list[Any] = [None, None]
        if self.is_main:
            try:
                made[0] = make()
            except DiffalignError as error:
                made[1] = error
        if self.world > 1:
            broadcast_object_list(made)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def together(self, act: Callable[[], Value]) -> list[Value]:
        """What `act` returns in each process, in rank order.

        Raises:
            OSError: files could not be written in one of them; raised in all, so that none waits for another.
        """
        done: list[Any] = [None, None]
        try:
            done[0] = act()
        except (OSError, RuntimeError, SafetensorError) as error:  # torch.save turns a full disk into a RuntimeError
            done[1] = f"process {self.rank}: {error}" if self.world > 1 else str(error)
        everyone = gather_object([done]) if self.world > 1 else [done]
        failed = next((problem for _, problem in everyone if problem is not None), None)
        if failed is not None:
            raise OSError(failed)
        return [value for value, _ in everyone]

    def main_alone(self, act: Callable[[], object]) -> None:
        """`act` in the main process, with `together`'s way with a failure."""
        self.together(act if self.is_main else lambda: None)
