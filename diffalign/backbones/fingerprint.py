"""A hash of what turns pictures or prompts into tensors, for caches that must never be served stale."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


def fingerprint_of(
    kind: str, modules: Mapping[str, nn.Module], tokenizers: Mapping[str, Any], options: Iterable[str] = ()
) -> str:
    """It changes with a weight, a dtype, a setting, a word of a tokenizer or one of the options, and with nothing else."""
    digest = hashlib.sha256(kind.encode())
    for name, module in modules.items():
        digest.update(repr(sorted(_plain(module.config).items())).encode())
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, tokenizer in sorted(tokenizers.items()):
        words = sorted(tokenizer.get_vocab().items())
        digest.update(repr((name, tokenizer.model_max_length, tokenizer.all_special_tokens, words)).encode())
    for option in options:
        digest.update(option.encode())
    return digest.hexdigest()[:32]


def _plain(config: Any) -> Mapping[str, Any]:
    content = config.to_dict() if callable(getattr(config, "to_dict", None)) else dict(config)
    return {key: value for key, value in content.items() if not key.startswith("_") and "version" not in key}
