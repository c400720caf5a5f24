"""Rebuild a model of the zoo from nothing: autoencoder, denoiser in its phases, preference set, card.

    python -m makers.shapes_all shapes-sd         # into build/shapes-sd; the denoiser takes 76 minutes of one CPU thread
    python -m makers.shapes_all shapes-sd3        # 20 minutes
    python -m makers.shapes_all shapes-sd --dry   # only print the commands

What is there already is kept and its command passed over: delete a folder to make it anew. The card is always written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from makers.shapes_recipes import RECIPES, Recipe, Step


def parser(doc: str | None = __doc__, names: Iterable[str] = RECIPES) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(names))
    parser.add_argument("--build", type=Path, default=Path("build"), help="the folder that all is made in")
    parser.add_argument("--dry", action="store_true", help="print the commands that would run")
    return parser


def steps_left(name: str, build: Path, recipes: Mapping[str, Recipe] = RECIPES) -> Iterator[Step]:
    """The steps whose result is not there, and the card."""
    recipe = recipes[name]
    for step in recipe.steps:
        if not (build / step.makes).exists():
            yield step
    yield Step(recipe.card_maker, f"--model {{build}}/{name} {recipe.card}", f"{name}/card.json")


def main(doc: str | None = __doc__, recipes: Mapping[str, Recipe] = RECIPES) -> None:
    options = parser(doc, recipes).parse_args()
    for step in steps_left(options.model, options.build, recipes):
        print(step.command(str(options.build)), flush=True)
        if not options.dry:
            command = [sys.executable, "-m", step.module, *step.arguments(str(options.build))]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
