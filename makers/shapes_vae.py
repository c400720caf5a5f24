"""Train the autoencoder of the shapes models from nothing: 32x32 RGB scenes to 8x8x4 latents.

    python -m makers.shapes_vae --out build/shapes-vae        # about 8 minutes on 2 CPU cores, fp32, seed 0

Loss: mean absolute error + mean squared error + 1e-5 KL to the unit Gaussian. Afterwards each
latent channel is brought to mean 0 and variance 1 inside the model, so `scaling_factor` is 1.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffalign.rewards.scene import captions, parse_caption, render_scene

log = logging.getLogger("makers.shapes_vae")
KINDS = ("single", "count", "both", "relation")


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


def draw_scenes(texts: list[str], rng: np.random.Generator) -> Tensor:
    """Render captions to float pictures [batch, 3, 32, 32] in [-1, 1]."""
    pictures = np.stack([np.asarray(render_scene(parse_caption(text), rng)) for text in texts])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_texts(count: int, rng: np.random.Generator) -> list[str]:
    """Captions of all kinds (the autoencoder may see held-out captions: it never reads them)."""
    kinds = rng.choice(KINDS, count, p=(0.1, 0.25, 0.25, 0.4))
    return [str(rng.choice(captions(kind))) for kind in kinds]


def train(steps: int, batch: int, learning_rate: float, seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = build_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
    )
    for step in range(steps):
        pictures = draw_scenes(draw_texts(batch, rng), rng)
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample()).sample - pictures
        loss = error.abs().mean() + error.square().mean() + 1e-5 * posterior.kl().mean() / 256
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            log.info("step %d loss %.4f error %.4f", step, loss.item(), error.abs().mean().item())
    return vae


@torch.no_grad()
def whiten(vae: AutoencoderKL, seed: int) -> None:
    """Bring the latents to mean 0 and variance 1, measured over 4,000 pictures."""
    rng = np.random.default_rng(seed + 1)
    latents = torch.cat([vae.encode(draw_scenes(draw_texts(100, rng), rng)).latent_dist.mean for _ in range(40)])
    fold(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))


@torch.no_grad()
def fold(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold a shift and a scale per latent channel into the 1x1 convolutions: (z - mean) / std comes out.

    Afterwards `scaling_factor` is 1: no reader of the model can forget a constant.
    """
    log.info("latent mean %s std %s", mean.tolist(), std.tolist())
    inward, outward = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    inward.weight[:channels] /= std[:, None, None, None]
    inward.bias[:channels] = (inward.bias[:channels] - mean) / std
    inward.bias[channels:] -= 2 * std.log()  # the other half is the log-variance
    outward.bias += outward.weight[:, :, 0, 0] @ mean
    outward.weight *= std[None, :, None, None]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae = train(options.steps, options.batch, options.learning_rate, options.seed).eval()
    whiten(vae, options.seed)
    vae.register_to_config(scaling_factor=1.0)
    vae.save_pretrained(options.out)


if __name__ == "__main__":
    main()
