"""A LoRA in one .safetensors file, by the names that kohya's sd-scripts write and that ComfyUI and A1111 read.

- sd: `lora_unet_` and the layer's name in diffusers; sdxl: the layer's name in the original UNet, as sd-scripts trains it.
  `.lora_down.weight`, `.lora_up.weight` and `.alpha`.
- sd3, flux: sd-scripts name the layers of the original transformer, which holds query, key and value in one matrix.
  diffusers reads these names for FLUX at its published size alone, and for SD3 not at all; ComfyUI reads diffusers' own
  names too, so these are written: `transformer.NAME.lora_A.weight`. ComfyUI looks for alpha in a tensor and diffusers
  (SD3) bears none, so it is multiplied into B: a reader that knows no alpha takes the update as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from diffalign.backbones.folder_swap import open_to_readers
from diffalign.exceptions import ConfigError, SaveError

_RESNET = {  # diffusers' name of a residual block's layer -> the original's
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {  # of a layer outside the blocks
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_VERSIONS = {  # ss_base_model_version, modelspec.architecture
    "sd": ("sd_v1", "stable-diffusion-v1"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    "sd3": ("sd3", "stable-diffusion-3"),
    "flux": ("flux1", "flux-1-dev"),
}
_SD2_WIDTH = 1024  # of the text states; SD1 has 768
_SD2_LARGE = 96  # latents along a side of the 768-pixel models, which predict v; the others have 64


def write_kohya(
    file: Path,
    family: str,
    network: nn.Module,
    name: str,
    title: str,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the adapter `name` of a network, whole or not at all; `file` is replaced if there is one.

    Args:
        dtype: of the tensors; None: as the adapter has them.

    Raises:
        ConfigError: no other program reads the family from such a file.
        SaveError: it cannot be written.
    """
    if family not in _VERSIONS:
        raise ConfigError(f"--format: kohya's is for {', '.join(_VERSIONS)}, and this model is of family {family!r}")
    draft = file.with_name(f".{file.name}.partial")
    facts = _metadata(family, network, name, title) | dict(metadata or {})
    try:
        tensors = kohya_tensors(family, network, name)
        save_file({key: tensor.to(dtype or tensor.dtype) for key, tensor in tensors.items()}, draft, facts)
        open_to_readers(draft)
        draft.replace(file)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise SaveError(f"{file}: cannot be written ({error}); free some space and export again") from None


def kohya_tensors(family: str, network: nn.Module, name: str) -> dict[str, Tensor]:
    """The adapter's tensors by the names of the module's docstring."""
    tensors: dict[str, Tensor] = {}
    settings: Any = network.config
    for key, layer in network.named_modules():
        if not isinstance(layer, LoraLayer) or name not in layer.lora_A:
            continue
        down, up = (part[name].weight.detach().cpu() for part in (layer.lora_A, layer.lora_B))
        scale = float(layer.scaling[name])  # alpha / rank, or what a rank-stabilised one has in its place
        if family in ("sd", "sdxl"):
            own = original_name(key, settings.layers_per_block) if family == "sdxl" else key
            flat = "lora_unet_" + own.replace(".", "_")
            tensors[f"{flat}.lora_down.weight"] = down.contiguous()
            tensors[f"{flat}.lora_up.weight"] = up.contiguous()
            tensors[f"{flat}.alpha"] = torch.tensor(scale * len(down))
        else:
            tensors[f"transformer.{key}.lora_A.weight"] = down.contiguous()
            tensors[f"transformer.{key}.lora_B.weight"] = (up * scale).contiguous()
    return tensors


def original_name(layer: str, layers_per_block: int) -> str:
    """Where a layer of diffusers' UNet stands in the original one, whose blocks are numbered through.

    >>> original_name("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 2)
    'input_blocks.4.1.transformer_blocks.0.attn1.to_q'
    """
    if layer in _OUTSIDE:
        return _OUTSIDE[layer]
    found = re.fullmatch(r"(down_blocks|up_blocks)\.(\d+)\.(\w+?)\.(\d+)\.(.+)", layer)
    if found is None:
        kind, number, rest = re.fullmatch(r"mid_block\.(\w+?)\.(\d+)\.(.+)", layer).groups()  # type: ignore[union-attr]
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_inside(kind, rest)}"
    side, block, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    length = layers_per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{length * (block + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{length * block + layers_per_block}.2.conv"
    first = 1 if side == "down_blocks" else 0
    place = length * block + number + first
    part = 1 if kind == "attentions" else 0
    return f"{'input' if first else 'output'}_blocks.{place}.{part}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    return _RESNET[rest] if kind == "resnets" else rest


def _metadata(family: str, network: nn.Module, name: str, title: str) -> dict[str, str]:
    """What sd-scripts write and A1111 and ComfyUI managers show; all values are text."""
    settings: Any = network.config
    config: Any = network.peft_config[name]  # type: ignore[index]
    version, architecture = _VERSIONS[family]
    second = family == "sd" and settings.cross_attention_dim == _SD2_WIDTH
    if second:
        version = "sd_v2"
        architecture = "stable-diffusion-v2-768-v" if settings.sample_size == _SD2_LARGE else "stable-diffusion-v2-512"
    if family == "flux" and not settings.guidance_embeds:
        architecture = "flux-1-schnell"
    folded = family not in ("sd", "sdxl")
    alpha = config.lora_alpha * (config.r**0.5 if config.use_rslora else 1)  # as the tensors have it
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.r),
        "ss_network_alpha": str(float(config.r if folded else alpha)),
        "ss_network_args": "{}",
        "ss_base_model_version": version,
        "ss_v2": str(second),
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers" if folded else "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
    }
