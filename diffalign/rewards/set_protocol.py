"""Rewards of whole sets: one number for all samples together, and what it becomes when one of them is exchanged.

A distribution is what such a reward is of: r(D), as diversity, or r(D, reference), as a distance. Higher is better.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.encoders import Encoder
from diffalign.rewards.precision import full_precision
from diffalign.rewards.protocol import RewardSpec, Sample
from diffalign.rewards.spec import check_samples

_log = logging.getLogger(__name__)
State = TypeVar("State")


@dataclass(frozen=True)
class SetOutput:
    """The score of a set.

    Attributes:
        value: the reward; NaN where too few samples could be encoded.
        counted: samples that it is of.
        reasons: why a sample is not among them, or None; one per sample.
    """

    value: float
    counted: int
    reasons: tuple[str | None, ...]


@runtime_checkable
class SetReward(Protocol):
    """A reward of a whole set. `EncodedSetReward` shares everything but the formula.

    `start`, `value` and `swap` are for those who look for a set by exchanging samples (`diffalign.data.greedy_swap`):
    an exchange costs an update of what is known, not a look at all samples.
    """

    @property
    def spec(self) -> RewardSpec: ...

    def score_set(self, batch: Sequence[Sample]) -> SetOutput:
        """Score all samples together; a bad one is left out, with a reason."""
        ...

    def features(self, batch: Sequence[Sample]) -> tuple[Float[Tensor, "samples features"], tuple[str | None, ...]]:
        """What the reward sees of each sample, float64 on the CPU; NaN where it sees nothing, with the reason."""
        ...

    def start(self, features: Float[Tensor, "samples features"]) -> Any:
        """All that the value of this set depends on."""
        ...

    def value(self, state: Any) -> float:
        """The reward of the set."""
        ...

    def swap(self, state: Any, place: int, row: Float[Tensor, " features"]) -> Any:
        """The set with another sample at `place`; `state` itself stays as it was."""
        ...

    def __call__(
        self,
        media: Any,
        prompts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> Float[Tensor, ""]: ...


class EncodedSetReward(ABC, Generic[State]):
    """A reward of a set of features: `start`, `value` and `swap` are all that such a reward has to write."""

    spec: RewardSpec
    encoder: Encoder
    least = 1  # samples that a set must have

    @abstractmethod
    def start(self, features: Float[Tensor, "samples features"]) -> State:
        """All that the value of this set depends on.

        Raises:
            ShapeError: features of another width.
            DataError: too few samples, a value that is not finite, or a row that the reward cannot take.
        """

    @abstractmethod
    def value(self, state: State) -> float:
        """The reward of the set, higher is better."""

    @abstractmethod
    def swap(self, state: State, place: int, row: Float[Tensor, " features"]) -> State:
        """The set with another sample at `place`; `state` itself stays as it was."""

    def refuse(self, row: Float[Tensor, " features"]) -> str | None:
        """Why the reward cannot take these features of a sample; None: it can."""
        return None

    def lacking(self, features: Float[Tensor, "samples features"]) -> str | None:
        """What a set of these samples is too small for; None: it is large enough."""
        return f"needs {self.least} samples or more, got {len(features)}" if len(features) < self.least else None

    def features(self, batch: Sequence[Sample]) -> tuple[Float[Tensor, "samples features"], tuple[str | None, ...]]:
        """What the reward sees of each sample, float64 on the CPU; NaN where it sees nothing, with the reason.

        Raises:
            ShapeError: samples with different numbers of features.
        """
        with full_precision():
            found = self.encoder.encode([sample.media for sample in batch])
        reasons = tuple(one if isinstance(one, str) else self.refuse(one) for one in found)
        widths = sorted({len(one) for one in found if not isinstance(one, str)})
        if len(widths) > 1:
            raise ShapeError(f"all samples of a set must have equally many features, got {', '.join(map(str, widths))}")
        rows = torch.full((len(found), widths[0] if widths else 0), math.nan, dtype=torch.float64)
        for row, one, reason in zip(rows, found, reasons, strict=True):
            if reason is None:
                assert isinstance(one, Tensor)
                row.copy_(one)
        return rows, reasons

    def score_set(self, batch: Sequence[Sample]) -> SetOutput:
        """Score all samples together; a bad one is left out, with a reason. NaN where too few are left.

        Raises:
            DataError: something is no `Sample`.
        """
        check_samples(batch)
        rows, reasons = self.features(batch)
        unscored = [(sample.id, reason) for sample, reason in zip(batch, reasons, strict=True) if reason is not None]
        if unscored:
            _log.warning(
                "%s: %d of %d samples left out; the first, %r: %s",
                self.spec.name, len(unscored), len(batch), *unscored[0],
            )  # fmt: skip
        kept = rows[[reason is None for reason in reasons]] if reasons else rows
        if (lacking := self.lacking(kept)) is not None:
            _log.warning("%s: %s", self.spec.name, lacking)
            return SetOutput(math.nan, len(kept), reasons)
        return SetOutput(self.value(self.start(kept)), len(kept), reasons)

    def leave_one_out(self, features: Float[Tensor, "samples features"]) -> Float[Tensor, " samples"]:
        """What each sample adds: the reward of the set less that of the others. Asks for the reward once per sample.

        Raises:
            DataError: too few samples.
        """
        if len(features) <= self.least:
            raise DataError(f"{self.spec.name}: needs {self.least + 1} samples or more, got {len(features)}")
        whole = self.value(self.start(features))
        others = [torch.cat([features[:place], features[place + 1 :]]) for place in range(len(features))]
        return whole - torch.tensor([self.value(self.start(rest)) for rest in others], dtype=torch.float64)

    def __call__(
        self,
        media: Any,
        prompts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> Float[Tensor, ""]:
        """Score a set.

        Args:
            media: what the encoder takes: for pixels a float tensor [samples, 3, height, width] in [0, 1], a list of
                pictures or an array [samples, height, width, 3]; for latents a tensor [samples, ...] or a list.
            prompts, metadata: not used; they stand here because rewards of single samples have them.

        Returns:
            ONE value for all of them, a tensor without axes; NaN where too few can be encoded.

        Raises:
            ShapeError: a wrong number of axes or channels, or samples with different numbers of features.
            DataError: float pictures outside of [0, 1], or something that is no batch.
        """
        parts = self.encoder.split(media)
        output = self.score_set([Sample(one, id=str(place)) for place, one in enumerate(parts)])
        return torch.tensor(output.value, device=media.device if isinstance(media, Tensor) else None)


def checked_rows(
    features: Tensor, name: str, least: int, width: int | None = None
) -> Float[Tensor, "samples features"]:
    """The features as float64 on the CPU.

    Raises:
        ShapeError: not [samples, features], or of another width.
        DataError: too few samples, or a value that is not finite.
    """
    if features.ndim != 2 or width not in (None, features.shape[1]):
        wanted = "features" if width is None else str(width)
        raise ShapeError(f"{name}: features must be [samples, {wanted}], got {list(features.shape)}")
    if len(features) < least:
        raise DataError(f"{name}: needs {least} samples or more, got {len(features)}")
    rows = features.detach().to("cpu", torch.float64)
    if not bool(rows.isfinite().all()):
        raise DataError(f"{name}: features of sample {int((~rows.isfinite()).any(1).nonzero()[0])} are not finite")
    return rows
