"""A figure of what a reward likes: pictures side by side, enlarged, with their scores under them."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diffalign.rewards import Sample

Pixels = NDArray[np.uint8]  # [height, width, 3]

_SHOWN = 192  # pixels a side of a panel
_MARGIN, _LINE, _LETTERS = 12, 17, 31  # pixels; pixels; letters that fit under a panel


@dataclass(frozen=True)
class Panel:
    """One picture of a figure: what it is, and its scores; the figure is about the first of them."""

    title: str
    pixels: Pixels
    scores: dict[str, float]


@dataclass(frozen=True)
class Figure:
    """An honest picture and hacks of one reward, and what the reward was asked."""

    name: str
    asked: str
    honest: Panel
    hacks: tuple[Panel, ...]
    shown: Pixels | None = None  # a reference, which stands first

    def check(self) -> None:
        """Every hack has every score at least as high as the honest picture has it."""
        for hack in self.hacks:
            for reward, least in self.honest.scores.items():
                if not hack.scores[reward] >= least:
                    seen = f"{reward} {hack.scores[reward]:.4f}"
                    raise SystemExit(f"{self.name}: {hack.title!r} has {seen}, less than the honest {least:.4f}")


def judged(title: str, picture: Pixels, rewards: dict[str, Any], prompt: str = "", **metadata: Any) -> Panel:
    """A picture with what each reward says of it."""
    sample = Sample(picture, prompt, metadata, id="0")
    return Panel(title, picture, {name: reward.score([sample]).values.item() for name, reward in rewards.items()})


def resized(picture: Pixels, side: int, how: Image.Resampling = Image.Resampling.NEAREST) -> Pixels:
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


def draw(figure: Figure) -> Image.Image:
    """The panels side by side, enlarged without smoothing, what they are and their scores under them."""
    panels = [figure.honest, *figure.hacks]
    if figure.shown is not None:
        panels.insert(0, Panel("the reference", figure.shown, {}))
    lines = max(len(_below(panel)) for panel in panels)
    head = _LINE + _MARGIN // 2 if figure.asked else 0
    size = (_MARGIN + len(panels) * (_SHOWN + _MARGIN), head + 2 * _MARGIN + _SHOWN + lines * _LINE)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    pen.text((_MARGIN, _MARGIN // 2), figure.asked, fill="black", font=font)
    for place, panel in enumerate(panels):
        left, top = _MARGIN + place * (_SHOWN + _MARGIN), head + _MARGIN // 2
        page.paste(Image.fromarray(resized(panel.pixels, _SHOWN)), (left, top))
        pen.rectangle((left, top, left + _SHOWN - 1, top + _SHOWN - 1), outline="grey")
        for row, line in enumerate(_below(panel)):
            pen.text((left, top + _SHOWN + 4 + row * _LINE), line, fill="black", font=font)
    return page


def _below(panel: Panel) -> list[str]:
    return [*textwrap.wrap(panel.title, _LETTERS), *(f"{name} {score:.3f}" for name, score in panel.scores.items())]


def write(figure: Figure, folder: Path) -> Path:
    """Check a figure, print its scores and write FOLDER/NAME.png."""
    figure.check()
    for panel in (figure.honest, *figure.hacks):
        print(
            figure.name, f"[{figure.asked}]", panel.title, {name: round(each, 4) for name, each in panel.scores.items()}
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{figure.name}.png"
    draft = path.with_suffix(".partial")
    draw(figure).save(draft, format="PNG", optimize=True)
    return draft.replace(path)
