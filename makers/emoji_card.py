"""Measure the unaligned emoji model and write its card, held-out names and pictures of what it draws.

    python -m makers.emoji_card --model build/emoji-sd3 --recognised 19

`--recognised` is what one says who looks at `common.png`: how many of the twenty common names are recognisable by eye.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch

from diffalign.pipelines import ImageGenerator, contact_sheet
from diffalign.rewards import Sample, load_reward
from makers.emoji_pictures import COMMON, emoji, held_out_names
from makers.emoji_recipes import RECIPES
from makers.shapes_card import paragraph
from makers.shapes_denoiser import load_shapes, plain_parser, start
from makers.shapes_preferences import facts_of

log = logging.getLogger("makers.emoji_card")
SCALES = (1.0, 2.0)  # of guidance


def parser() -> argparse.ArgumentParser:
    parser = plain_parser(__doc__, seed=0)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--recognised", type=int, required=True, help=f"of the {len(COMMON)} common names")
    parser.add_argument("--steps", type=int, default=20)
    return parser


def main() -> None:
    options = start(parser())
    preferences = facts_of(options.model / "preferences.safetensors")
    backbone = load_shapes(str(options.model))
    names, held_out, common = [one.name for one in emoji()], held_out_names(), list(COMMON)

    def draw(texts: list[str], scale: float) -> torch.Tensor:
        generator = ImageGenerator.create(backbone, steps=options.steps, guidance_scale=scale, batch=100)
        seeds = list(range(options.seed, options.seed + len(texts)))
        return torch.cat(list(generator(texts, seeds, view="reference")))

    recipe = RECIPES["emoji-sd3"]
    card = {
        "family": recipe.family,
        "summary": recipe.summary,
        "names": len(names),
        "held_out_names": len(held_out),
        "recognised": {"by_eye": options.recognised, "of": len(common), "guidance_scale": SCALES[-1]},
        "emoji_reward": {f"guidance {scale:g}": measure(draw(held_out, scale), held_out) for scale in SCALES},
        "steps": options.steps,
        "seeds": f"{options.seed} to {options.seed + len(held_out) - 1}",
        "parameters": {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in sorted(backbone.pipeline.components.items())
            if isinstance(part, torch.nn.Module)
        },
        "maker": "python -m makers.emoji_all emoji-sd3",
        "commands": [step.command() for step in recipe.steps],
        "minutes_of_one_thread": recipe.minutes,
        "preferences": preferences,
    }
    (options.model / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (options.model / "held_out.txt").write_text("\n".join(held_out) + "\n", encoding="utf-8")
    contact_sheet(draw(common, SCALES[-1]), columns=10).save(options.model / "common.png")
    (options.model / "README.md").write_text(write_readme(card), encoding="utf-8")
    log.info("%s", card)


def measure(pictures: torch.Tensor, names: list[str]) -> dict[str, float]:
    """Means of the emoji reward's components over pictures [names, 3, height, width]."""
    judged = load_reward("emoji").score([Sample(*pair) for pair in zip(pictures, names, strict=True)])
    return {name: round(values.mean().item(), 4) for name, values in judged.components.items()}


def write_readme(card: dict[str, Any]) -> str:
    """The card in words."""
    parameters = ", ".join(f"{part} {count:,}" for part, count in card["parameters"].items())
    commands = "\n".join(f"      {command}" for command in card["commands"])
    seen, drawn = card["recognised"], card["preferences"]
    measured = "; ".join(
        f"at {scale}, the emoji that is most like the drawing is the right one of {card['names']:,} for "
        f"{parts['strict']:.1%} (among the five most alike for {parts['top5']:.1%}), likeness {parts['likeness']:.3f}"
        for scale, parts in card["emoji_reward"].items()
    )
    entries = "\n".join(
        paragraph(text)
        for text in (
            f"**Parameters**: {parameters}; half precision on disk.",
            f"**Quality, unaligned**: by eye {seen['by_eye']} of {seen['of']} common names are recognisable in "
            f"`common.png` (guidance scale {seen['guidance_scale']:g}; one viewer, who knew the names). By "
            f"the emoji reward on the {card['held_out_names']} "
            f"held-out names: {measured}. {card['steps']} steps, seeds {card['seeds']}, fp32 on the CPU. The designers' "
            "pictures themselves, through the autoencoder, have 99.8% and likeness 0.936. Training was stopped early, "
            "where names are recognisable and drawing is rough: headroom for alignment.",
            f"**Data**: Noto Color Emoji (Debian's fonts-noto-color-emoji), {card['names']:,} emoji of one code point that "
            "are pictures rather than signs, drawn at 32x32 on white, each with its Unicode name in lower case (fourteen "
            "have an everyday name instead: red heart, sun, pizza). The model was trained on every one; `held_out.txt` "
            "lists names that no preference pair is of.",
            f"**Preferences**: `preferences.safetensors`, {drawn['pairs']} pairs. Chosen: the designers' emoji. Rejected: "
            f"what this model drew for its name ({drawn['sampler']}, {drawn['steps']} steps, guidance scale "
            f"{drawn['guidance_scale']:g}, seeds from {drawn['seed']:,}).",
            "**Licence**: code and weights Apache-2.0, like diffalign. Noto Color Emoji is copyright Google Inc., under "
            "the SIL Open Font License 1.1 (https://openfontlicense.org); weights and latents were made from its "
            "pictures, and no font file is in here. Names: the Unicode Character Database, Unicode License.",
            "**Limits**: it knows these names and little else; other words are spelled in letters that it never learned.",
        )
    )
    made = paragraph(
        f"**Made by** `{card['maker']}`; the denoiser takes about {card['minutes_of_one_thread']} minutes of one CPU "
        "thread. It runs:"
    )
    rows = "\n".join(f"{number}. {name}" for number, name in enumerate(COMMON, 1))
    return f"""# emoji-sd3

{card["summary"][:1].upper()}{card["summary"][1:]}. The real library format: what loads this loads the full-size model.

{entries}
{made}

{commands}

`common.png` shows what it draws, unaligned, row by row:

{rows}
"""


if __name__ == "__main__":
    main()
