"""A CLAP of the real architecture, small and random, with a real processor."""

from __future__ import annotations

import atexit
import shutil
import string
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizer

TOKENS = 24


def tiny_processor(*, fused: bool = False, padding: str = "repeatpad") -> Any:
    """Letters are its tokens; 16 bands."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *string.ascii_lowercase]
    tokenizer = RobertaTokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[])
    extractor = ClapFeatureExtractor(
        feature_size=16, truncation="fusion" if fused else "rand_trunc", padding=padding, frequency_min=50
    )
    return ClapProcessor(extractor, tokenizer)


def tiny_clap(*, fused: bool = False, seed: int = 0) -> ClapModel:
    """Its audio tower takes spectra of 16 bands and 1024 columns at most."""
    torch.manual_seed(seed)
    audio = {
        "num_mel_bins": 16, "spec_size": 128, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
        "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [1, 2], "patch_embeds_hidden_size": 8,
        "num_hidden_layers": 2, "projection_dim": 16, "enable_fusion": fused, "aff_block_r": 2, "num_classes": 4,
    }  # fmt: skip
    text = {
        "vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": TOKENS + 2, "projection_dim": 16, "pad_token_id": 1,
    }  # fmt: skip
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).eval()
    for name, buffer in model.named_buffers():  # a batch norm that does something, as a trained one
        if name.endswith("running_mean"):
            buffer.fill_(-60.0)
        if name.endswith("running_var"):
            buffer.fill_(900.0)
    return model


@cache
def tiny_clap_folder(*, fused: bool = False, padding: str = "repeatpad", seed: int = 0) -> str:
    """A folder that `from_pretrained` reads."""
    folder = Path(mkdtemp(prefix="tiny-clap-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_clap(fused=fused, seed=seed).save_pretrained(folder)
    tiny_processor(fused=fused, padding=padding).save_pretrained(folder)
    return str(folder)
