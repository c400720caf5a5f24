"""Train `shapes-sd` from nothing: a StableDiffusionPipeline in noise prediction over the shapes autoencoder.

    python -m makers.shapes_all shapes-sd         # all phases, the preference set and the card: see shapes_recipes.py

About 50, 16 and 10 minutes of one CPU thread for the three phases. Plain noise errors teach little of a scene's layout,
which is decided where there is almost no signal; the last phase weighs them as a v-prediction would. The preference set is
drawn at guidance 1, where the model also errs in colours and shapes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from diffalign.denoising import shift_time
from makers.shapes_denoiser import denoiser_parser, make_denoiser, start
from makers.shapes_text import LENGTH, build_encoder, build_tokenizer

WIDTH = 96
SAMPLING = {"num_inference_steps": 20, "guidance_scale": 2.0}


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def parser() -> argparse.ArgumentParser:
    parser = denoiser_parser(__doc__, steps=3600, stop=3600, batch=64, scenes=60_000, learning_rate=1.5e-3)
    parser.add_argument("--start", type=Path, help="go on from this pipeline instead of from nothing")
    parser.add_argument("--time-shift", type=float, default=1.0, help="more noise in training when above 1")
    parser.add_argument(
        "--most-weight",
        type=float,
        default=1.0,
        help="weigh errors by 1 / abar up to this (the v-prediction's weight): 1 is the plain noise error, which says "
        "little about the layout, because that is decided where there is little signal",
    )
    return parser


def main() -> None:
    options = start(parser())
    vae = AutoencoderKL.from_pretrained(options.vae)
    before = None
    if options.start is not None:
        before = StableDiffusionPipeline.from_pretrained(options.start, torch_dtype=torch.float32, safety_checker=None)
    tokenizer = build_tokenizer() if before is None else before.tokenizer
    scheduler = build_scheduler()
    modules: dict[str, nn.Module] = {"unet": build_unet(), "text_encoder": build_encoder(tokenizer, WIDTH, 2)}
    if before is not None:
        for name, module in modules.items():
            module.load_state_dict(getattr(before, name).state_dict())

    def loss_of(latents: Tensor, texts: Sequence[str], generator: torch.Generator) -> Tensor:
        t = shift_time(torch.rand(len(latents), generator=generator), options.time_shift)
        index = (t * scheduler.config.num_train_timesteps).long()
        noise = torch.randn(latents.shape, generator=generator)
        tokens = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        states = modules["text_encoder"](tokens.input_ids)[0]
        predicted = modules["unet"](scheduler.add_noise(latents, noise, index), index, states).sample
        weight = (1 / scheduler.alphas_cumprod[index]).clamp(max=options.most_weight)
        return (weight * (predicted - noise).square().mean((1, 2, 3))).mean()

    def pipeline_of(average: dict[str, nn.Module]) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            vae=vae,
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **average,
        )

    make_denoiser(options, vae, modules, loss_of, pipeline_of, SAMPLING)


if __name__ == "__main__":
    main()
