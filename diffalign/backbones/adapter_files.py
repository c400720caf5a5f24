"""LoRA adapters in files, in the format of diffusers: what `pipe.load_lora_weights(folder)` reads."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusers import DiffusionPipeline
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from torch import Tensor, nn

from diffalign.backbones.folder_swap import recover_folder, replace_folder
from diffalign.backbones.lora import adapter_state
from diffalign.exceptions import ConfigError, SaveError


def write_adapter(folder: Path, pipeline: type[DiffusionPipeline], part: str, network: nn.Module, name: str) -> None:
    """Write the adapter `name` of a network, whole or not at all.

    Args:
        folder: replaced, if there is one.
        pipeline: the class that will read it.
        part: what that class calls the network ("unet", "transformer").

    Raises:
        SaveError: it cannot be written; the folder is as it was.
    """
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    metadata = network.peft_config[name].to_dict()  # type: ignore[index,union-attr]
    if metadata["exclude_modules"]:  # name the layers one by one instead: peft warns of either when it is read
        layers = network.named_modules()
        metadata["target_modules"] = sorted(each for each, layer in layers if isinstance(layer, LoraLayer))
        metadata["exclude_modules"] = None
    try:
        pipeline.save_lora_weights(
            draft,
            **{
                f"{part}_lora_layers": {key: value.cpu() for key, value in adapter_state(network, name).items()},
                f"{part}_lora_adapter_metadata": metadata,
            },
        )
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
