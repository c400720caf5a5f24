"""Train `shapes-sd3` from nothing: a StableDiffusion3Pipeline (linear flow) over the shapes autoencoder.

    python -m makers.shapes_vae --out build/shapes-vae
    python -m makers.shapes_sd3 --vae build/shapes-vae --out build/shapes-sd3    # about 20 minutes of one CPU thread
    python -m makers.shapes_preferences --family sd3 --model build/shapes-sd3 --captions 1500 \\
        --out build/shapes-sd3/preferences.safetensors

Training ends at a third of the schedule, where the model draws recognisable scenes and misses about half of the
captions: headroom for alignment.

The pipeline appends `max_sequence_length` zero tokens where SD3 would put T5's. The model is trained mostly with one
of them, as `max_sequence_length=1` gives, and sometimes with up to 256 (diffusers' default), so both work.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn

from makers.shapes_denoiser import encode_scenes, measure, save_half, train, write_quality
from makers.shapes_text import LENGTH, build_projected_encoder, build_tokenizer

log = logging.getLogger("makers.shapes_sd3")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000, help="of the learning rate schedule")
    parser.add_argument("--stop", type=int, default=2000, help="the step after which training ends")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    vae = AutoencoderKL.from_pretrained(options.vae)
    vae.register_to_config(shift_factor=0.0)
    tokenizer = build_tokenizer()
    modules: dict[str, nn.Module] = {
        "transformer": build_transformer(),
        "text_encoder": build_projected_encoder(tokenizer, WIDTH, 3),
        "text_encoder_2": build_projected_encoder(tokenizer, WIDTH, 3),
    }
    log.info("parameters %s", {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()})

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

    def keep(step: int, average: dict[str, nn.Module]) -> None:
        pipeline = StableDiffusion3Pipeline(
            vae=vae,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=None,
            text_encoder_3=None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
            **average,
        )
        folder = options.out if step == options.stop else options.out.with_name(f"{options.out.name}-{step}")
        save_half(pipeline, folder)
        quality = measure(pipeline, 128, seed=1000, sheet=folder / "sheet.png", **SAMPLING)
        log.info("step %d %s", step, quality)
        write_quality(folder, {"step": step, **quality})

    bank = encode_scenes(vae, options.scenes, options.seed)
    log.info("%d scenes encoded, std %.3f", len(bank.latents), bank.latents.std())
    train(
        modules,
        loss_of,
        bank,
        steps=options.steps,
        stop=options.stop,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
        checkpoint_every=1000,
        on_checkpoint=keep,
    )


if __name__ == "__main__":
    main()
