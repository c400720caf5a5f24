"""A hash of what turns pictures or prompts into tensors, for caches that must never be served stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diffalign.denoising import Process

_SET_BY_CALLS = ("truncation", "padding")


def fingerprint_of(
    kind: str, modules: Mapping[str, nn.Module], tokenizers: Mapping[str, Any], options: Iterable[str] = ()
) -> str:
    """It changes with a weight, a dtype, a setting, a word or rule of a tokenizer or one of the options; else never."""
    digest = hashlib.sha256(kind.encode())
    for name, module in modules.items():
        digest.update(repr(sorted(_plain(module.config).items())).encode())
        _add_tensors(digest, name, module.state_dict())
    for name, tokenizer in sorted(tokenizers.items()):
        words = sorted(tokenizer.get_vocab().items())
        digest.update(repr((name, tokenizer.model_max_length, tokenizer.all_special_tokens, words)).encode())
        digest.update(_rules(tokenizer).encode())
    for option in options:
        digest.update(option.encode())
    return digest.hexdigest()[:32]


def _rules(tokenizer: Any) -> str:
    """How a tokenizer comes from letters to words (merges, normalising, splitting), but for what a call sets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    return json.dumps({key: value for key, value in json.loads(backend.to_str()).items() if key not in _SET_BY_CALLS})


def network_fingerprint(network: nn.Module, scheduler: Any, prediction: str) -> str:
    """Of the frozen weights, whatever adapters are trained on them, and of the process and prediction that they are for."""
    settings = [sorted(_plain(each.config).items()) for each in (network, scheduler)]
    digest = hashlib.sha256(f"network {prediction} {settings!r}".encode())
    frozen = {
        key.replace(".base_layer.", "."): tensor
        for key, tensor in network.state_dict().items()
        if ".lora_" not in key or ".reference." in key  # a LoRA that training starts from is part of the reference
    }
    _add_tensors(digest, "", frozen)
    return digest.hexdigest()[:32]


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Of named tensors alone."""
    digest = hashlib.sha256()
    _add_tensors(digest, "", tensors)
    return digest.hexdigest()[:32]


def sampled_fingerprint(network: nn.Module) -> str:
    """Of some 64 evenly spaced values of each tensor: another model, or this one trained further, has others."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if not tensor.is_meta:
            values = tensor.detach().reshape(-1)
            few = values[:: max(1, values.numel() // 64)].cpu().contiguous()
            digest.update(few.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def process_fingerprint(process: Process, options: str) -> str:
    """Of how a process adds noise, at nine times, and of what is said besides."""
    times = torch.linspace(0, 1, 9)
    digest = hashlib.sha256(f"{type(process).__name__} {getattr(process, 'shift', None)} {options}".encode())
    for values in (process.alpha(times), process.sigma(times)):
        digest.update(" ".join(f"{value:.4f}" for value in values.tolist()).encode())
    return digest.hexdigest()[:16]


def _add_tensors(digest: hashlib._Hash, name: str, tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{name}.{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if isinstance(tensor, DTensor):  # in pieces: all processes ask for the fingerprint
            tensor = tensor.full_tensor()
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())


def autoencoder_identity(vae: nn.Module) -> str:
    """A hash of the space that latents live in: the autoencoder's weights, scale and shift, and nothing else.

    Weights are compared as bfloat16, the coarsest precision that a model is loaded in, so that files written in one
    precision are known in the others; a setting that a later diffusers adds to the config changes nothing.
    """
    config: Any = vae.config
    scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    digest = hashlib.sha256(f"latents scale={float(scale)!r} shift={float(shift)!r}".encode())
    for key, tensor in sorted(vae.state_dict().items()):
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().to(torch.bfloat16).reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _plain(config: Any) -> Mapping[str, Any]:
    content = config.to_dict() if callable(getattr(config, "to_dict", None)) else dict(config)
    return {key: value for key, value in content.items() if not key.startswith("_") and "version" not in key}
