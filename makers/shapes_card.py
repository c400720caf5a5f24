"""Measure an unaligned shapes model and write its card, held-out captions and a picture of what it draws.

python -m makers.shapes_card --family sd --model build/shapes-sd --maker "python -m makers.shapes_sd ..." --minutes 40
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from diffalign.backbones import load_backbone
from diffalign.pipelines import ImageGenerator, contact_sheet, to_picture
from diffalign.rewards.functional import jpeg_kilobytes
from diffalign.rewards.scene import check_scene, held_out_captions, parse_caption

log = logging.getLogger("makers.shapes_card")
SUMMARIES = {
    "sd": "captioned scenes of coloured shapes, 32x32 pixels; StableDiffusionPipeline, noise prediction",
    "sd3": "captioned scenes of coloured shapes, 32x32 pixels; StableDiffusion3Pipeline, linear flow",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("sd", "sd3"), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--maker", required=True, help="the command that made the model")
    parser.add_argument("--minutes", type=int, required=True, help="what it took, on one CPU thread")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    extra = {"max_sequence_length": 1} if options.family == "sd3" else {}
    backbone = load_backbone(options.family, str(options.model), **extra)
    generator = ImageGenerator.create(backbone, steps=options.steps, guidance_scale=options.guidance_scale, batch=64)
    texts = held_out_captions()
    pictures = torch.cat(list(generator(texts, list(range(len(texts))), view="reference")))
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
        "family": options.family,
        "summary": SUMMARIES[options.family],
        "held_out_captions": len(texts),
        "strict": round(float(np.mean(strict)), 4),
        "strict_by_kind": {kind: round(float(np.mean(values)), 4) for kind, values in sorted(passed.items())},
        "graded": round(float(np.mean(graded)), 4),
        "jpeg_kilobytes": round(float(np.mean(kilobytes)), 4),
        "steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "seeds": f"0 to {len(texts) - 1}",
        "parameters": {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in sorted(backbone.pipeline.components.items())
            if isinstance(part, torch.nn.Module)
        },
        "maker": options.maker,
        "minutes_of_one_thread": options.minutes,
    }
    (options.model / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (options.model / "held_out.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    contact_sheet(pictures[:32]).save(options.model / "held_out.png")
    (options.model / "README.md").write_text(_card(options.model.name, card, texts), encoding="utf-8")
    for draft in ("sheet.png", "quality.json"):
        (options.model / draft).unlink(missing_ok=True)
    log.info("%s", card)


def _card(name: str, card: dict, texts: list[str]) -> str:
    kinds = ", ".join(f"{kind} {value:.1%}" for kind, value in card["strict_by_kind"].items())
    parameters = ", ".join(f"{part} {count:,}" for part, count in card["parameters"].items())
    prompts = "\n".join(f"{number + 1}. {text}" for number, text in enumerate(texts[:32]))
    return f"""# {name}

{card["summary"][:1].upper()}{card["summary"][1:]}. The real library format: what loads this loads the full-size model.

- **Parameters**: {parameters}; half precision on disk.
- **Quality, unaligned**: the scene checker passes on {card["strict"]:.1%} of {card["held_out_captions"]} held-out
  captions ({kinds}); graded score {card["graded"]:.3f}; JPEG {card["jpeg_kilobytes"]:.3f} kB.
  {card["steps"]} steps, guidance scale {card["guidance_scale"]:g}, seeds {card["seeds"]}, fp32 on the CPU.
- **Data**: rendered scenes (`diffalign.rewards.scene`) of all training captions: one or two objects, counts and
  positions. One in five of the two-object captions is held out (`held_out.txt`) and was never trained on.
- **Made by** `{card["maker"]}`, about {card["minutes_of_one_thread"]} minutes of one CPU thread, seed 0; then
  `python -m makers.shapes_preferences` and `python -m makers.shapes_card`.
- **Preferences**: `preferences.safetensors`, pairs of pictures that this model drew for training captions; the chosen
  one shows more of the caption by the scene checker.
- **Licence**: Apache-2.0, like diffalign; no foreign data or weights went in.
- **Limits**: it knows this grammar and nothing else.

`held_out.png` shows what it draws, unaligned, for the first 32 held-out captions, row by row:

{prompts}
"""


if __name__ == "__main__":
    main()
