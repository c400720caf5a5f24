"""Settings of well-known checkpoints, as published: what their shapes follow from, without their files."""

from __future__ import annotations

from typing import Any

Part = tuple[str, str, dict[str, Any]]  # library, class, settings

_VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
}
_VAE_16 = _VAE | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
_CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_CLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_T5_XXL: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_NOISE: Part = (
    "diffusers",
    "DDIMScheduler",
    {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "clip_sample": False,
    },
)


def _flow(shift: float, **more: Any) -> Part:
    return "diffusers", "FlowMatchEulerDiscreteScheduler", {"shift": shift, **more}


_SD15: dict[str, Part] = {
    "unet": (
        "diffusers",
        "UNet2DConditionModel",
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},  # the rest is diffusers' default
    ),
    "vae": ("diffusers", "AutoencoderKL", _VAE | {"sample_size": 512, "scaling_factor": 0.18215}),
    "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
    "scheduler": _NOISE,
}
_SDXL: dict[str, Part] = {
    "unet": (
        "diffusers",
        "UNet2DConditionModel",
        {
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "vae": ("diffusers", "AutoencoderKL", _VAE | {"scaling_factor": 0.13025, "force_upcast": True}),
    "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", _CLIP_G),
    "scheduler": _NOISE,
}
_SD35_MEDIUM: dict[str, Part] = {
    "transformer": (
        "diffusers",
        "SD3Transformer2DModel",
        {
            "sample_size": 128,
            "num_layers": 24,
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": list(range(13)),
            "qk_norm": "rms_norm",
        },
    ),
    "vae": ("diffusers", "AutoencoderKL", _VAE_16 | {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection", _CLIP_L),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", _CLIP_G),
    "text_encoder_3": ("transformers", "T5EncoderModel", _T5_XXL),
    "scheduler": _flow(3.0),
}
_FLUX_DEV: dict[str, Part] = {
    "transformer": (
        "diffusers",
        "FluxTransformer2DModel",
        {"guidance_embeds": True},
    ),  # diffusers' defaults are FLUX.1's
    "vae": ("diffusers", "AutoencoderKL", _VAE_16 | {"scaling_factor": 0.3611, "shift_factor": 0.1159}),
    "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
    "text_encoder_2": ("transformers", "T5EncoderModel", _T5_XXL),
    "scheduler": _flow(
        3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    ),
}
_TRELLIS_IMAGE: dict[str, Part] = {  # the first stage
    "transformer": (
        "diffalign.backbones.volume_network",
        "SparseStructureFlowModel",
        {
            "resolution": 16,
            "in_channels": 8,
            "out_channels": 8,
            "model_channels": 1024,
            "cond_channels": 1024,
            "num_blocks": 24,
            "num_heads": 16,
            "patch_size": 1,
            "qk_rms_norm": True,
        },
    ),
    "vae": (
        "diffalign.backbones.volume_autoencoder",
        "SparseStructureAutoencoder",
        {
            "decoder_settings": {
                "out_channels": 1,
                "latent_channels": 8,
                "num_res_blocks": 2,
                "num_res_blocks_middle": 2,
                "channels": [512, 128, 32],
            }
        },
    ),
    "image_encoder": (
        "transformers",
        "Dinov2WithRegistersModel",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518, "patch_size": 14},
    ),
    "scheduler": _flow(3.0),
}
PUBLISHED: dict[str, dict[str, Part]] = {  # hub id -> the pipeline's parts; every one has its tokenizers besides
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD15,
    "runwayml/stable-diffusion-v1-5": _SD15,
    "stabilityai/stable-diffusion-xl-base-1.0": _SDXL,
    "stabilityai/stable-diffusion-3.5-medium": _SD35_MEDIUM,
    "black-forest-labs/FLUX.1-dev": _FLUX_DEV,
    "microsoft/TRELLIS-image-large": _TRELLIS_IMAGE,
}
