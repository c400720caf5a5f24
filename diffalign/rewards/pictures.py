"""The forms in which pictures come, and the one in which they are judged: uint8 [height, width, 3], RGB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError
from diffalign.rgb import as_rgb

Pixels = NDArray[np.uint8]

_ROUNDING = 0.5 / 255  # a float may pass its limits by less than what rounding to uint8 removes


def as_pixels(media: Any) -> Pixels:
    """Turn one picture into uint8 [height, width, 3]: round(255 x), clamped.

    Args:
        media: PIL (any mode, read as RGB), float tensor [3, height, width] in [0, 1], or array [height, width, 3 or 4],
            uint8 or float in [0, 1]. What is transparent, by a fourth channel or as Pillow knows it, lies on white.

    Raises:
        ShapeError: wrong number of axes or channels.
        DataError: floats that are not finite or not in [0, 1], an unknown type.
    """
    picture = _channels_last(media)
    if not picture.size:
        raise ShapeError(f"a picture must have pixels, got {picture.shape[0]} x {picture.shape[1]}")
    if picture.dtype == np.uint8:
        return picture if picture.shape[2] == 3 else np.asarray(as_rgb(Image.fromarray(picture)))
    if not np.isfinite(picture).all():
        lost = np.count_nonzero(~np.isfinite(picture))
        raise DataError(f"{lost} of {picture.size} values of the picture are not finite")
    _check_range(float(picture.min()), float(picture.max()))
    if picture.shape[2] == 4:
        alpha = picture[..., 3:]
        picture = alpha * picture[..., :3] + (1 - alpha)
    pixels: Pixels = np.rint(picture * 255).clip(0, 255).astype(np.uint8)
    return pixels


def _channels_last(media: Any) -> np.ndarray:
    """uint8 or float32 [height, width, 3], with alpha 4."""
    if isinstance(media, Image.Image):
        return np.asarray(as_rgb(media))
    if isinstance(media, Tensor):
        if media.ndim != 3 or media.shape[0] != 3:
            raise ShapeError(f"a picture tensor must be [3, height, width], got {list(media.shape)}")
        if not media.is_floating_point():
            raise DataError(f"a picture tensor must be float in [0, 1], got {media.dtype}; use an array for uint8")
        return media.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy()
    if isinstance(media, np.ndarray):
        if media.ndim != 3 or media.shape[2] not in (3, 4):
            raise ShapeError(f"a picture array must be [height, width, 3], or 4 with alpha, got {list(media.shape)}")
        if media.dtype == np.uint8:
            return media
        if not np.issubdtype(media.dtype, np.floating):
            raise DataError(f"a picture array must be uint8, or float in [0, 1], got {media.dtype}")
        return media.astype(np.float32)
    raise DataError(f"a picture must be PIL, a float tensor or an array, got {type(media).__name__}")


def reference_pixels(metadata: Mapping[str, Any]) -> Pixels:
    """The picture that a sample is compared with: `metadata["reference"]`, a picture in any form, or a path to one.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    given = metadata.get("reference")
    if given is None:
        raise DataError(
            "no reference to compare with: metadata['reference'], of records the column reference, must be a picture or "
            "a path to one"
        )
    try:
        if isinstance(given, str | Path):
            with Image.open(given) as file:
                given = ImageOps.exif_transpose(file)  # cameras note how they were held
        return as_pixels(given)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's decoders raise these
        raise DataError(f"the reference {str(given)!r:.300} cannot be read: {error}") from None
    except (DataError, ShapeError) as error:
        raise DataError(f"the reference: {error}") from None


def split_pictures(media: Any) -> list[Any]:
    """Take a batch apart into single pictures.

    Args:
        media: float tensor [batch, 3, height, width], array [batch, height, width, 3 or 4] or [height, width, 3 or 4],
            one PIL picture, or a list of pictures of any form.

    Raises:
        ShapeError: a tensor or an array with another number of axes.
        DataError: floats outside of [0, 1]: a convention mixed up is wrong for the whole batch (a picture that is
            merely not finite is left to `as_pixels`).
    """
    if isinstance(media, Image.Image):
        return [media]
    if isinstance(media, Tensor):
        if media.ndim != 4 or media.shape[1] != 3:
            raise ShapeError(f"pictures must be a tensor [batch, 3, height, width], got {list(media.shape)}")
        finite = media.detach()[media.isfinite()] if media.is_floating_point() else media.new_empty(0)
        if finite.numel():
            _check_range(finite.min().item(), finite.max().item())
        return list(media)
    if isinstance(media, np.ndarray):
        if media.ndim not in (3, 4) or media.shape[-1] not in (3, 4):
            raise ShapeError(f"a picture array must be [(batch,) height, width, 3 or 4], got {list(media.shape)}")
        finite_values = media[np.isfinite(media)] if np.issubdtype(media.dtype, np.floating) else media[:0]
        if finite_values.size:
            _check_range(float(finite_values.min()), float(finite_values.max()))
        return [media] if media.ndim == 3 else list(media)
    if isinstance(media, list | tuple):
        return list(media)
    raise DataError(f"pictures must be a tensor, an array, a PIL picture or a list of them, got {type(media).__name__}")


def _check_range(least: float, greatest: float) -> None:
    if least < -_ROUNDING or greatest > 1 + _ROUNDING:
        hint = ""
        if greatest > 2:
            hint = "; divide by 255"
        elif least >= -1 - _ROUNDING and greatest <= 1 + _ROUNDING:
            hint = "; pictures in [-1, 1] need (x + 1) / 2"
        raise DataError(f"float pictures must lie in [0, 1], got values from {least:.4g} to {greatest:.4g}{hint}")
