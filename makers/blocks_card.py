"""Measure the unaligned volume model and write its card, held-out captions and a picture of what it draws.

python -m makers.blocks_card --model build/blocks-volume --guidance-scale 2
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffalign.backbones import load_backbone
from diffalign.pipelines import ImageGenerator
from makers.blocks_measure import Examples, both_ways, measure, standing_by_kind
from makers.blocks_objects import HELD_OUT_SHARE, captions, draw_object, held_out_captions
from makers.blocks_pictures import sheet
from makers.blocks_recipes import RECIPES
from makers.blocks_static import Grid
from makers.shapes_card import paragraph
from makers.shapes_denoiser import plain_parser, start

log = logging.getLogger("makers.blocks_card")
SHOWN = 32  # captions in the picture


def parser() -> argparse.ArgumentParser:
    parser = plain_parser(__doc__, seed=0)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--each", type=int, default=4, help="objects of every held-out caption")
    parser.add_argument("--examples", type=int, default=16, help="procedural objects of every caption to compare with")
    parser.add_argument("--captions", type=int, help="of the held-out ones; all unless told")
    return parser


def main() -> None:
    options = start(parser())
    recipe, name = RECIPES["blocks-volume"], "blocks-volume"
    backbone = load_backbone(recipe.family, str(options.model))
    generator = ImageGenerator.create(backbone, steps=options.steps, guidance_scale=options.guidance_scale, batch=64)
    held_out, shapes = held_out_captions(), captions()
    asked = held_out[: options.captions]
    texts = asked * options.each
    seeds = list(range(options.seed, options.seed + len(texts)))
    drawn = torch.cat(list(generator(texts, seeds, view="reference")))
    grids: list[Grid] = list(drawn[:, 0].numpy() > 0.5)
    rng = np.random.default_rng(options.seed + 1)
    examples = Examples.draw(options.examples, options.seed + 2)
    wanted = [shapes[text] for text in texts]
    known = [draw_object(shape, rng, standing=number % 2 == 0) for number, shape in enumerate(wanted)]
    card: dict[str, Any] = {
        "family": recipe.family,
        "summary": recipe.summary,
        "captions": len(shapes),
        "held_out_captions": len(held_out),
        "objects": len(grids),
        **measure(grids, wanted, examples),
        "standing_by_kind": standing_by_kind(grids, wanted),
        "both_ways": both_ways(grids, texts),
        "each": options.each,
        "procedural": measure(known, wanted, examples),
        "examples_of_each_caption": options.examples,
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "seeds": f"{seeds[0]} to {seeds[-1]}",
        "parameters": {
            part: sum(parameter.numel() for parameter in module.parameters())
            for part, module in sorted(backbone.pipeline.components.items())
            if isinstance(module, torch.nn.Module)
        },
        "maker": f"python -m makers.blocks_all {name}",
        "commands": [step.command() for step in recipe.steps],
        "minutes_of_one_thread": recipe.minutes,
    }
    (options.model / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (options.model / "held_out.txt").write_text("\n".join(held_out) + "\n", encoding="utf-8")
    others = [text for text in shapes if text not in set(held_out)]
    (options.model / "prompts.txt").write_text("\n".join(others) + "\n", encoding="utf-8")
    sheet(grids[: min(SHOWN, len(asked))], cell=5).save(options.model / "held_out.png")
    (options.model / "README.md").write_text(write_readme(card, asked[:SHOWN]), encoding="utf-8")
    log.info("%s", card)


def write_readme(card: dict[str, Any], shown: list[str]) -> str:
    """The card in words."""
    parameters = ", ".join(f"{part} {count:,}" for part, count in card["parameters"].items())
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in card["standing_by_kind"].items())
    commands = "\n".join(f"      {command}" for command in card["commands"])
    known = card["procedural"]
    stated = (
        f"**Parameters**: {parameters}; half precision on disk. No autoencoder: the latent is occupancy, -1 for empty and "
        "+1 for filled; axes x (left to right), y (front to back), z (up).",
        f"**Stability, unaligned**: {card['standing']:.1%} of {card['objects']:,} objects stand ({kinds}), {card['each']} "
        f"of each of the held-out captions; of {card['both_ways']:.0%} of the captions some stand and some topple. That "
        "is the static test of makers/blocks_static.py: the centre of mass above the hull of the lowest layer. Standing "
        f"objects are {card['height_standing']:.1f} voxels high on average, toppling ones {card['height_toppling']:.1f}. "
        f"{card['steps']} steps, guidance scale {card['guidance_scale']:g}, seeds {card['seeds']}, fp32 on the CPU.",
        f"**Quality, unaligned**: {card['one_piece']:.1%} are one piece. {alike('The most similar', card)}. Of fresh "
        f"procedural objects of these captions the same figures are {known['kind']:.1%}, {known['direction']:.1%}, "
        f"{known['words']:.1%}, {known['caption']:.1%} and {known['overlap']:.3f}.",
        f"**Data**: procedural objects (makers/blocks_objects.py) of {card['captions']} captions: tables, chairs, lamps, L "
        "and T shapes, stacked blocks and towers. Of every caption half of the training objects stand, later a third. One "
        f"in {HELD_OUT_SHARE} captions is held out (`held_out.txt`, {card['held_out_captions']}) and was never trained on. "
        "There is no preference set: the model's own objects, judged by a simulator, are one.",
    )
    entries = "\n".join(paragraph(text) for text in stated)
    made = paragraph(
        f"**Made by** `{card['maker']}`; about {card['minutes_of_one_thread']} minutes of one CPU thread. It runs:"
    )
    rows = "\n".join(f"{number}. {text}" for number, text in enumerate(shown, 1))
    return f"""# blocks-volume

{card["summary"][:1].upper()}{card["summary"][1:]}. What loads this loads the full-size model.

{entries}
{made}

{commands}

- **Licence**: Apache-2.0, like diffalign; no foreign data or weights went in.
- **Limits**: it knows this grammar and nothing else.

`held_out.png` shows what it draws, unaligned, for the first held-out captions, row by row; red ones topple:

{rows}
"""


def alike(subject: str, card: dict[str, Any]) -> str:
    """What the comparison with procedural objects says."""
    each = card["examples_of_each_caption"]
    return (
        f"{subject} of {card['captions'] * each:,} procedural objects ({each} of each caption) is of the asked kind for "
        f"{card['kind']:.1%}, of the asked direction for {card['direction']:.1%}, has {card['words']:.1%} of the asked "
        f"attributes, and is of the very caption for {card['caption']:.1%}; overlap {card['overlap']:.3f}"
    )


if __name__ == "__main__":
    main()
