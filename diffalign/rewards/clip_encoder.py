"""CLIP as an encoder: pictures and texts in one space, so that a set of texts can judge a set of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.clip_towers import ClipTowers, load_clip
from diffalign.rewards.pictures import as_pixels, split_pictures


class ClipEncoder:
    """Vectors of length 1 of CLIP's two towers, one for pictures and one for texts.

    It sees what is in a picture, hardly where or how sharp. Pictures and texts of one thing lie apart by a constant offset
    (the modality gap): compare distances to one reference, and read none by itself.
    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".
    """

    name = "clip"
    media: Literal["image", "video", "audio", "features"] = "image"

    def __init__(
        self, model: str = "openai/clip-vit-large-patch14", *, device: str | None = None, batch: int = 16
    ) -> None:
        """Load a model.

        Args:
            model: a folder or hub id in transformers' format.
            device: cuda, mps or cpu; None: the best that there is.
            batch: pictures or texts at a time.

        Raises:
            ConfigError: it cannot be loaded, or the device is not there.
        """
        self.towers, self.batch = ClipTowers(*load_clip("encoder clip", model), device=device), batch

    @property
    def version(self) -> str:
        """Changes with the weights, the model's settings and the tokenizer."""
        return self.towers.version

    def split(self, media: Any) -> list[Any]:
        return split_pictures(media)

    def encode(self, media: Sequence[Any]) -> list[Tensor | str]:
        found: list[Tensor | str] = []
        good: list[tuple[int, Any]] = []
        for place, one in enumerate(media):
            try:
                good.append((place, as_pixels(one)))
                found.append("")
            except (DataError, ShapeError) as error:
                found.append(str(error))
        for first in range(0, len(good), self.batch):
            part = good[first : first + self.batch]
            for (place, _), row in zip(part, self.towers.pictures([pixels for _, pixels in part]), strict=True):
                found[place] = row.double()
        return found

    def encode_texts(self, texts: Sequence[str]) -> list[Tensor | str]:
        """float64 features of each text, or why it has none; what the model does not read of a long one is cut."""
        found: list[Tensor | str] = ["it is empty"] * len(texts)
        good = [place for place, text in enumerate(texts) if text.strip()]
        for first in range(0, len(good), self.batch):
            part = good[first : first + self.batch]
            for place, row in zip(part, self.towers.texts([texts[place] for place in part]), strict=True):
                found[place] = row.double()
        return found
