"""A small Qwen2-VL with LoRA and a reward head, saved as VideoReward's authors do, and their forward (trainer.py)."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLModel

from diffalign.rewards import Video
from diffalign.rewards import video_reward as module
from tests.rewards.tiny_clip import temporary_folder

OWN = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TOKENS = ["<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"]
TEMPLATE = (
    Path(module.__file__).with_name("video_reward_prompt.txt").read_text(encoding="utf-8").split("\n-----\n", 1)[1]
)
WIDTH, RANK, ALPHA = 64, 4, 8
MEAN, STD = {"VQ": 3.6757, "MQ": 1.1646, "TA": 2.8105}, {"VQ": 2.2476, "MQ": 1.3811, "TA": 2.5121}


def tokenizer() -> Any:
    """Words are its tokens."""
    words = sorted({*re.findall(r"\w+|[^\w\s]+", TEMPLATE), "red", "cat", "jumps", "fox", "blue"})
    plain = Tokenizer(WordLevel({word: row for row, word in enumerate([*OWN, "[UNK]", *words])}, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", pad_token="<|endoftext|>", additional_special_tokens=OWN
    )


def sizes(words: int) -> Qwen2VLConfig:
    text = {
        "vocab_size": words, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]}, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2}
    ids = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
    return Qwen2VLConfig(text_config=text, vision_config=vision, **ids)


class Trained:
    """What the authors train: LoRA on the language model's linear layers, the vision tower, embeddings and a head."""

    def __init__(self, outputs: int = 1) -> None:
        torch.manual_seed(0)
        self.tokenizer = tokenizer()
        self.base = Qwen2VLModel(sizes(len(self.tokenizer) + 8)).eval()  # as Qwen's, with rows to spare
        for weight in self.base.parameters():  # large enough that attention picks out words
            weight.data += 1.5 * torch.randn_like(weight) / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0
        self.base_state = {name: tensor.clone() for name, tensor in self.base.state_dict().items()}
        self.tokenizer.add_special_tokens({"additional_special_tokens": [*OWN, *TOKENS]})
        self.ids = self.tokenizer.convert_tokens_to_ids(TOKENS)
        self.base.resize_token_embeddings(len(self.tokenizer))
        targets = [
            name
            for name, part in self.base.named_modules()
            if isinstance(part, torch.nn.Linear) and "visual" not in name
        ]
        self.model = get_peft_model(
            self.base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, lora_dropout=0.05)
        )
        assert isinstance(self.model, PeftModel)
        self.head = torch.nn.Linear(WIDTH, outputs, bias=False)
        for name, weight in self.model.named_parameters():
            if re.search(r"lora_|visual|embed_tokens", name):
                weight.data += (0.2 if "lora_" in name else 0.02) * torch.randn_like(weight)
        self.head.weight.data.normal_()
        for part in self.model.modules():  # what their model.to(bfloat16) leaves of the positions' frequencies
            if "inv_freq" in dict(part.named_buffers(recurse=False)):
                part.to(torch.bfloat16).to(torch.float32)
        self.model.eval()

    def logits(self, text: str, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Qwen2VLRewardModelBT.forward, for one video: the logits at the three tokens, of three outputs the diagonal."""
        inner = self.model.base_model.model
        words = torch.tensor([self.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            found = inner.language_model.embed_tokens(words)
            seen = inner.visual(patches, grid_thw=torch.tensor([grid])).pooler_output
            found = found.masked_scatter((words == 6).unsqueeze(-1).expand_as(found), seen)
            hidden = inner.language_model(inputs_embeds=found, attention_mask=torch.ones_like(words)).last_hidden_state
            logits = self.head(hidden)
        mask = torch.zeros_like(words, dtype=torch.bool)
        for each in self.ids:
            mask = mask | (words == each)
        pooled = logits[mask].view(1, 3, -1)
        pooled = pooled.diagonal(dim1=1, dim2=2) if self.head.out_features == 3 else pooled
        return pooled.reshape(-1)

    def state(self) -> dict[str, Tensor]:
        """By the names that peft and transformers 4.45 give."""
        found = {}
        for name, tensor in self.model.state_dict().items():
            plain = name.removeprefix("base_model.model.")
            plain = "model." + plain.removeprefix("language_model.") if plain.startswith("language_model.") else plain
            found[f"base_model.model.{plain}"] = tensor.clone()
        found["base_model.model.rm_head.weight"] = self.head.weight.detach().clone()
        found["base_model.model.lm_head.weight"] = torch.zeros(len(self.tokenizer), WIDTH)
        return found


@cache
def trained(outputs: int = 1) -> Trained:
    return Trained(outputs)


@cache
def base_folder() -> str:
    """As Qwen/Qwen2-VL-2B-Instruct: weights, sizes, tokenizer, nothing of the reward."""
    folder = temporary_folder()
    words = tokenizer()
    model = Qwen2VLModel(sizes(len(words) + 8))
    model.load_state_dict(trained().base_state)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def config(outputs: int = 1) -> dict[str, Any]:
    scale = {f"{part}_mean": MEAN[part] for part in MEAN} | {f"{part}_std": STD[part] for part in STD}
    return {
        "data_config": {
            "max_frame_pixels": 200704, "num_frames": None, "fps": 2.0, "eval_dim": ["VQ", "MQ", "TA"],
            "prompt_template_type": "detailed_special", "sample_type": "uniform", "meta_data": "", "data_dir": "",
        },
        "model_config": {"model_name_or_path": base_folder(), "output_dim": outputs, "use_special_tokens": True},
        "peft_lora_config": {"lora_enable": True, "lora_r": RANK, "lora_alpha": ALPHA, "use_rslora": False},
        "inference_config": scale,
    }  # fmt: skip


def save(folder: Path, *, outputs: int = 1, full: bool = True, told: dict[str, Any] | None = None) -> str:
    """The folder as the authors publish it: one file of all, or LoRA and what else was trained."""
    (folder / "checkpoint-7").mkdir(parents=True)
    (folder / "checkpoint-20").mkdir()
    (folder / "model_config.json").write_text(json.dumps(told or config(outputs)), encoding="utf-8")
    state, last = trained(outputs).state(), folder / "checkpoint-20"
    if full:
        torch.save(state, last / "model.pth")
    else:
        low = {name.replace(".default", ""): tensor for name, tensor in state.items() if "lora_" in name}
        save_file({name: tensor.contiguous() for name, tensor in low.items()}, last / "adapter_model.safetensors")
        rest = {name: each for name, each in state.items() if re.search(r"visual|embed_tokens|rm_head", name)}
        torch.save(rest, last / "non_lora_state_dict.pth")
    return str(folder)


@cache
def folder(outputs: int = 1, full: bool = True) -> str:
    return save(temporary_folder() / "VideoReward", outputs=outputs, full=full)


def videos() -> list[Video]:
    """Of several lengths, rates and shapes."""
    made = []
    for seed, (count, height, width, fps) in enumerate([(9, 40, 64, 8.0), (2, 64, 40, 2.0), (30, 50, 50, 10.0)]):
        noise = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        made.append(Video(noise.repeat(height // 4, 1).repeat(width // 4, 2), fps))
    return made
