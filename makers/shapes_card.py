"""Measure an unaligned shapes model and write its card, held-out captions and a picture of what it draws.

    python -m makers.shapes_card --model build/shapes-sd --guidance-scale 1

The folder's name is that of a recipe (shapes_recipes.py), whose commands go on the card; how the preference set was
drawn is read from the set itself.
"""

from __future__ import annotations

import argparse
import json
import logging
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from diffalign.pipelines import ImageGenerator, contact_sheet, to_picture
from diffalign.rewards.functional import jpeg_kilobytes
from diffalign.rewards.scene import check_scene, held_out_captions, parse_caption
from makers.shapes_denoiser import load_shapes, plain_parser, start
from makers.shapes_preferences import facts_of
from makers.shapes_recipes import RECIPES

log = logging.getLogger("makers.shapes_card")


def parser() -> argparse.ArgumentParser:
    parser = plain_parser(__doc__, seed=0)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    return parser


def main() -> None:
    options = start(parser())
    name = options.model.resolve().name
    if name not in RECIPES:
        raise SystemExit(f"--model {options.model}: the folder's name must be one of {', '.join(RECIPES)}")
    recipe, preferences = RECIPES[name], facts_of(options.model / "preferences.safetensors")
    backbone = load_shapes(str(options.model))
    generator = ImageGenerator.create(backbone, steps=options.steps, guidance_scale=options.guidance_scale, batch=64)
    texts = held_out_captions()
    pictures = torch.cat(list(generator(texts, list(range(options.seed, options.seed + len(texts))), view="reference")))
    passed: dict[str, list[float]] = defaultdict(list)
    graded, kilobytes = [], []
    for text, pixels in zip(texts, pictures, strict=True):
        scene = parse_caption(text)
        picture = np.asarray(to_picture(pixels))
        verdict = check_scene(picture, scene)
        passed[scene.kind].append(float(verdict.strict))
        graded.append(verdict.graded)
        kilobytes.append(jpeg_kilobytes(picture))
    strict = [value for values in passed.values() for value in values]
    card = {
        "family": recipe.family,
        "summary": recipe.summary,
        "held_out_captions": len(texts),
        "strict": round(float(np.mean(strict)), 4),
        "strict_by_kind": {kind: round(float(np.mean(values)), 4) for kind, values in sorted(passed.items())},
        "graded": round(float(np.mean(graded)), 4),
        "jpeg_kilobytes": round(float(np.mean(kilobytes)), 4),
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "seeds": f"{options.seed} to {options.seed + len(texts) - 1}",
        "parameters": {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in sorted(backbone.pipeline.components.items())
            if isinstance(part, torch.nn.Module)
        },
        "maker": f"python -m makers.shapes_all {name}",
        "commands": [step.command() for step in recipe.steps],
        "minutes_of_one_thread": recipe.minutes,
        "preferences": preferences,
    }
    (options.model / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (options.model / "held_out.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    contact_sheet(pictures[:32]).save(options.model / "held_out.png")
    (options.model / "README.md").write_text(write_readme(name, card, texts), encoding="utf-8")
    for draft in ("sheet.png", "quality.json"):
        (options.model / draft).unlink(missing_ok=True)
    log.info("%s", card)


def write_readme(name: str, card: dict, texts: list[str]) -> str:
    """The card in words."""
    kinds = ", ".join(f"{kind} {value:.1%}" for kind, value in card["strict_by_kind"].items())
    parameters = ", ".join(f"{part} {count:,}" for part, count in card["parameters"].items())
    commands = "\n".join(f"      {command}" for command in card["commands"])
    made = paragraph(
        f"**Made by** `{card['maker']}`; the denoiser takes about {card['minutes_of_one_thread']} minutes of one CPU "
        "thread. It runs:"
    )
    preferences = paragraph(_preferences(card["preferences"]))
    prompts = "\n".join(f"{number + 1}. {text}" for number, text in enumerate(texts[:32]))
    return f"""# {name}

{card["summary"][:1].upper()}{card["summary"][1:]}. The real library format: what loads this loads the full-size model.

- **Parameters**: {parameters}; half precision on disk.
- **Quality, unaligned**: the scene checker passes on {card["strict"]:.1%} of {card["held_out_captions"]} held-out
  captions ({kinds}); graded score {card["graded"]:.3f}; JPEG {card["jpeg_kilobytes"]:.3f} kB.
  {card["steps"]} steps, guidance scale {card["guidance_scale"]:g}, seeds {card["seeds"]}, fp32 on the CPU.
- **Data**: rendered scenes (`diffalign.rewards.scene`) of all training captions: one or two objects, counts and
  positions. One in five of the two-object captions is held out (`held_out.txt`) and was never trained on.
{made}

{commands}

{preferences}
- **Licence**: Apache-2.0, like diffalign; no foreign data or weights went in.
- **Limits**: it knows this grammar and nothing else.

`held_out.png` shows what it draws, unaligned, for the first 32 held-out captions, row by row:

{prompts}
"""


def _preferences(drawn: dict) -> str:
    return (
        f"**Preferences**: `preferences.safetensors`, {drawn['groups']:,} groups of {drawn['members']} pictures that "
        "this model drew for one training caption, ranked by how much of it they show by the scene checker (graded score, "
        f"and 1 for passing); best and worst differ by at least {drawn['least_gap']:g}. As pairs (best with worst, second "
        f"with second worst) they are {drawn['pairs']:,}. Of {drawn['captions']:,} captions "
        f"{drawn['pictures_per_caption']} pictures each were drawn with {drawn['sampler']}, {drawn['steps']} steps, "
        f"guidance scale {drawn['guidance_scale']:g}, seeds from {drawn['seed']:,}, and the best and the "
        f"worst were kept; the checker passes {drawn['strict']:.1%} of these pictures."
    )


def paragraph(text: str) -> str:
    """An entry of a list, folded."""
    return textwrap.fill(
        text, 118, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    main()
