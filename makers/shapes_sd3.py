"""Train `shapes-sd3` from nothing: a StableDiffusion3Pipeline (linear flow) over the shapes autoencoder.

    python -m makers.shapes_all shapes-sd3        # with the preference set and the card: see shapes_recipes.py

About 20 minutes of one CPU thread. Training ends at a third of the schedule, where the model draws recognisable scenes
and misses about half of the captions: headroom for alignment.

The pipeline appends `max_sequence_length` zero tokens where SD3 would put T5's. The model is trained mostly with one
of them, as `max_sequence_length=1` gives, and sometimes with up to 256 (diffusers' default), so both work.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn

from makers.shapes_denoiser import denoiser_parser, make_denoiser, start
from makers.shapes_text import LENGTH, build_projected_encoder, build_tokenizer

WIDTH = 64  # of each of the two text encoders
SHIFT = 1.0  # small latents need no shift towards noise
SAMPLING = {"num_inference_steps": 20, "guidance_scale": 2.0, "max_sequence_length": 1}


def build_transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=5,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )


def encode(modules: dict[str, nn.Module], tokens: Tensor, empty: int) -> tuple[Tensor, Tensor]:
    """What StableDiffusion3Pipeline.encode_prompt computes with no T5, with gradient: states and pooled states."""
    outputs = [modules[name](tokens, output_hidden_states=True) for name in ("text_encoder", "text_encoder_2")]
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    states = torch.cat([states, states.new_zeros(len(tokens), empty, states.shape[-1])], dim=1)
    return states, torch.cat([output[0] for output in outputs], dim=-1)


def draw_empty(generator: torch.Generator) -> int:
    """How many zero tokens a batch gets."""
    chance = torch.rand((), generator=generator).item()
    if chance < 0.94:
        return 1
    return 256 if chance > 0.985 else int(torch.randint(2, 80, (), generator=generator))


def parser() -> argparse.ArgumentParser:
    return denoiser_parser(__doc__, steps=6000, stop=2000, batch=32, scenes=40_000, learning_rate=1.5e-3)


def main() -> None:
    options = start(parser())
    vae = AutoencoderKL.from_pretrained(options.vae)
    vae.register_to_config(shift_factor=0.0)
    tokenizer = build_tokenizer()
    modules: dict[str, nn.Module] = {
        "transformer": build_transformer(),
        "text_encoder": build_projected_encoder(tokenizer, WIDTH, 3),
        "text_encoder_2": build_projected_encoder(tokenizer, WIDTH, 3),
    }

    def loss_of(latents: Tensor, texts: Sequence[str], generator: torch.Generator) -> Tensor:
        t = torch.sigmoid(torch.randn(len(latents), generator=generator))  # logit-normal(0, 1), as SD3
        noise = torch.randn(latents.shape, generator=generator)
        x_t = torch.lerp(latents, noise, t[:, None, None, None])
        tokens = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        states, pooled = encode(modules, tokens.input_ids, draw_empty(generator))
        predicted = modules["transformer"](
            hidden_states=x_t, timestep=t * 1000, encoder_hidden_states=states, pooled_projections=pooled
        ).sample
        return (predicted - (noise - latents)).square().mean()

    def pipeline_of(average: dict[str, nn.Module]) -> StableDiffusion3Pipeline:
        return StableDiffusion3Pipeline(
            vae=vae,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=None,
            text_encoder_3=None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
            **average,
        )

    make_denoiser(options, vae, modules, loss_of, pipeline_of, SAMPLING)


if __name__ == "__main__":
    main()
