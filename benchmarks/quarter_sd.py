"""Stable Diffusion 1.5 at a quarter of its width, with random weights: its parts cost in proportion what the real ones do.

At 256 pixels its latents are 32x32. Encoding a picture takes 1.36 times the floating-point operations of one call of the
network; at full width and 512 pixels it is 1.39 times (1117 and 803 GFLOP; `utilisation.py` counts them).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from diffalign.zoo import locate

SIDE = 256


def save_quarter_sd(folder: Path) -> Path:
    """A folder that `DiffusionPipeline.from_pretrained` reads."""
    zoo = StableDiffusionPipeline.from_pretrained(locate("zoo://shapes-sd"), safety_checker=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(32, 64, 128, 128),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                norm_num_groups=8,
                sample_size=SIDE,
            ),
            text_encoder=CLIPTextModel(text_settings(zoo.tokenizer, 192, 12)),
            tokenizer=zoo.tokenizer,
            unet=UNet2DConditionModel(
                sample_size=SIDE // 8,
                block_out_channels=(80, 160, 320, 320),
                attention_head_dim=2,  # of them, so that each has the width of the real ones
                cross_attention_dim=192,
                norm_num_groups=8,
            ),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def text_settings(tokenizer: Any, width: int, layers: int, **more: int) -> CLIPTextConfig:
    """A CLIP text encoder for 77 tokens of this tokenizer, with heads 64 wide."""
    tokenizer.model_max_length = 77
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def save_pairs(folder: Path, count: int, side: int = SIDE) -> Path:
    """Pairs of smooth random pictures with captions, as a folder with metadata.jsonl."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(count):
            for name in ("a", "b"):
                coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}_{name}.png")
            row = {"prompt": f"picture number {number}", "chosen": f"{number}_a.png", "rejected": f"{number}_b.png"}
            file.write(json.dumps(row) + "\n")
    return folder
