"""VideoReward's weights, from its authors' folder, in transformers' Qwen2-VL: LoRA is merged, and peft not needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from diffalign.config.rewards import VideoRewardParams
from diffalign.exceptions import ConfigError
from diffalign.rewards.weights import cannot_load, model_version, read_tensors

if TYPE_CHECKING:  # transformers takes seconds to import, and a reward without weights does not need it
    from transformers import Qwen2VLConfig, Qwen2VLModel

PARTS = ("VQ", "MQ", "TA")
TOKENS = tuple(f"<|{part}_reward|>" for part in PARTS)
_FILES = [
    "model_config.json",
    *(f"checkpoint-*/{name}" for name in ("model.pth", "adapter_model.safetensors", "non_lora_state_dict.pth")),
]
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_EMBEDDING = "language_model.embed_tokens.weight"
# where the authors' transformers (4.45) and today's have the towers
_TOWERS = {
    "model.visual.": "visual.",
    "visual.": "visual.",
    "model.language_model.": "language_model.",
    "model.": "language_model.",
}


class PublishedConfig(NamedTuple):
    """What the authors' model_config.json says.

    Attributes:
        base: the model that was trained on, a hub id.
        fps, max_pixels: how much of a video is seen.
        rank, scale: of LoRA; what B A is multiplied with.
        mean, std: of the three numbers; 0 and 1 where the file has none.
    """

    base: str
    fps: float
    max_pixels: int
    rank: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class VideoRewardModel(NamedTuple):
    """The parts of VideoReward.

    Attributes:
        model: Qwen2-VL, without its head of words.
        head: [1, width], the same for the three tokens, as published; or [3, width], one row each.
        tokenizer: with the three tokens.
        config: as published.
        version: twelve digits that change with the weights, mean and std, the model's settings and the tokenizer.
    """

    model: Qwen2VLModel
    head: Tensor
    tokenizer: Any
    config: PublishedConfig
    version: str


def load_video_reward_model(params: VideoRewardParams) -> VideoRewardModel:
    """The model that the settings name, in their precision, on the CPU.

    Raises:
        ConfigError: it, or what it was trained on, cannot be loaded, or was trained in another way.
    """
    from transformers import Qwen2VLModel

    folder = _folder(params.model)
    config = read_config(folder / "model_config.json")
    base = params.base or config.base
    checkpoint = _newest(folder)
    if (checkpoint / "model.pth").is_file():
        found = read_tensors("video_reward.model", checkpoint / "model.pth")
        tensors = merged({}, found, config)
    else:
        found = {}
        for name in ("adapter_model.safetensors", "non_lora_state_dict.pth"):
            found |= read_tensors("video_reward.model", checkpoint / name)
        tensors = merged(_base_weights(base), found, config)
    head = tensors.pop("head")
    sizes, tokenizer = _base_parts(base, len(tensors[_EMBEDDING]))
    with torch.device("meta"):
        wanted = {name: each.shape for name, each in Qwen2VLModel(sizes).named_parameters()}
    odd = sorted(name for name in {*wanted, *tensors} if name not in tensors or wanted.get(name) != tensors[name].shape)
    if odd or head.shape[1] != sizes.text_config.hidden_size or len(head) not in (1, len(PARTS)):
        named = odd[0] if odd else "rm_head.weight"
        raise ConfigError(
            f"video_reward.model: not the weights of VideoReward on {base!r}: {named!r} and {max(len(odd) - 1, 0)} more do "
            "not fit"
        )
    scale = {"mean": torch.tensor(config.mean), "std": torch.tensor(config.std)}
    version = model_version(tensors | {"head": head} | scale, [sizes], tokenizer)
    dtype = torch.bfloat16 if params.precision == "bf16" else torch.float32
    model = Qwen2VLModel.from_pretrained(None, config=sizes, state_dict=tensors, dtype=dtype)
    round_frequencies(model)
    return VideoRewardModel(model, head, tokenizer, config, version)


def round_frequencies(model: nn.Module) -> None:
    """Round the frequencies of positions to bfloat16, whatever the precision of the rest.

    The authors call model.to(bfloat16) in training and in scoring, which rounds these buffers too: at place 1,000 of a text
    angles of Qwen2-VL-2B differ by up to 1.15 radians, so exact ones would not be what the model was trained with.
    """
    for part in model.modules():
        frequencies = dict(part.named_buffers(recurse=False)).get("inv_freq")
        if frequencies is not None:
            part.register_buffer("inv_freq", frequencies.to(torch.bfloat16).to(torch.float32), persistent=False)


def read_config(file: Path) -> PublishedConfig:
    """What model_config.json says.

    Raises:
        ConfigError: it cannot be read, or the model is read in another way than VideoReward as published.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        data, model, lora = (told[part] for part in ("data_config", "model_config", "peft_lora_config"))
        needed = {
            "data_config.sample_type": (data["sample_type"], "uniform"),
            "data_config.num_frames": (data["num_frames"], None),
            "data_config.prompt_template_type": (data["prompt_template_type"], "detailed_special"),
            "model_config.use_special_tokens": (model["use_special_tokens"], True),
        }
        scale = told.get("inference_config") or {}
        rank, rooted = int(lora["lora_r"]), bool(lora.get("use_rslora"))
        config = PublishedConfig(
            base=str(model["model_name_or_path"]),
            fps=float(data["fps"]),
            max_pixels=int(data["max_frame_pixels"]),
            rank=rank,
            scale=float(lora["lora_alpha"]) / (rank**0.5 if rooted else rank),
            mean=tuple(float(scale[f"{part}_mean"]) if scale else 0.0 for part in PARTS),
            std=tuple(float(scale[f"{part}_std"]) if scale else 1.0 for part in PARTS),
        )
    except OSError as error:
        raise ConfigError(f"video_reward.model: cannot read {str(file)!r}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"video_reward.model: {str(file)!r} is not as VideoReward's authors write it: {type(error).__name__} {error}"
        ) from None
    for key, (seen, wanted) in needed.items():
        if seen != wanted:
            raise ConfigError(f"video_reward.model: {str(file)!r}: {key} must be {wanted!r}, got {seen!r}")
    return config


