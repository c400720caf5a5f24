"""SDXL base with random weights: the published architecture, or one with a share of its channels."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from quarter_sd import text_settings
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from diffalign.zoo import locate


def save_random_sdxl(folder: Path, width: float = 1.0, dtype: torch.dtype = torch.float32) -> Path:
    """A folder that `DiffusionPipeline.from_pretrained` reads; its text encoders, which no step asks, have two layers."""
    zoo = StableDiffusionPipeline.from_pretrained(locate("zoo://shapes-sd"), safety_checker=None)
    widths = [64 * max(1, round(width * each)) for each in (5, 10, 20)]
    texts = [64 * max(1, round(width * each)) for each in (12, 20)]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                sample_size=1024,
                scaling_factor=0.13025,
            ),
            text_encoder=CLIPTextModel(text_settings(zoo.tokenizer, texts[0], 2)),
            text_encoder_2=CLIPTextModelWithProjection(
                text_settings(zoo.tokenizer, texts[1], 2, projection_dim=texts[1])
            ),
            tokenizer=zoo.tokenizer,
            tokenizer_2=zoo.tokenizer,
            unet=UNet2DConditionModel(
                sample_size=128,
                block_out_channels=tuple(widths),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=tuple(each // 64 for each in widths),
                transformer_layers_per_block=(1, 2, 10),
                use_linear_projection=True,
                cross_attention_dim=sum(texts),
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=6 * 256 + texts[1],
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            ),
            force_zeros_for_empty_prompt=True,
        )
    pipeline.to(dtype).save_pretrained(folder)
    return folder
