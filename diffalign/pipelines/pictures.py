"""Pictures to files: single PNGs and contact sheets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def to_picture(pixels: Float[Tensor, "3 height width"]) -> Image.Image:
    """An 8-bit RGB picture of pixels in [0, 1], rounded as diffusers does."""
    return Image.fromarray((pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        picture.save(draft, format="PNG")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def contact_sheet(pictures: Float[Tensor, "batch 3 height width"], columns: int = 8, side: int = 96) -> Image.Image:
    """All pictures in rows; small ones are enlarged to about `side` pixels without smoothing."""
    height, width = pictures.shape[-2:]
    scale = max(1, side // width)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    cell, gap = (width * scale, height * scale), 4
    sheet = Image.new("RGB", (columns * (cell[0] + gap) - gap, rows * (cell[1] + gap) - gap), (255, 255, 255))
    for number, pixels in enumerate(pictures):
        picture = to_picture(pixels).resize(cell, Image.Resampling.NEAREST)
        sheet.paste(picture, (number % columns * (cell[0] + gap), number // columns * (cell[1] + gap)))
    return sheet
