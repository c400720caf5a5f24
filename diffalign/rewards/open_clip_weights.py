"""CLIP weights in open_clip's layout (HPSv2's authors' file) in transformers' classes: open_clip is not needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffalign.config.rewards import HPSParams
from diffalign.exceptions import ConfigError
from diffalign.rewards.weights import fill, hub_file, load_tokenizer, read_tensors

if TYPE_CHECKING:  # transformers takes seconds to import, and a reward without weights does not need it
    from transformers import CLIPConfig, CLIPModel

_HPS = ("xswu/HPSv2", {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"})
# Width of an attention head where it is not 64 (open_clip's model configs: ViT-H, ViT-g, ViT-bigG), by the tower's width.
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}

_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_IN_A_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_ALONE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}


def clip_of_open_clip(weights: Mapping[str, Tensor], *, end_token: int, activation: str = "gelu") -> CLIPModel:
    """The model of these weights; its sizes are read off the tensors.

    Args:
        weights: the state of open_clip's class CLIP (separate towers, class token pooling).
        end_token: id of the token that ends a text: there the text is read off.
        activation: `gelu`, or `quick_gelu` for OpenAI's weights.

    Raises:
        ConfigError: these are not such weights.
    """
    from transformers import CLIPModel

    found: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in weights.items():
        renamed = _renamed(name, tensor)
        found |= renamed
        if not renamed and name != "attn_mask":
            unknown.append(name)
    try:
        with torch.device("meta"):
            model = CLIPModel(_config_of(weights, end_token, activation))
        wanted = {name for name, _ in model.named_parameters()}
        if unknown or wanted != set(found):
            odd = sorted(unknown) or sorted(wanted.symmetric_difference(found))
            raise ConfigError(f"weights: not those of open_clip's CLIP: {odd[0]!r} and {len(odd) - 1} more do not fit")
        fill(model, found)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ConfigError(f"weights: not those of open_clip's CLIP: {str(error).splitlines()[0]}") from None
    return model


def load_hps(params: HPSParams) -> tuple[CLIPModel, Any]:
    """HPSv2's model and tokenizer: from `weights`, or from the hub.

    Raises:
        ConfigError: one of them cannot be loaded.
    """
    repository, files = _HPS
    setting = f"{params.name}.weights"
    file = params.weights or hub_file(setting, repository, files[params.release])
    return load_open_clip(params.name, file, params.tokenizer)


def load_open_clip(
    reward: str, weights: str | Path, tokenizer: str, *, activation: str = "gelu"
) -> tuple[CLIPModel, Any]:
    """A CLIP model of a file in open_clip's layout, and a tokenizer, a folder or hub id in transformers' format.

    Raises:
        ConfigError: one of them cannot be loaded.
    """
    state = read_tensors(f"{reward}.weights", weights)
    words = load_tokenizer(reward, tokenizer)
    return clip_of_open_clip(state, end_token=words.eos_token_id, activation=activation), words


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """What it is called in transformers; nothing where it has no place there."""
    if name in _ALONE:
        return {_ALONE[name]: tensor}
    if name in _TRANSPOSED:
        return {_TRANSPOSED[name]: tensor.T.contiguous()}
    tower = next((tower for tower in _TOWERS if name.startswith(tower)), None)
    if tower is None:
        return {}
    number, _, rest = name.removeprefix(tower).partition(".")
    home = f"{_TOWERS[tower]}{number}."
    if joined := re.fullmatch(r"attn\.in_proj_(weight|bias)", rest):
        thirds = tensor.chunk(3)
        return {f"{home}self_attn.{part}_proj.{joined[1]}": third for part, third in zip("qkv", thirds, strict=True)}
    part, _, kind = rest.rpartition(".")
    return {f"{home}{_IN_A_BLOCK[part]}.{kind}": tensor} if part in _IN_A_BLOCK else {}


def _config_of(weights: Mapping[str, Tensor], end_token: int, activation: str) -> CLIPConfig:
    patches = weights["visual.conv1.weight"]
    side = round((len(weights["visual.positional_embedding"]) - 1) ** 0.5) * patches.shape[-1]
    words, width = weights["token_embedding.weight"].shape

    def tower(width: int, prefix: str) -> dict[str, Any]:
        blocks = {name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)}
        return {
            "hidden_size": width,
            "intermediate_size": len(weights[f"{prefix}0.mlp.c_fc.weight"]),
            "num_hidden_layers": len(blocks),
            "num_attention_heads": max(width // _HEAD_WIDTHS.get(width, 64), 1),
            "hidden_act": activation,
        }

    from transformers import CLIPConfig

    return CLIPConfig(
        projection_dim=weights["visual.proj"].shape[1],
        text_config=tower(width, "transformer.resblocks.")
        | {
            "vocab_size": words,
            "max_position_embeddings": len(weights["positional_embedding"]),
            "projection_dim": weights["text_projection"].shape[1],
            "eos_token_id": end_token,
        },
        vision_config=tower(len(patches), "visual.transformer.resblocks.")
        | {"image_size": side, "patch_size": patches.shape[-1], "projection_dim": weights["visual.proj"].shape[1]},
    )