def merged(base: Mapping[str, Tensor], found: Mapping[str, Tensor], config: PublishedConfig) -> dict[str, Tensor]:
    """Weights in transformers' names, in float32, LoRA added: W + scale B A. The reward's head is called "head".

    Args:
        base: of the model that was trained on, in transformers' names; empty where `found` has all of them.
        found: of the authors' files, in the names of peft.
        config: rank and scale of LoRA.

    Raises:
        ConfigError: what was trained is not all there, or has another rank.
    """
    tensors, low_rank = dict(base), {}
    trained = set()
    for name, tensor in found.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if plain.startswith("lm_head."):  # for words
            continue
        tower = next((old for old in _TOWERS if plain.startswith(old)), "")
        renamed = "head" if plain == "rm_head.weight" else _TOWERS.get(tower, "") + plain.removeprefix(tower)
        if part := _LORA.fullmatch(renamed):
            low_rank[part[1], part[2]] = tensor.float()
        else:
            tensors[renamed] = tensor.float()
            trained.add(renamed)
    if lacking := {"head", _EMBEDDING} - trained:
        raise ConfigError(f"video_reward.model: no {' and no '.join(sorted(lacking))} in the checkpoint")
    for (module, side), up in low_rank.items():
        if side != "B":
            continue
        down, name = low_rank.get((module, "A")), f"{module}.weight"
        if down is None or name not in tensors or up.shape[1] != config.rank or len(down) != config.rank:
            raise ConfigError(f"video_reward.model: LoRA of {module!r} does not fit, at rank {config.rank}")
        tensors[name] = tensors[name] + config.scale * (up @ down)
    return tensors


def _folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(model, allow_patterns=_FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = "no such folder." if Path(model).is_absolute() else str(error).splitlines()[0]
        raise ConfigError(
            f"video_reward.model: cannot load {model!r}: {first} Give a folder as its authors publish it, or a hub id "
            "where there is a network"
        ) from None


def _newest(folder: Path) -> Path:
    steps = [each for each in folder.glob("checkpoint-*") if each.name.removeprefix("checkpoint-").isdigit()]
    if not steps:
        raise ConfigError(f"video_reward.model: no checkpoint-N in {str(folder)!r}")
    return max(steps, key=lambda each: int(each.name.removeprefix("checkpoint-")))


def _base_weights(base: str) -> dict[str, Tensor]:
    from transformers import Qwen2VLModel

    try:
        model = Qwen2VLModel.from_pretrained(base, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"video_reward.base: {cannot_load(base, error)}") from None
    return dict(model.state_dict())


def _base_parts(base: str, words: int) -> tuple[Qwen2VLConfig, Any]:
    """Sizes of the model, for a vocabulary of `words`, and its tokenizer with the three tokens."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"video_reward.base: {cannot_load(base, error)}") from None
    if config.model_type != "qwen2_vl":
        raise ConfigError(f"video_reward.base: {base!r} must be a Qwen2-VL, got {config.model_type}")
    config.text_config.vocab_size = words
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    if len(tokenizer) > words or tokenizer.convert_tokens_to_ids("<|video_pad|>") != config.video_token_id:
        raise ConfigError(f"video_reward.base: the tokenizer of {base!r} does not fit the model's {words} words")
    return config, tokenizer
