"""LoRA adapters in files, in the format of diffusers: what `pipe.load_lora_weights(folder)` reads."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from torch import Tensor, nn

from diffalign.backbones.folder_swap import recover_folder, replace_folder
from diffalign.backbones.lora import adapter_state
from diffalign.exceptions import ConfigError, SaveError

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def write_adapter(
    folder: Path,
    pipeline: type[DiffusionPipeline],
    part: str,
    network: nn.Module,
    name: str,
    card: str | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the adapter `name` of a network, whole or not at all.

    Args:
        folder: replaced, if there is one.
        pipeline: the class that will read it.
        part: what that class calls the network ("unet", "transformer").
        card: the text of README.md.
        state: the adapter's tensors, where they had to be gathered; None: as they are in the network.

    Raises:
        SaveError: it cannot be written; the folder is as it was.
    """
    tensors = adapter_state(network, name) if state is None else state
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    metadata = network.peft_config[name].to_dict()  # type: ignore[index,union-attr]
    if metadata["exclude_modules"]:  # name the layers one by one instead: peft warns of either when it is read
        layers = network.named_modules()
        metadata["target_modules"] = sorted(each for each, layer in layers if isinstance(layer, LoraLayer))
        metadata["exclude_modules"] = None
    elif isinstance(metadata["target_modules"], Collection) and not isinstance(metadata["target_modules"], str):
        metadata["target_modules"] = sorted(metadata["target_modules"])  # a set: each process has an order of its own
    try:
        pipeline.save_lora_weights(
            draft,
            **{
                f"{part}_lora_layers": {key: value.cpu() for key, value in tensors.items()},
                f"{part}_lora_adapter_metadata": metadata,
            },
        )
        if card is not None:
            (draft / "README.md").write_text(card, encoding="utf-8")
        replace_folder(draft, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise SaveError(f"{folder}: cannot be written ({error}); what was saved before is unharmed") from None


def read_adapter(folder: Path, pipeline: type[DiffusionPipeline], part: str) -> tuple[dict[str, Tensor], float | None]:
    """The tensors of an adapter by peft's names, and its alpha where the file says it.

    Tensors alone do not say by how much they are multiplied.

    Raises:
        ConfigError: no adapter there, or one that cannot be read.
    """
    recover_folder(folder)
    if not folder.exists():
        raise ConfigError(f"no adapter in {folder}: no such folder")
    try:
        state, *_, metadata = pipeline.lora_state_dict(folder, use_safetensors=True, return_lora_metadata=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"cannot read the adapter in {folder}: {error}") from None
    alpha = (metadata or {}).get(f"{part}.lora_alpha")
    return {key.removeprefix(f"{part}."): value for key, value in state.items()}, alpha


def put_adapter(
    network: nn.Module, pipeline: type[DiffusionPipeline], part: str, path: Path, name: str, setting: str
) -> None:
    """Put a LoRA of any format that diffusers reads (its own, kohya's) into a network, as its adapter `name`.

    Args:
        pipeline, part: as `write_adapter` takes them.
        path: a folder or a .safetensors file.
        setting: what asked for it, for messages.

    Raises:
        ConfigError: no LoRA there, one of another model, or one that adapts more than the network.
    """
    recover_folder(path)
    if not path.exists():
        raise ConfigError(f"{setting}: no such file or folder: {path}")
    refuse_pickles(path, setting)
    options = {"unet_config": network.config} if part == "unet" else {"return_alphas": True}
    try:
        state, *alphas, metadata = pipeline.lora_state_dict(
            path, use_safetensors=True, return_lora_metadata=True, **options
        )
        others = sorted({key.split(".")[0] for key in state} - {part})
        if not state or others:
            raise ValueError(
                f"it adapts {', '.join(others) or 'nothing'}, and only the {part} can be trained or exported"
            )
        network.load_lora_adapter(  # type: ignore[operator]
            state,
            prefix=part,
            adapter_name=name,
            network_alphas=(alphas[0] or None) if alphas else None,
            metadata=metadata,
            low_cpu_mem_usage=True,
        )
        kind: Any = network.peft_config[name]  # type: ignore[index]
        if kind.use_dora or kind.lora_bias:
            raise ValueError("it is a DoRA or has biases, and only a plain LoRA can be trained or exported")
        taken = len(adapter_state(network, name))
        if taken != len(state):
            raise ValueError(f"{taken} of its {len(state)} tensors fit the layers of this {part}")
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ConfigError(f"{setting}: {path} is not a LoRA of this model: {str(error).splitlines()[0]}") from None


def refuse_pickles(adapter: Path, setting: str) -> None:
    """A pickle runs whatever code is in it when it is opened.

    Raises:
        ConfigError: a file of another format than safetensors, or a folder with pickles alone.
    """
    files = sorted(adapter.iterdir()) if adapter.is_dir() else [adapter]
    if any(path.suffix == ".safetensors" for path in files):
        return
    pickles = [path.name for path in files if adapter.is_file() or path.suffix in _PICKLES]
    if pickles:
        raise ConfigError(
            f"{setting}: {adapter}: {', '.join(pickles)} is not a .safetensors file; other formats can run code when they "
            "are opened, so they are not read: ask for the LoRA in safetensors, or convert it where you trust it"
        )
