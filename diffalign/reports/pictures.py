"""Pictures of a run as data: addresses, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_LOSSLESS = 256  # pixels; larger pictures become JPEGs, or the page would weigh tens of megabytes


@dataclass(frozen=True)
class Picture:
    """A picture in the page; `width` and `height` are its own, in pixels, `pixelated` shows each as a square."""

    address: str
    width: int
    height: int
    pixelated: bool


def inline_picture(run: Path, name: object, *, limit: int, shown: int) -> Picture | None:
    """Read a picture of the run folder; those wider or higher than `limit` pixels are scaled down.

    Args:
        run: the run folder.
        name: path below it, as the records have it.
        limit: greatest side of what is put into the page, in pixels.
        shown: about the width at which the page shows it; a picture much smaller than that keeps hard edges.

    Returns:
        None where the file is missing, damaged, or lies outside the run folder.
    """
    if not isinstance(name, str):
        return None
    try:
        file = (run / name).resolve()
        if not file.is_relative_to(run.resolve()):
            return None
        with Image.open(file) as image:
            image.load()
            width, height = image.size
            kind, content = _encode(image, limit)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow: SyntaxError for a broken PNG
        return None
    return Picture(
        f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}", width, height, 1.5 * width <= shown
    )


def _encode(image: Image.Image, limit: int) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    if max(image.size) <= min(limit, _LOSSLESS):
        image.convert("RGBA" if "A" in image.getbands() else "RGB").save(buffer, "PNG")
        return "png", buffer.getvalue()
    small = image.convert("RGB")
    small.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=85)
    return "jpeg", buffer.getvalue()
