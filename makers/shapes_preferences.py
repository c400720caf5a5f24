"""Draw the preference set of a shapes model: several pictures a caption, ranked by the scene checker.

    python -m makers.shapes_preferences --model build/shapes-sd --out build/shapes-sd/preferences.safetensors

Every group is `--members` pictures of one training caption that this model drew, the best and the worst halves of `--each`,
in falling order of how much of the caption they show (graded scene reward); best and worst differ by at least `--gap`.
Methods on groups take a group whole, methods on pairs the best with the worst, the second best with the second worst, and
so on. Held-out captions are never drawn. How the set was drawn stands in the file's header (`facts_of` reads it), from
where the model card takes it.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from diffalign.data import save_latents
from diffalign.pipelines import ImageGenerator, to_picture
from diffalign.rewards.scene import captions, check_scene, is_held_out, parse_caption
from makers.shapes_denoiser import load_shapes, plain_parser, start

log = logging.getLogger("makers.shapes_preferences")


def parser() -> argparse.ArgumentParser:
    parser = plain_parser(__doc__, seed=10_000)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=2256)
    parser.add_argument("--each", type=int, default=4, help="pictures drawn per caption")
    parser.add_argument(
        "--members", type=int, default=4, help="pictures kept per caption, half the best, half the worst"
    )
    parser.add_argument("--gap", type=float, default=0.1, help="least difference in reward between best and worst")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    return parser


def main() -> None:
    options = start(parser())
    if options.members % 2 or not 2 <= options.members <= options.each:
        raise SystemExit(f"--members {options.members}: must be even, from 2 to --each ({options.each})")
    backbone = load_shapes(options.model)
    generator = ImageGenerator.create(
        backbone, steps=options.steps, guidance_scale=options.guidance_scale, batch=16 * options.each
    )
    rng = np.random.default_rng(options.seed)
    pool = [text for kind in ("count", "both", "relation") for text in captions(kind) if not is_held_out(text)]
    texts = [str(text) for text in rng.permutation(pool)[: options.captions]]
    prompts = [text for text in texts for _ in range(options.each)]
    seeds = [options.seed + number for number in range(len(prompts))]
    latents, graded, strict, started = [], [], [], time.monotonic()
    for batch in generator.latents(prompts, seeds, view="reference"):
        for pixels in backbone.decode(batch):
            verdict = check_scene(np.asarray(to_picture(pixels)), parse_caption(prompts[len(graded)]))
            graded.append(verdict.graded + verdict.strict)  # a picture that passes beats every one that does not
            strict.append(verdict.strict)
        latents.append(batch)
        if len(latents) % 10 == 0:
            log.info("%d of %d drawn, %.0f s", len(graded), len(prompts), time.monotonic() - started)
    x0 = torch.cat(latents).unflatten(0, (-1, options.each))
    scores = torch.tensor(graded).unflatten(0, (-1, options.each))
    order = scores.argsort(dim=1, descending=True, stable=True)
    half = options.members // 2
    kept = torch.cat([order[:, :half], order[:, order.shape[1] - half :]], dim=1)  # (caption, member), best first
    x0, scores = x0[torch.arange(len(texts))[:, None], kept], scores.gather(1, kept)
    apart = (scores[:, 0] - scores[:, -1]) >= options.gap
    if not bool(apart.any()):
        raise SystemExit(f"no two pictures of a caption differ by {options.gap}: lower --gap or raise --each")
    named = [text for text, keep in zip(texts, apart.tolist(), strict=True) if keep]
    save_latents(
        options.out,
        x0[apart],
        scores[apart],
        named,
        list(range(len(named))),
        {
            "autoencoder": backbone.autoencoder_identity(),
            "model": Path(options.model).name,
            "reward": "scene graded + strict",
            "facts": json.dumps(_facts(options, generator, scores[apart], len(texts), float(np.mean(strict)))),
        },
    )
    log.info("%d groups of %d captions; strict %.3f of all pictures", len(named), len(texts), np.mean(strict))


def _facts(
    options: argparse.Namespace, generator: ImageGenerator, rewards: Tensor, texts: int, strict: float
) -> dict[str, object]:
    """How the set was drawn."""
    half = options.members // 2
    return {
        "groups": len(rewards),
        "members": options.members,
        "pairs": int((rewards[:, :half] > rewards.flip(1)[:, :half]).sum()),
        "captions": texts,
        "pictures_per_caption": options.each,
        "least_gap": options.gap,
        "sampler": type(generator.sampler).__name__,
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "seed": options.seed,
        "strict": round(strict, 4),
    }


def facts_of(path: Path) -> dict[str, Any]:
    """How the preference set in a file was drawn: pairs, captions, pictures per caption, sampling, seed."""
    if not path.is_file():
        raise SystemExit(f"{path}: no preference set; draw it with python -m makers.shapes_preferences")
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    if "facts" not in header:
        raise SystemExit(f"{path}: says nothing of how it was drawn; draw it with python -m makers.shapes_preferences")
    return json.loads(header["facts"])


if __name__ == "__main__":
    main()
