"""The parts of a pipeline that make tensors of prompts and pictures: they leave memory once that is done, and come back."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.backbones.fingerprint import fingerprint_of

log = logging.getLogger(__name__)
Known = Callable[[Sequence[str]], dict[str, Tensor] | None]
Loader = Callable[[], Any]  # the pipeline anew, on the CPU, without its network
# how the names of a part's components begin: conditions may come from texts or pictures
_STARTS = {"text": ("text_encoder", "image_encoder"), "vae": ("vae",)}


class Encoders:
    """Text encoders and autoencoder of a pipeline.

    One that was freed has its settings still, and tensors on torch's "meta" device, which hold nothing.

    Attributes:
        prints: the fingerprints of parts that were freed.

    Args:
        pipeline: whose components they are.
        load: gives the pipeline with fresh ones; None: they cannot be freed.
    """

    def __init__(self, pipeline: Any, load: Loader | None = None) -> None:
        self._pipeline = pipeline
        self._load = load
        self._device: torch.device | None = None
        self._ask: Known | None = None
        self.prints: dict[str, str] = {}

    def know_texts(self, ask: Known) -> None:
        """Have `known_texts` ask for leaves that are kept elsewhere; None stands for a prompt that is not."""
        self._ask = ask

    def known_texts(self, prompts: Sequence[str]) -> dict[str, Tensor] | None:
        """The text leaves of these prompts, if they are all kept."""
        ask, self._ask = self._ask, None  # for what cannot be read there, it asks here
        try:
            return None if ask is None else ask(prompts)
        finally:
            self._ask = ask

    def names(self, part: str) -> list[str]:
        """Of the components that are "text" or "vae"."""
        start = _STARTS[part]
        components = self._pipeline.components.items()
        return [name for name, each in components if name.startswith(start) and isinstance(each, nn.Module)]

    def free(self, part: str) -> bool:
        """Let go of the weights; whether that could be done."""
        if self._load is None:
            return False
        for name in self.names(part):
            module = getattr(self._pipeline, name)
            self._device = next(module.parameters()).device if not is_hollow(module) else self._device
            setattr(self._pipeline, name, hollow(module))
        return True

    def has(self, part: str) -> bool:
        return not any(is_hollow(getattr(self._pipeline, name)) for name in self.names(part))

    def fingerprint(self, part: str, option: str) -> str:
        """A hash of what makes tensors of pictures ("vae"), or of prompts ("text"), which go in by that option."""
        if not self.has(part):
            return self.prints[part]
        parts = {name: value for name, value in self._pipeline.components.items() if value is not None}
        if part == "vae":
            return fingerprint_of(part, {name: parts[name] for name in self.names("vae")}, {})
        encoders = {name: value for name, value in parts.items() if name.startswith(_STARTS["text"])}
        tokenizers = {name: value for name, value in parts.items() if name.startswith("tokenizer")}
        return fingerprint_of(part, encoders, tokenizers, [option])

    def need(self, part: str) -> None:
        """Read the weights again, if they were let go of.

        Raises:
            ConfigError: the model is not where it was.
        """
        if not self.has(part):
            log.info("%s: read again from the model", "text encoders" if part == "text" else "autoencoder")
            self._fill(self._pipeline, self.names(part), self._device)

    @contextmanager
    def borrowed(self, part: str) -> Iterator[None]:
        """A context after which what had been let go of before is let go of again."""
        had = self.has(part)
        try:
            yield
        finally:
            if not had:
                self.free(part)

    def whole(self) -> Any:
        """The pipeline with all its parts, to be written to disk: those that were let go of are on the CPU in it alone."""
        absent = [name for part in ("text", "vae") if not self.has(part) for name in self.names(part)]
        if not absent:
            return self._pipeline
        complete = copy.copy(self._pipeline)
        self._fill(complete, absent, torch.device("cpu"))
        return complete

    def device(self, part: str) -> torch.device:
        """Where those of a part are."""
        return next(getattr(self._pipeline, self.names(part)[0]).parameters()).device

    def _fill(self, pipeline: Any, names: list[str], device: torch.device | None) -> None:
        assert self._load is not None  # else nothing was let go of
        fresh = self._load()
        for name in names:
            module, shell = getattr(fresh, name), getattr(self._pipeline, name)
            for new, old in zip(_tensors(module), _tensors(shell), strict=True):
                new.data = new.data.to(device=device, dtype=old.dtype)
            setattr(pipeline, name, module.requires_grad_(False).eval())


def hollow(module: nn.Module) -> nn.Module:
    """A copy with the same settings and shapes that holds no weights."""
    memo: dict[int, Any] = {}
    for tensor in _tensors(module):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)


def is_hollow(module: nn.Module) -> bool:
    """Whether it came from `hollow`."""
    return any(parameter.is_meta for parameter in module.parameters())


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
