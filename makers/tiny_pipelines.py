"""Tiny SDXL, FLUX and volume pipelines with random weights, the first two around a zoo autoencoder, saved as folders."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from diffalign.backbones import VolumePipeline
from diffalign.backbones.volume_autoencoder import SparseStructureAutoencoder
from diffalign.backbones.volume_network import SparseStructureFlowModel
from diffalign.zoo import locate

SIDE = 8  # latents along a side; the autoencoder's factor is 4
SDXL_SCHEDULE = {  # stable-diffusion-xl-base-1.0, scheduler/scheduler_config.json
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
FLUX_SCHEDULE = {  # FLUX.1-dev, scheduler/scheduler_config.json
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}


def save_sdxl(folder: Path) -> Path:
    """SDXL base in small: two text encoders of different widths, pooled embeddings, time ids."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        zoo = StableDiffusionPipeline.from_pretrained(locate("zoo://shapes-sd"), safety_checker=None)
        settings = zoo.text_encoder.config.to_dict()
        pipeline = StableDiffusionXLPipeline(
            vae=_autoencoder(scaling_factor=0.13025),
            text_encoder=CLIPTextModel(_clip(settings, 32)),
            text_encoder_2=CLIPTextModelWithProjection(_clip(settings, 64, projection_dim=48)),
            tokenizer=zoo.tokenizer,
            tokenizer_2=zoo.tokenizer,
            unet=UNet2DConditionModel(
                sample_size=SIDE,
                block_out_channels=(32, 64),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=(2, 4),
                transformer_layers_per_block=(1, 2),
                use_linear_projection=True,
                cross_attention_dim=32 + 64,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 48,
                norm_num_groups=8,
            ),
            scheduler=EulerDiscreteScheduler.from_config(SDXL_SCHEDULE),
            force_zeros_for_empty_prompt=True,
        )
    return _saved(pipeline, folder)


def save_flux(folder: Path, *, guidance_embeds: bool = True, scheduler: Mapping[str, Any] = FLUX_SCHEDULE) -> Path:
    """FLUX.1-dev in small: packed latents, CLIP and T5, an embedded guidance scale, resolution-dependent shift."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        zoo = StableDiffusionPipeline.from_pretrained(locate("zoo://shapes-sd"), safety_checker=None)
        pieces = ["<pad>", "</s>", "<unk>", "▁", *("▁" + letter for letter in string.ascii_lowercase)]
        pieces += list(string.ascii_lowercase)
        tokenizer = T5Tokenizer(vocab=[(piece, -float(rank)) for rank, piece in enumerate(pieces)], extra_ids=0)
        t5 = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        pipeline = FluxPipeline(
            vae=_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=CLIPTextModel(_clip(zoo.text_encoder.config.to_dict(), 32)),
            text_encoder_2=T5EncoderModel(t5),
            tokenizer=zoo.tokenizer,
            tokenizer_2=tokenizer,
            transformer=FluxTransformer2DModel(
                in_channels=16,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(4, 6, 6),
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
        )
    return _saved(pipeline, folder)


def save_volume(folder: Path, *, encoder: bool = True) -> Path:
    """TRELLIS' first stage in small, told by texts: 4^3 latents of 8^3 cells."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        zoo = StableDiffusionPipeline.from_pretrained(locate("zoo://shapes-sd"), safety_checker=None)
        convolutions = {"latent_channels": 4, "num_res_blocks": 1, "num_res_blocks_middle": 1}
        pipeline = VolumePipeline(
            transformer=SparseStructureFlowModel(
                resolution=4,
                in_channels=4,
                out_channels=4,
                model_channels=36,
                cond_channels=32,
                num_blocks=2,
                num_heads=2,
                patch_size=1,
                qk_rms_norm=True,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=SparseStructureAutoencoder(
                decoder_settings={"out_channels": 1, "channels": [16, 8], **convolutions},
                encoder_settings={"in_channels": 1, "channels": [8, 16], **convolutions} if encoder else None,
            ),
            text_encoder=CLIPTextModel(_clip(zoo.text_encoder.config.to_dict(), 32)),
            tokenizer=zoo.tokenizer,
        )
        with torch.no_grad():  # a new transformer predicts nothing
            for parameter in pipeline.transformer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return _saved(pipeline, folder)


def _clip(settings: Mapping[str, Any], width: int, **changes: Any) -> CLIPTextConfig:
    told = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 3, "projection_dim": width}
    kept = {key: value for key, value in settings.items() if not key.startswith("_") and key != "dtype"}
    return CLIPTextConfig(**{**kept, **told, **changes})


def _autoencoder(**settings: Any) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(locate("zoo://shapes-sd") / "vae", torch_dtype=torch.float32)
    vae.register_to_config(**settings)
    return vae


def _saved(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder
