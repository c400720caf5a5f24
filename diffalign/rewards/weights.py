"""What rewards share that are models: the device, files of tensors, tokenizers, and a hash of what makes their numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  the error that torch raises, nothing else
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffalign.exceptions import ConfigError

# A text in which tokenizers differ that have the same words: case, accents, scripts, blanks, digits, marks, joined emoji.
_PROBE = (
    "A photo of THE quick brown foxes, jumping over 2 lazy dogs' 1,024 unbelievable tokenizations!  \tNaïve café;\n"
    "Straße Ελλάδα Съешь ещё العربية हिन्दी 漢字かな 한국어 ﬁ ½ 👩🏽‍🚀 <|endoftext|> [SEP] don't un_der-score"
)
# Of what every config of transformers has, this changes numbers; the rest is names, versions and what is given back.
_SHARED_SETTINGS = {"eos_token_id", "pad_token_id", "bos_token_id", "is_decoder", "add_cross_attention"}


def pick_device(device: str | None) -> torch.device:
    """The device that is meant: cuda, mps or cpu; None: the best that there is.

    Raises:
        ConfigError: it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    best = next(name for name, found in there.items() if found)
    if device is not None and not there.get(device.partition(":")[0], False):
        raise ConfigError(f"device: {device!r} is not to be had here; leave it out, or take {best}")
    return torch.device(device or best)


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Twelve digits that change with the weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def model_version(
    tensors: Mapping[str, Tensor],
    configs: Sequence[Any],
    tokenizer: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Twelve digits that change with whatever makes a model's numbers, and not with the place that it was loaded from.

    Args:
        tensors: of the model, by name.
        configs: transformers' configs of its parts: two models of the same tensors may have other activations.
        tokenizer: transformers' tokenizer, where the model reads texts: its words, special ids, and what it makes of a
            fixed text of several scripts.
        settings: what else is done to what goes in, as JSON has it.
    """
    told = {
        "tensors": fingerprint(tensors),
        "configs": [_config_facts(config.to_dict()) for config in configs],
        "tokenizer": None if tokenizer is None else _tokenizer_facts(tokenizer),
        "settings": dict(settings or {}),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _config_facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of a config that change numbers.

    Without what training alone uses (beginnings, dropout), and without what is off, of which a newer transformers has more.
    """
    from transformers import PretrainedConfig

    shared = PretrainedConfig().to_dict().keys() - _SHARED_SETTINGS
    facts: dict[str, Any] = {}
    for name, value in told.items():
        if name in shared or name.startswith("_") or "init" in name or "drop" in name:
            continue
        kept = _config_facts(value) if isinstance(value, Mapping) else value
        if not (kept is None or kept is False or kept == {} or kept == []):
            facts[str(name)] = kept
    return facts


def _tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    padding = tokenizer.pad_token is not None
    words = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    return {
        "words": hashlib.sha256(words).hexdigest(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        "ids": sorted(tokenizer.all_special_ids),
        "probe": list(tokenizer([_PROBE, "a"], padding=padding, verbose=False)["input_ids"]),
        # a long text and a short one, cut and filled
        "cut": tokenizer([_PROBE], truncation=True, max_length=8, verbose=False)["input_ids"],
    }


def read_tensors(setting: str, file: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a .safetensors file or of one that torch has written.

    Of the latter, a pickle, torch's weights_only makes tensors alone and runs no code of the file.

    Args:
        setting: dotted path of the setting that names the file, for the message.
        file: what to read; where tensors stand under the key "state_dict", these.

    Raises:
        ConfigError: it cannot be read, or holds something else than tensors.
    """
    try:
        state: Any = (
            load_file(file) if Path(file).suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        )
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, UnpicklingError) as error:
        raise ConfigError(f"{setting}: cannot read {str(file)!r} as tensors: {str(error).splitlines()[0]}") from None
    found = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
        raise ConfigError(f"{setting}: cannot read {str(file)!r} as tensors: it holds something else")
    return found


def hub_file(setting: str, repository: str, name: str) -> str:
    """A file of the hub, on this machine.

    Raises:
        ConfigError: it cannot be had; says where to name the file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return hf_hub_download(repository, name)
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"{setting}: cannot get {name} of {repository} from the hub: {first} Say where the file is: "
            f"{setting.replace('.', ':')}=FILE"
        ) from None


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors, in float32, into a module that was made on torch's device meta.

    Args:
        module: all of its parameters must be among the tensors.
        tensors: by the module's names.
    """
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False, assign=True)
    for part in module.modules():  # the numbers of the positions, which no file holds
        numbers = dict(part.named_buffers(recurse=False)).get("position_ids")
        if numbers is not None:
            part.register_buffer("position_ids", torch.arange(numbers.shape[1])[None], persistent=False)


def load_tokenizer(reward: str, name: str) -> Any:
    """A tokenizer for a reward, from a folder or hub id in transformers' format.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{reward}.tokenizer: {cannot_load(name, error)}") from None


def cannot_load(name: str, error: Exception) -> str:
    """What is said of a folder or hub id that transformers cannot load."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if Path(name).is_absolute() and not Path(name).exists():  # the hub's library takes it for an id, and a bad one
        first = "no such folder."
    return f"cannot load {name!r}: {first} Give a folder in transformers' format, or a hub id where there is a network"


def readable(text: str) -> str:
    """Without halves of characters, which JSON can hold and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()
