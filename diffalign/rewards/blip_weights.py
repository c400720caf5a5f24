"""ImageReward's weights, in the layout of its authors' file (BLIP's own names), in transformers' classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from diffalign.exceptions import ConfigError
from diffalign.rewards.weights import fill

if TYPE_CHECKING:  # transformers takes seconds to import, and a reward without weights does not need it
    from transformers import BlipTextModel, BlipVisionModel

_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
_HEAD_WIDTH = 64  # of an attention head, in BLIP base and large and in BERT base
_VISION_EPS = 1e-6  # timm's; transformers' default is 1e-5
_TEXT_EPS = 1e-12

_ALONE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_IN_A_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class Blip(NamedTuple):
    """The parts of ImageReward.

    Attributes:
        vision: of the picture, every patch a vector.
        text: of the prompt, with attention to the picture's vectors in every layer.
        head: of the text's first vector, one number: five layers with nothing between them.
    """

    vision: BlipVisionModel
    text: BlipTextModel
    head: nn.Sequential


def blip_of_authors(weights: Mapping[str, Tensor]) -> Blip:
    """The model of these weights, in float32; its sizes are read off the tensors.

    What else the file holds (BLIP's projections, which ImageReward does not use) is left aside, as its authors do.

    Args:
        weights: the state of the class ImageReward of THUDM/ImageReward (ImageReward.py).

    Raises:
        ConfigError: these are not such weights, or not all of them.
    """
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    try:
        layers = [name for name in weights if name.startswith(_HEAD) and name.endswith(".weight")]
        layers.sort(key=lambda name: int(name.removeprefix(_HEAD).partition(".")[0]))
        with torch.device("meta"):
            vision = BlipVisionModel(BlipVisionConfig(**_vision_sizes(weights)))
            text = BlipTextModel(BlipTextConfig(**_text_sizes(weights)), add_pooling_layer=False)
            head = nn.Sequential(*(nn.Linear(weights[name].shape[1], len(weights[name])) for name in layers))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise _not_such(str(error).splitlines()[0]) from None
    _fill(vision, {_renamed(name): tensor for name, tensor in _under(_VISION, weights).items()}, _VISION)
    _fill(text, _under(_TEXT, weights), _TEXT)
    places = {name.removeprefix(_HEAD).partition(".")[0]: str(place) for place, name in enumerate(layers)}
    numbered = {tuple(name.split(".")): tensor for name, tensor in _under(_HEAD, weights).items()}
    _fill(head, {f"{places[number]}.{kind}": tensor for (number, kind), tensor in numbered.items()}, _HEAD)
    return Blip(vision, text, head)


def _fill(module: nn.Module, found: Mapping[str, Tensor], where: str) -> None:
    """Every parameter from the file; one that is missing there would be a random number."""
    wanted = {name: parameter.shape for name, parameter in module.named_parameters()}
    for name, shape in wanted.items():
        if name not in found:
            raise _not_such(f"nothing under {where!r} is what transformers calls {name!r}")
        if found[name].shape != shape:
            raise _not_such(f"under {where!r} {name!r} has the shape {list(found[name].shape)}, not {list(shape)}")
    fill(module, {name: found[name] for name in wanted})


def _not_such(why: str) -> ConfigError:
    return ConfigError(f"weights: not those of ImageReward: {why}")


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _renamed(name: str) -> str:
    """What a part of the picture's encoder is called in transformers; the text's has the same names in both."""
    if name in _ALONE:
        return _ALONE[name]
    _, _, rest = name.partition("blocks.")
    number, _, rest = rest.partition(".")
    part, _, kind = rest.rpartition(".")
    return f"encoder.layers.{number}.{_IN_A_BLOCK.get(part, part)}.{kind}"


def _vision_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = weights[f"{_VISION}patch_embed.proj.weight"].shape
    cells = round((weights[f"{_VISION}pos_embed"].shape[1] - 1) ** 0.5)
    return {
        "hidden_size": width,
        "intermediate_size": len(weights[f"{_VISION}blocks.0.mlp.fc1.weight"]),
        "num_hidden_layers": _count(f"{_VISION}blocks.", weights),
        "num_attention_heads": width // _HEAD_WIDTH,
        "image_size": cells * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": _VISION_EPS,
    }


def _text_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    words, width = weights[f"{_TEXT}embeddings.word_embeddings.weight"].shape
    layer = f"{_TEXT}encoder.layer.0."
    return {
        "vocab_size": words,
        "hidden_size": width,
        "encoder_hidden_size": weights[f"{layer}crossattention.self.key.weight"].shape[1],
        "intermediate_size": len(weights[f"{layer}intermediate.dense.weight"]),
        "num_hidden_layers": _count(f"{_TEXT}encoder.layer.", weights),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": len(weights[f"{_TEXT}embeddings.position_embeddings.weight"]),
        "hidden_act": "gelu",
        "layer_norm_eps": _TEXT_EPS,
        "is_decoder": True,  # the layers with attention to the picture; nothing is causal in them
    }


def _count(prefix: str, weights: Mapping[str, Tensor]) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)})
