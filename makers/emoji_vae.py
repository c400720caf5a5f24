"""Train the autoencoder of `emoji-sd3` from nothing: 32x32 RGB emoji to 8x8 latents.

    python -m makers.emoji_vae --out build/emoji-vae        # about 8 minutes of one CPU thread, seed 0

Loss as for the shapes (shapes_vae.py). It sees every emoji, mirrored half of the time and moved by up to two pixels:
a way of writing pictures down, not a memory of names. Matrix products in bfloat16.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from makers.emoji_pictures import draw_emoji, emoji
from makers.shapes_denoiser import plain_parser, start
from makers.shapes_vae import fold

log = logging.getLogger("makers.emoji_vae")
MOST_SHIFT = 2  # pixels


def build_vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
        shift_factor=0.0,
    )


def move(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each with chance a half and move it by up to MOST_SHIFT pixels; white comes in at the edges."""
    mirrored = torch.rand(len(pictures), generator=generator) < 0.5
    pictures = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
    padded = torch.nn.functional.pad(pictures, (MOST_SHIFT,) * 4, value=1.0)
    down, right = torch.randint(2 * MOST_SHIFT + 1, (2, len(pictures)), generator=generator).tolist()
    height, width = pictures.shape[2:]
    return torch.stack([
        page[:, y : y + height, x : x + width] for page, y, x in zip(padded, down, right, strict=True)
    ])  # fmt: skip


def train(vae: AutoencoderKL, pictures: Tensor, options: argparse.Namespace) -> None:
    """AdamW with warm-up and cosine decay; `pictures` are float [emoji, 3, 32, 32] in [-1, 1]."""
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=options.learning_rate, weight_decay=0.0)
    steps = options.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
    )
    started = time.monotonic()
    for step in range(steps):
        rows = torch.randint(len(pictures), (options.batch,), generator=generator)
        seen = move(pictures[rows], generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(seen).latent_dist
            error = vae.decode(posterior.sample(generator)).sample.float() - seen
        loss = error.abs().mean() + error.square().mean() + 1e-5 * posterior.kl().float().mean() / 256
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps - 1:
            seconds = time.monotonic() - started
            log.info("step %d loss %.4f error %.4f, %.0f s", step, loss.item(), error.abs().mean().item(), seconds)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Means of the latents, [emoji, channels, 8, 8], of float pictures in [-1, 1]."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(128)])


def parser() -> argparse.ArgumentParser:
    parser = plain_parser(__doc__, seed=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    return parser


def main() -> None:
    options = start(parser())
    pictures = draw_emoji(emoji()).float() / 127.5 - 1
    vae = build_vae(options.channels)
    log.info("%d emoji, %d parameters", len(pictures), sum(p.numel() for p in vae.parameters()))
    train(vae, pictures, options)
    vae.eval()
    latents = encode(vae, pictures)
    fold(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
    vae.register_to_config(scaling_factor=1.0)
    with torch.no_grad():
        error = torch.cat([vae.decode(part).sample for part in encode(vae, pictures).split(128)]) - pictures
    log.info("error in [0, 255]: %.2f", error.abs().mean().item() * 127.5)
    vae.save_pretrained(options.out)


if __name__ == "__main__":
    main()
