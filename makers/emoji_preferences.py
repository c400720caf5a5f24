"""Make the preference set of the emoji model: the designers' emoji before the model's own drawing of its name.

    python -m makers.emoji_preferences --model build/emoji-sd3 --out build/emoji-sd3/preferences.safetensors

Pairs of `--names` names, drawn at random from those that are not held out. The rejected drawing is made with
`--guidance-scale`. Rewards are 1 and 0: nothing judged the pictures. How the set was made stands in the file's header.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch

from diffalign.data import save_latents
from diffalign.pipelines import ImageGenerator
from makers.emoji_pictures import draw_emoji, emoji, held_out_names
from makers.shapes_denoiser import load_shapes, plain_parser, start

log = logging.getLogger("makers.emoji_preferences")


def parser() -> argparse.ArgumentParser:
    parser = plain_parser(__doc__, seed=10_000)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    return parser


def main() -> None:
    options = start(parser())
    backbone = load_shapes(options.model)
    generator = ImageGenerator.create(backbone, steps=options.steps, guidance_scale=options.guidance_scale, batch=100)
    held_out = set(held_out_names())
    pool = [one for one in emoji() if one.name not in held_out]
    rows = np.random.default_rng(options.seed).permutation(len(pool))[: options.names]
    chosen = [pool[row] for row in rows]
    names = [one.name for one in chosen]
    seeds = [options.seed + number for number in range(len(names))]
    drawn = torch.cat(list(generator.latents(names, seeds, view="reference")))
    with torch.no_grad():
        designed = torch.cat([backbone.encode(part.float() / 255) for part in draw_emoji(chosen).split(100)])
    facts = {
        "pairs": len(names),
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "sampler": type(generator.sampler).__name__,
        "seed": options.seed,
    }
    save_latents(
        options.out,
        torch.stack([designed, drawn], dim=1),
        torch.tensor([1.0, 0.0]).expand(len(names), 2),
        names,
        list(range(len(names))),
        {
            "autoencoder": backbone.autoencoder_identity(),
            "model": Path(options.model).name,
            "reward": "1 the designers' picture, 0 the model's own",
            "pictures": "Noto Color Emoji, Copyright Google Inc., SIL Open Font License 1.1",
            "facts": json.dumps(facts),
        },
    )
    log.info("%s", facts)


if __name__ == "__main__":
    main()
