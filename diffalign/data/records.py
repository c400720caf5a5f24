"""What a record is, before it becomes tensors.

A record of kind `pairs` has the columns prompt, chosen and rejected, and may have preference, the probability that chosen
is the better one; of kind `groups` prompt, items and rewards; of kind `labelled` prompt, item and label ("good" or
"bad"). Every kind may also carry: id, source, condition, votes ({"a": 7, "b": 3, "tie": 1}, a for the first column),
preferences ({"VQ": "a", "MQ": "tie"}), and any other column, which is kept as metadata.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from diffalign.data.hub import Remote
from diffalign.exceptions import DataError
from diffalign.rgb import as_rgb

PictureSource = Path | Remote | bytes  # a file, or the bytes of one
Fit = Literal["crop", "pad"]
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # Exif's tag, and its values that swap height and width


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
    preferences: Mapping[str, Any] | None = None
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
    """A picture brought to one size, and how.

    Attributes:
        pixels: RGB in [0, 1].
        original: height and width of the picture as it came, upright.
        resized: height and width after it was resized.
        corner: top and left, in the resized picture, of what was cut out; (0, 0) where it was padded instead.
        box: where the picture lies in `pixels`: top, left, height, width. All of it, unless it was padded.
    """

    pixels: Float[Tensor, "3 height width"]
    original: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    box: tuple[int, int, int, int]

    def mirrored(self) -> OpenedPicture:
        """The same part of the picture's mirror image: what was cut off at the right is at the left now."""
        top, left = self.corner
        width = self.pixels.shape[-1]
        if self.resized[1] > width:
            left = self.resized[1] - width - left
        over, before, tall, wide = self.box
        box = (over, width - wide - before, tall, wide)
        return OpenedPicture(self.pixels.flip(-1), self.original, self.resized, (top, left), box)

    @property
    def crop(self) -> Float[Tensor, "6"]:
        """Height and width as it came, top and left of the cut, height and width of the whole: SDXL's order."""
        return torch.tensor([*self.original, *self.corner, *self.pixels.shape[-2:]], dtype=torch.float32)


def picture_size(content: bytes, record: str) -> tuple[int, int]:
    """Height and width of an upright picture, from its head alone.

    Raises:
        DataError: not a picture; names the record.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
            width, height = picture.size
    except Exception as error:
        raise _unreadable(error, content, record) from None
    return (width, height) if turned else (height, width)


def open_picture(
    content: bytes, record: str, size: int | tuple[int, int], *, fit: Fit = "crop", cell: int = 1
) -> OpenedPicture:
    """Decode, turn upright, resize (bilinear, antialiased) and bring to one size.

    A transparent picture lies on white; of an animation, the first picture counts.

    Args:
        content: the file's bytes.
        record: names it in messages.
        size: height and width, or the side of a square.
        fit: `crop` resizes to cover the size and cuts out the centre; `pad` resizes to fit inside and puts the picture in
            the middle of grey.
        cell: with `pad`, the picture's sides and place are multiples of this many pixels (a side changes by half of it at
            most), so that no latent holds both picture and padding.

    Raises:
        DataError: not a picture, or a damaged one; names the record.
    """
    picture = decoded(content, record)
    height, width = (size, size) if isinstance(size, int) else size
    original = (picture.height, picture.width)
    scales = height / picture.height, width / picture.width
    if fit == "pad":
        scale = min(scales)
        tall, wide = (
            min(most, max(cell, round(side * scale / cell) * cell))
            for side, most in zip(original, (height, width), strict=True)
        )
    else:
        scale = max(scales)
        tall, wide = max(height, round(original[0] * scale)), max(width, round(original[1] * scale))
    if (tall, wide) != original:
        picture = picture.resize((wide, tall), Image.Resampling.BILINEAR)
    if fit == "pad":
        over, before = ((rest // cell // 2) * cell for rest in (height - tall, width - wide))
        whole = Image.new("RGB", (width, height), (128, 128, 128))
        whole.paste(picture, (before, over))
        corner, box, picture = (0, 0), (over, before, tall, wide), whole
    else:
        top, left = (tall - height) // 2, (wide - width) // 2
        picture = picture.crop((left, top, left + width, top + height))
        corner, box = (top, left), (0, 0, height, width)
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
    return OpenedPicture(pixels, original, (tall, wide), corner, box)


def decoded(content: bytes, record: str) -> Image.Image:
    """The picture, upright, as RGB of 8 bits, on white where it is transparent.

    Raises:
        DataError: not a picture, or a damaged one; names the record.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(content))
        picture.load()
        return as_rgb(ImageOps.exif_transpose(picture))  # cameras note how they were held
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise _unreadable(error, content, record) from None


def _unreadable(error: Exception, content: bytes, record: str) -> DataError:
    why = "of no known format" if isinstance(error, UnidentifiedImageError) else error
    return DataError(f"record {record!r}: not a readable picture ({why}); {len(content)} bytes")
