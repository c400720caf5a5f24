"""What a record is, before it becomes tensors.

A record of kind `pairs` has the columns prompt, chosen and rejected; of kind `groups` prompt, items and rewards; of kind
`labelled` prompt, item and label ("good" or "bad"). Every kind may also carry: id, source, condition,
votes ({"a": 7, "b": 3, "tie": 1}, a for the first column), preferences ({"VQ": "a", "MQ": "tie"}), and any other column,
which is kept as metadata.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from diffalign.exceptions import DataError

PictureSource = Path | bytes  # a file, or the bytes of one


@dataclass(frozen=True)
class Record:
    """One prompt and its competing pictures, the best one first.

    Attributes:
        id: names the record in messages and seeds its draws; unique in its data set.
        prompt: the caption; not empty.
        items: pictures that are not read yet, best first.
        preference: probability that items[0] is preferred, in (0.5, 1].
        rewards: of a record of kind `groups`, one per item, falling; NaN, last, where unscored.
        label: of a record of kind `labelled`, +1 good or -1 bad.
        votes, preferences, source, condition: the optional columns, as they came.
        metadata: every other column.
    """

    id: str
    prompt: str
    items: tuple[PictureSource, ...]
    preference: float = 1.0
    rewards: tuple[float, ...] | None = None
    label: int | None = None
    votes: Mapping[str, int] | None = None
    preferences: Mapping[str, str] | None = None
    source: str | None = None
    condition: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def picture_bytes(source: PictureSource, record: str) -> bytes:
    """The file's bytes.

    Raises:
        DataError: the file is missing or cannot be read; names the record.
    """
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise DataError(f"record {record!r}: cannot read {source!s:.300}: {error.strerror}") from None


@dataclass(frozen=True)
class OpenedPicture:
    """A square cut from the centre of a picture, and where it lay.

    Attributes:
        pixels: RGB in [0, 1].
        original: height and width of the picture as it came, upright.
        resized: height and width after its shorter side was brought to the square's.
        corner: top and left of the square in the resized picture.
    """

    pixels: Float[Tensor, "3 side side"]
    original: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]

    def mirrored(self) -> OpenedPicture:
        """The same square of the picture's mirror image: what was cut off at the right is at the left now."""
        top, left = self.corner
        corner = (top, self.resized[1] - self.pixels.shape[-1] - left)
        return OpenedPicture(self.pixels.flip(-1), self.original, self.resized, corner)

    @property
    def crop(self) -> Float[Tensor, "6"]:
        """Height and width as it came, top and left of the square, height and width of the square: SDXL's order."""
        return torch.tensor([*self.original, *self.corner, *self.pixels.shape[-2:]], dtype=torch.float32)


def open_picture(content: bytes, record: str, resolution: int) -> OpenedPicture:
    """Decode, turn upright, resize the shorter side to `resolution` (bilinear, antialiased), crop the centre.

    What a transparent picture hides is shown, as diffusers does; of an animation, the first picture counts.

    Raises:
        DataError: not a picture, or a damaged one; names the record.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(content))
        picture.load()
        picture = _rgb(ImageOps.exif_transpose(picture))  # cameras note how they were held
    except UnidentifiedImageError:
        raise DataError(
            f"record {record!r}: not a readable picture (of no known format); {len(content)} bytes"
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"record {record!r}: not a readable picture ({error}); {len(content)} bytes") from None
    original = (picture.height, picture.width)
    scale = resolution / min(picture.size)
    if scale != 1:
        width, height = (max(resolution, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    resized = (picture.height, picture.width)
    top, left = ((side - resolution) // 2 for side in resized)
    picture = picture.crop((left, top, left + resolution, top + resolution))
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
    return OpenedPicture(pixels, original, resized, (top, left))


def _rgb(picture: Image.Image) -> Image.Image:
    """As RGB of 8 bits: of grey pictures with more, Pillow would take all that is above 255 for white."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture, dtype=np.float32) / 257).round().astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode}: 32 bits without a known white; save it with 8 or 16 bits")
    return picture.convert("RGB")
