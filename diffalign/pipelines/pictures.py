"""Pictures to files: single PNGs and contact sheets."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffalign.pipelines.shapes import as_pictures, is_grid, settled_picture

_SHAPE_SIDE = 128  # pixels, of one view of a shape


def to_picture(pixels: Float[Tensor, "*sample"]) -> Image.Image:
    """An 8-bit RGB picture of pixels [3, height, width] in [0, 1], rounded as diffusers does.

    Of an occupancy grid [1, x, y, z] it shows the shape as it was put down, and beside it where it came to rest.
    """
    if is_grid(pixels):
        return Image.fromarray(settled_picture(pixels, _SHAPE_SIDE))
    return Image.fromarray((pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    save_bytes(buffer.getvalue(), path)


def save_bytes(content: bytes, path: Path) -> None:
    """Write a file, whole or not at all."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def contact_sheet(pictures: Float[Tensor, "batch *sample"], columns: int = 8, side: int = 96) -> Image.Image:
    """All pictures, or occupancy grids, in rows; small ones are enlarged to about `side` pixels without smoothing."""
    pictures = as_pictures(pictures, side)
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
