"""The one way in which every room turns a picture into RGB of 8 bits: what is transparent lies on white."""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffalign.exceptions import DataError

FORM = 2  # of how a picture becomes RGB: raise it with every change that can be seen, so that nothing kept is stale


def as_rgb(picture: Image.Image) -> Image.Image:
    """The picture as RGB of 8 bits, on white where it has an alpha channel or a transparent colour.

    Grey of 16 bits keeps its shades: Pillow would take all that is above 255 for white.

    Raises:
        DataError: 32 bits a pixel, of which nobody knows which number is white.
    """
    if picture.mode.startswith("I;16"):
        clear = picture.info.get("transparency")
        values = np.asarray(picture, dtype=np.float32)
        shades = np.where(values == clear, 65535, values) if isinstance(clear, int) else values
        return Image.fromarray((shades / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise DataError(f"mode {picture.mode}: 32 bits without a known white; save it with 8 or 16 bits")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    clear_too = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), clear_too).convert("RGB")
