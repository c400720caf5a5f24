"""Which tensors are alive, and how many bytes they hold at the peak: of real tensors, or of fake ones that hold none."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ACTIVATIONS = "activations"  # what belongs to nothing else
GRADIENTS = "gradients"


class MemoryLedger:
    """Bytes of every storage made under `watch`, or entered with `add`, until it is freed.

    A storage that many tensors share counts once. What a kernel takes and gives back within one operation is not seen.

    Attributes:
        now: kind of use -> bytes alive.
        peak: the same at the moment when their sum was largest, since the last `mark`.
    """

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self._most = 0
        self._kinds: dict[int, str | None] = {}  # key of a storage -> its use; None: not counted
        self._owners: dict[int, weakref.ref[Any]] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Inside, whatever an operation returns is entered. The innermost of torch's modes, so that it sees all of them."""
        with _Watch(self):
            yield

    def mark(self) -> None:
        """Forget the peak: it is what is alive now."""
        self.peak, self._most = dict(self.now), sum(self.now.values())

    def add(self, tensors: Iterable[Tensor], kind: str | None) -> None:
        """Enter tensors as being of that use, whatever they were before; None: they are not to be counted."""
        for tensor in tensors:
            self._enter(tensor, kind)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> list[Any]:
        """From now on their gradients count as such; returns the hooks' handles."""
        return [
            parameter.register_post_accumulate_grad_hook(lambda each: self._enter(each.grad, GRADIENTS))
            for parameter in parameters
        ]

    def see(self, tensor: Tensor) -> None:
        """Enter what an operation returned, if it is new."""
        if id_of(tensor) not in self._kinds:
            self._enter(tensor, ACTIVATIONS)

    def _enter(self, tensor: Any, kind: str | None) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._kinds:
            self._count(self._kinds[key], -size)
        else:
            self._owners[key] = weakref.ref(storage, lambda _: self._leave(key, size))
        self._kinds[key] = kind
        self._count(kind, size)

    def _leave(self, key: int, size: int) -> None:
        del self._owners[key]
        self._count(self._kinds.pop(key), -size)

    def _count(self, kind: str | None, size: int) -> None:
        if kind is None:
            return
        self.now[kind] = self.now.get(kind, 0) + size
        if size > 0 and (total := sum(self.now.values())) > self._most:
            self._most, self.peak = total, dict(self.now)


def id_of(tensor: Tensor) -> int:
    """The storage of a tensor, as long as that lives."""
    return int(tensor.untyped_storage()._cdata)


class _Watch(TorchDispatchMode):
    def __init__(self, ledger: MemoryLedger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not torch.ops.prim.device.default:
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    self._ledger.see(each)
        return result
