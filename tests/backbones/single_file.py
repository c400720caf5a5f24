"""A saved SDXL pipeline of `makers.tiny_pipelines` as the single file that SDXL is published as: the original names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

# of this UNet: two levels, one resnet a level on the way down, two on the way up
_UNET = {
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def write_single_file(pipeline: DiffusionPipeline, path: Path) -> Path:
    """Write UNet, autoencoder and both text encoders."""
    vae, clip, open_clip = pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2
    weights = {f"model.diffusion_model.{key}": value for key, value in _unet(pipeline.unet.state_dict()).items()}
    weights |= {f"first_stage_model.{key}": value for key, value in _vae(vae.state_dict()).items()}
    first = "conditioner.embedders.0.transformer.text_model."
    weights |= {first + key.removeprefix("text_model."): value for key, value in clip.state_dict().items()}
    second = "conditioner.embedders.1.model."
    weights |= {second + key: value for key, value in _open_clip(open_clip.state_dict()).items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def _unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        place = next(each for each in sorted(_UNET, key=len, reverse=True) if key.startswith(each + "."))
        rest = key.removeprefix(place + ".")
        if ".resnets." in place:
            part, _, kind = rest.rpartition(".")
            rest = f"{_RESNET[part]}.{kind}"
        renamed[f"{_UNET[place]}.{rest}"] = value
    return renamed


def _vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down_blocks."))
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
            way = parts[1].removesuffix("_blocks")
            level = int(parts[2]) if way == "down" else levels - 1 - int(parts[2])
            kind = {"resnets": f"block.{parts[4]}", "downsamplers": "downsample", "upsamplers": "upsample"}[parts[3]]
            key = ".".join([parts[0], way, str(level), kind, *parts[5:]])
        key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        renamed[key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")] = value
    return renamed


def _open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {"text_projection": state["text_projection.weight"].T}
    plain = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    renamed |= {new: state[old] for old, new in plain.items()}
    for key, value in state.items():
        if not key.startswith("text_model.encoder.layers."):
            continue
        number, rest = key.removeprefix("text_model.encoder.layers.").split(".", 1)
        block, kind = f"transformer.resblocks.{number}", key.rpartition(".")[2]
        if "q_proj" in rest:
            three = [state[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
        elif "k_proj" not in rest and "v_proj" not in rest:
            renamed[f"{block}.{_OPEN_CLIP[rest.removesuffix('.' + kind)]}.{kind}"] = value
    return renamed
