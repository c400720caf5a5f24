"""What encoders of sound share: a waveform becomes one row of features for each of its frames (windows of time)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import DataError
from diffalign.rewards.media import MEDIA, as_audio
from diffalign.rewards.resampling import resampled


class SoundEncoder(ABC):
    """An encoder of sound: `encode_waveforms` at its own `rate` is all that such an encoder has to write.

    The gradient flows to the waveform through `encode_tensor`.
    """

    name: str
    version: str
    rate: int  # samples a second that the model takes
    media: Literal["image", "video", "audio", "features"] = "audio"

    @abstractmethod
    def encode_waveforms(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames features"]:
        """The features of every frame of mono waveforms at `rate`."""

    def split(self, media: Any) -> list[Any]:
        return MEDIA["audio"].split(media)

    def encode(self, media: Sequence[Any]) -> list[Tensor | str]:
        """float64 features of each sample, the mean over its frames, or why it has none."""
        return [each if isinstance(each, str) else self.joined(each) for each in self.encode_frames(media)]

    def encode_frames(self, media: Sequence[Any]) -> list[Tensor | str]:
        """float64 features [frames, features] of each sample, or why it has none."""
        return [self._frames_or_why(one) for one in media]

    def encode_tensor(
        self, waveforms: Float[Tensor, "batch samples"], rate: int
    ) -> Float[Tensor, "batch frames features"]:
        """The features of mono waveforms in [-1, 1] at `rate` samples a second, with the gradient to them."""
        return self.encode_waveforms(resampled(waveforms, rate, self.rate))

    def joined(self, frames: Float[Tensor, "frames features"]) -> Float[Tensor, " features"]:
        """One row for all frames of a sample."""
        return frames.mean(0)

    def _frames_or_why(self, one: Any) -> Tensor | str:
        try:
            audio = as_audio(one)
            with torch.no_grad():
                found = self.encode_tensor(torch.from_numpy(audio.mono())[None], audio.rate)[0].double().cpu()
        except DataError as error:
            return str(error)
        lost = int((~found.isfinite()).any(1).sum())
        return f"the features of {lost} of {len(found)} frames are not finite" if lost else found
