"""Draw the preference set of a shapes model: several pictures a caption, scored by the scene checker, better against worse.

    python -m makers.shapes_preferences --model build/shapes-sd --out build/shapes-sd/preferences.safetensors

Every pair is two pictures of one training caption that this model drew; the chosen one shows more of the caption
(graded scene reward) by at least `--gap`. A caption's best picture meets its worst, its second best its second worst, and
so on up to `--pairs`; no picture is used twice. Held-out captions are never drawn. How the set was drawn stands in the
file's header (`facts_of` reads it), from where the model card takes it.
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
    parser.add_argument("--each", type=int, default=4, help="pictures per caption")
    parser.add_argument("--pairs", type=int, default=1, help="most pairs per caption")
    parser.add_argument("--gap", type=float, default=0.1, help="least difference in graded reward within a pair")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    return parser


def main() -> None:
    options = start(parser())
    if not 1 <= options.pairs <= options.each // 2:
        raise SystemExit(
            f"--pairs {options.pairs}: {options.each} pictures per caption make 1 to {options.each // 2} pairs"
        )
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
    better, worse = order[:, : options.pairs], order.flip(1)[:, : options.pairs]  # (caption, pair)
    rows = torch.arange(len(texts))[:, None]
    pairs = torch.stack([x0[rows, better], x0[rows, worse]], dim=2).flatten(0, 1)
    rewards = torch.stack([scores[rows, better], scores[rows, worse]], dim=2).flatten(0, 1)
    apart = (rewards[:, 0] - rewards[:, 1]) >= options.gap
    if not bool(apart.any()):
        raise SystemExit(f"no two pictures of a caption differ by {options.gap}: lower --gap or raise --each")
    of_pair = [text for text in texts for _ in range(options.pairs)]
    kept = [text for text, keep in zip(of_pair, apart.tolist(), strict=True) if keep]
    save_latents(
        options.out,
        pairs[apart],
        rewards[apart],
        kept,
        list(range(len(kept))),
        {
            "autoencoder": backbone.autoencoder_identity(),
            "model": Path(options.model).name,
            "reward": "scene graded + strict",
            "facts": json.dumps(_facts(options, generator, len(kept), len(texts), float(np.mean(strict)))),
        },
    )
    log.info("%d pairs of %d captions; strict %.3f of all pictures", len(kept), len(texts), np.mean(strict))


def _facts(
    options: argparse.Namespace, generator: ImageGenerator, pairs: int, texts: int, strict: float
) -> dict[str, object]:
    """How the set was drawn."""
    return {
        "pairs": pairs,
        "captions": texts,
        "pictures_per_caption": options.each,
        "most_pairs_per_caption": options.pairs,
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
