"""Fréchet audio distance, negated: of a set of sounds to a reference set, and of each sound by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffalign.exceptions import DataError
from diffalign.rewards.encoders import Encoder, frames_of
from diffalign.rewards.frechet import FrechetReward, FrechetState
from diffalign.rewards.protocol import BatchReward, Judged, RewardSpec, Sample
from diffalign.rewards.set_functional import Gaussian, extrapolate
from diffalign.rewards.set_protocol import EncodedSetReward

_SOURCE = 'Kilgour et al. 2019, "Fréchet Audio Distance"; Gui et al. 2024, "Adapting Frechet Audio Distance [...]"'


@dataclass(frozen=True)
class FADState:
    """A set of sounds, as `FADReward` sees it.

    Attributes:
        counts: how many frames each sample has.
        frames: what `FrechetReward` knows of all frames, one sample's behind the other's.
    """

    counts: tuple[int, ...]
    frames: FrechetState


class FADReward(EncodedSetReward[FADState]):
    """Minus the Fréchet audio distance of a set of sounds to a reference: of all frames' features, by the encoder.

    Range: (-inf, 0], in squared units of the features; 0 is the reference's own mean and covariance. One value for a set.
    The scale is the encoder's; a set of few frames is far from any reference by its size alone. `infinity` extrapolates
    that away, from more than `smallest` frames: distances of `sizes` sets of `smallest` to all frames, drawn with
    replacement, as a line over 1 / frames; where the line meets 0 the value is that, but at most 0. Needs 2 frames.
    A row of `features` holds a sample's frames one behind the other, and NaN behind the last where others have more.
    Differentiable: no (`functional.frechet_distance` of an encoder's `encode_tensor` is).
    Source: Kilgour et al. 2019, "Fréchet Audio Distance: A Reference-Free Metric for Evaluating Music Enhancement
    Algorithms"; microsoft/fadtk, score and score_inf (Gui et al. 2024, "Adapting Frechet Audio Distance for Generative
    Music Evaluation").
    """

    def __init__(
        self,
        reference: Gaussian,
        *,
        encoder: Encoder,
        infinity: bool = False,
        smallest: int = 500,
        sizes: int = 25,
        seed: int = 0,
    ) -> None:
        """Take the statistics of a reference set's frames, as `fit_reference` makes them.

        Args:
            encoder: that they were made with.
            infinity, smallest, sizes, seed: see above; the seed is of the draws, which do not depend on the samples' order.
        """
        self.encoder, self.infinity = encoder, infinity
        self.smallest, self.sizes, self.seed = smallest, sizes, seed
        self._distance = FrechetReward(reference, encoder=encoder)
        version = self._distance.spec.version
        more = f"-infinity-{smallest}-{sizes}-{seed}" if infinity else ""
        self.spec = fad_spec(replace(self._distance.spec, version=f"{version}{more}"))

    def features(self, batch: Sequence[Sample]) -> tuple[Float[Tensor, "samples features"], tuple[str | None, ...]]:
        found = frames_of(self.encoder, [sample.media for sample in batch])
        reasons = tuple(each if isinstance(each, str) else self._distance.refuse(each[0]) for each in found)
        rows = [
            torch.full((1,), math.nan, dtype=torch.float64) if isinstance(each, str) or reason else each.flatten()
            for each, reason in zip(found, reasons, strict=True)
        ]
        return pad_sequence(rows, batch_first=True, padding_value=math.nan) if rows else torch.zeros(0, 0), reasons

    def lacking(self, features: Float[Tensor, "samples features"]) -> str | None:
        least = self.smallest + 1 if self.infinity else 2
        frames = int(features.isfinite().sum()) // len(self._distance.reference.mean)
        return f"needs {least} frames or more, got {frames}" if frames < least else None

    def start(self, features: Float[Tensor, "samples features"]) -> FADState:
        if (lacking := self.lacking(features)) is not None:
            raise DataError(f"fad: {lacking}")
        frames = [self._frames(row) for row in features]
        return FADState(tuple(len(each) for each in frames), self._distance.start(torch.cat(frames)))

    def value(self, state: FADState) -> float:
        if not self.infinity:
            return self._distance.value(state.frames)
        rows = state.frames.rows
        rows = rows[torch.from_numpy(np.lexsort(rows.T.numpy()[::-1].copy()))] + self._distance.reference.mean
        line = extrapolate(
            rows,
            lambda drawn: -self._distance.value(self._distance.start(drawn)),
            generator=torch.Generator().manual_seed(self.seed),
            smallest=self.smallest,
            sizes=self.sizes,
        )
        return -max(line.value, 0.0)

    def swap(self, state: FADState, place: int, row: Float[Tensor, " features"]) -> FADState:
        new, first = self._frames(row), sum(state.counts[:place])
        counts = (*state.counts[:place], len(new), *state.counts[place + 1 :])
        if len(new) == state.counts[place]:
            frames = state.frames
            for turn, frame in enumerate(new):
                frames = self._distance.swap(frames, first + turn, frame)
            return FADState(counts, frames)
        rows = state.frames.rows + self._distance.reference.mean
        rows = torch.cat([rows[:first], new, rows[first + state.counts[place] :]])
        return FADState(counts, self._distance.start(rows))

    def _frames(self, row: Float[Tensor, " features"]) -> Float[Tensor, "frames width"]:
        """The frames of a sample; what is not finite stays so, and is refused by `FrechetReward`."""
        frames = row.unflatten(0, (-1, len(self._distance.reference.mean)))
        return frames[~frames.isnan().all(1)]


class FADSongReward(BatchReward):
    """Minus the Fréchet audio distance of each sound by itself: its own frames' mean and covariance to a reference's.

    Range: (-inf, 0], in squared units of the features; one value for each sound. Few frames have a covariance of low rank
    and stand far from any reference: compare sounds of one length. Needs 2 frames.
    Component: frames. Differentiable: no (`functional.frechet_distance` of an encoder's `encode_tensor` is).
    Source: microsoft/fadtk, score_individual (Gui et al. 2024, "Adapting Frechet Audio Distance for Generative Music
    Evaluation"); Bai et al. 2025, "DRAGON", whose instance-to-distribution reward it is.
    """

    components = ("frames",)

    def __init__(self, reference: Gaussian, *, encoder: Encoder) -> None:
        """Take the statistics of a reference set's frames, as `fit_reference` makes them with this encoder."""
        self.encoder = encoder
        self._distance = FrechetReward(reference, encoder=encoder)
        self.spec = fad_song_spec(self._distance.spec.version)

    def judge_batch(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged]:
        return [self._of_frames(each) for each in frames_of(self.encoder, media)]

    def _of_frames(self, frames: Float[Tensor, "frames features"] | str) -> Judged:
        if isinstance(frames, str):
            return frames
        if (refused := self._distance.refuse(frames[0])) is not None:
            return refused
        if len(frames) < 2:
            return "it has 1 frame of features, and a covariance needs 2: it is too short"
        return self._distance.value(self._distance.start(frames)), {"frames": float(len(frames))}


def fad_spec(distance: RewardSpec) -> RewardSpec:
    """What the number means, of the distance that it is."""
    return replace(distance, name="fad", source=_SOURCE)


def fad_song_spec(version: str = "1") -> RewardSpec:
    """What the number means; `version` names the encoder and the reference that it was made with."""
    return RewardSpec(
        name="fad_song",
        version=version,
        media="audio",
        level="instance_to_set",
        unit="squared features",
        range=(-math.inf, 0.0),
        differentiable=False,
        licence="Apache-2.0; that of the encoder's weights and of the reference set are their owners'",
        needs=(),
        source=_SOURCE,
    )
