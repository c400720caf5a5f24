"""A CLIP of two layers with random weights, in transformers' format: loading and formulas are the real ones."""

from __future__ import annotations

import atexit
import shutil
import string
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

SIDE, TOKENS = 32, 40


def tiny_tokenizer() -> CLIPTokenizer:
    """Letters are its tokens."""
    words = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[], model_max_length=TOKENS)


def tiny_clip(*, features: int = 16, seed: int = 0) -> CLIPModel:
    """Takes pictures of 32x32 in patches of 8x8, and 40 tokens."""
    torch.manual_seed(seed)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {"vocab_size": 54, "max_position_embeddings": TOKENS, "eos_token_id": 53, "projection_dim": features}
    vision = tower | {"image_size": SIDE, "patch_size": 8, "projection_dim": features}
    return CLIPModel(CLIPConfig(projection_dim=features, text_config=text, vision_config=vision)).eval()


def temporary_folder() -> Path:
    folder = Path(mkdtemp(prefix="tiny-clip-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def tiny_folder(features: int = 16, seed: int = 0) -> str:
    """A folder that `from_pretrained` reads."""
    folder = temporary_folder()
    tiny_clip(features=features, seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)
