"""What every reward is: a frozen spec, one batch method, and a short call for people with pictures at hand.

Higher is always better. A sample that cannot be scored is NaN with a reason; 0 is a score.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError, is_out_of_memory
from diffalign.rewards.media import MEDIA
from diffalign.rewards.precision import full_precision
from diffalign.rewards.spec import (
    PER_SAMPLE,
    RewardOutput,
    RewardSpec,
    Sample,
    check_samples,
    lacks_prompt,
    own_version,
    samples_of,
)

__all__ = [
    "PER_SAMPLE",
    "BatchReward",
    "Judged",
    "Reward",
    "RewardOutput",
    "RewardSpec",
    "Sample",
    "SampleReward",
    "own_version",
]

_log = logging.getLogger(__name__)


@runtime_checkable
class Reward(Protocol):
    """A reward of the instance level. `BatchReward` shares everything but the judgement, `SampleReward` that of one."""

    @property
    def spec(self) -> RewardSpec: ...

    def score(self, batch: Sequence[Sample]) -> RewardOutput:
        """Score every sample; a bad one becomes NaN with a reason and leaves the others as they were."""
        ...

    def __call__(
        self,
        media: Any,
        prompts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> Float[Tensor, " batch"]: ...


Judged = tuple[float, dict[str, float]] | str  # value and components of one sample, or why it has none


class BatchReward(ABC):
    """A reward that judges samples many at a time: `judge_batch` is all that such a reward has to write.

    Media come to it in one form each, `MEDIA[spec.media].read`: pictures as uint8 [height, width, 3], sound as `Audio`,
    video as `Video`.
    """

    spec: RewardSpec
    components: tuple[str, ...]  # names of what a judgement holds beside the value
    batch: int | None = None  # how many samples `judge_batch` gets at most

    @abstractmethod
    def judge_batch(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged]:
        """The value and the components of each sample, or the reason why it has none."""

    def judge_all(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged]:
        """As `judge_batch`, of any number: `batch` at a time, and half as many from where memory does not hold them."""
        judged: list[Judged] = []
        while len(judged) < len(media):
            size = self.batch or len(media)
            part = slice(len(judged), len(judged) + size)
            found = self._judge_part(media[part], samples[part])
            if found is None and self.spec.grouped:
                return ["memory does not hold all of its batch, which cannot be cut"] * len(media)
            if found is None:
                self.batch = max(1, len(media[part]) // 2)
                _log.warning("%s: memory holds no %d at a time; going on with %d", self.spec.name, size, self.batch)
                if torch.cuda.is_initialized():
                    torch.cuda.empty_cache()
                continue
            if len(found) != len(media[part]):
                raise ShapeError(f"{self.spec.name}: {len(media[part])} samples got {len(found)} judgements")
            judged += found
        return [each if isinstance(each, str) else self._checked(each) for each in judged]

    def _checked(self, judged: tuple[float, dict[str, float]]) -> Judged:
        """A number that is none has a reason."""
        return f"the {self.spec.name} reward came to {judged[0]}" if math.isnan(judged[0]) else judged

    def _judge_part(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged] | None:
        """None where memory does not hold them; a single one that it does not hold has no score."""
        try:
            with full_precision():
                return self.judge_batch(media, samples)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return ["memory does not hold it"] if len(media) == 1 else None

    def score(self, batch: Sequence[Sample]) -> RewardOutput:
        """Score every sample; a bad one becomes NaN with a reason and leaves the others as they were."""
        judged = self.judge_samples(batch)
        reasons = tuple(each if isinstance(each, str) else None for each in judged)
        unscored = [(sample.id, reason) for sample, reason in zip(batch, reasons, strict=True) if reason is not None]
        if unscored:
            _log.warning(
                "%s: %d of %d samples not scored; the first, %r: %s",
                self.spec.name,
                len(unscored),
                len(batch),
                *unscored[0],
            )
        found = [(math.nan, {}) if isinstance(each, str) else each for each in judged]
        return RewardOutput(
            values=torch.tensor([value for value, _ in found], dtype=torch.float32),
            reasons=reasons,
            components={
                name: torch.tensor([parts.get(name, math.nan) for _, parts in found], dtype=torch.float32)
                for name in self.components
            },
        )

    def __call__(
        self,
        media: Any,
        prompts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Score media; the reasons behind a NaN are logged, and returned by `score`.

        Args:
            media: of pictures a float tensor [batch, 3, height, width] in [0, 1], a list, one PIL picture, or an array
                [batch, height, width, 3] or [height, width, 3], uint8 or float in [0, 1]; else one `Audio` or `Video`, or
                a list of them.
            prompts: one per sample.
            metadata: one mapping per sample.

        Returns:
            One value per sample, in order, on the device of a tensor `media`.

        Raises:
            ShapeError: a wrong number of axes, channels, prompts or metadata.
            DataError: float pictures outside of [0, 1], or no prompts or metadata although the reward needs them.
        """
        output = self.score(samples_of(self.spec, media, prompts, metadata))
        return output.values.to(media.device) if isinstance(media, Tensor) else output.values

    def judge_samples(self, batch: Sequence[Sample]) -> list[Judged]:
        """The judgement of each sample, or the reason why it has none: `score` before it becomes tensors.

        Raises:
            DataError: something is no `Sample`.
        """
        check_samples(batch)
        batch = [sample if sample.prompt is not None else replace(sample, prompt="") for sample in batch]
        judged: list[Judged] = []
        good: list[tuple[int, Any]] = []
        read = MEDIA[self.spec.media].read
        for place, sample in enumerate(batch):
            try:
                if (lacking := lacks_prompt(self.spec, sample)) is not None:
                    raise DataError(lacking)
                good.append((place, read(sample.media)))
                judged.append("")
            except (DataError, ShapeError) as error:
                judged.append(str(error))
        found = self.judge_all([medium for _, medium in good], [batch[place] for place, _ in good])
        for (place, _), each in zip(good, found, strict=True):
            judged[place] = each
        return judged


class SampleReward(BatchReward):
    """A reward that judges one sample at a time: `judge` is all that such a reward has to write."""

    @abstractmethod
    def judge(self, medium: Any, sample: Sample) -> tuple[float, dict[str, float]]:
        """The value and the components of one sample: a picture, uint8 [height, width, 3], an `Audio` or a `Video`.

        Raises:
            DataError: it cannot be scored; the text is the reason.
        """

    def judge_batch(self, media: Sequence[Any], samples: Sequence[Sample]) -> list[Judged]:
        return [self._judge_one(medium, sample) for medium, sample in zip(media, samples, strict=True)]

    def _judge_one(self, medium: Any, sample: Sample) -> Judged:
        try:
            return self.judge(medium, sample)
        except (DataError, ShapeError) as error:
            return str(error)
        except Exception as error:  # an error of the reward itself is no matter of one sample, but shows itself at one
            error.add_note(f"{self.spec.name} was judging sample {sample.id!r}")
            raise
