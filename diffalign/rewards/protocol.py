"""What every reward is: a frozen spec, one batch method, and a short call for people with pictures at hand.

Higher is always better. A sample that cannot be scored is NaN with a reason; 0 is a score.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError, is_out_of_memory
from diffalign.rewards.media import MEDIA
from diffalign.rewards.precision import full_precision

_log = logging.getLogger(__name__)
PER_SAMPLE = ("instance", "instance_to_set")  # the levels at which each sample has a score of its own


@dataclass(frozen=True, eq=False)
class Sample:
    """One thing to score.

    Attributes:
        media: a picture: PIL, float tensor [3, height, width] in [0, 1], or array [height, width, 3] (see `as_pixels`); or
            an `Audio`, or a `Video`.
        prompt: what it was made for; "" when there is none.
        metadata: anything a reward may need beyond the prompt.
        id: names the sample in messages.
    """

    media: Any
    prompt: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, eq=False)
class RewardOutput:
    """Scores of a batch, in its order.

    Attributes:
        values: the reward, NaN where a sample could not be scored.
        reasons: why not, or None; one per sample.
        components: what the reward is made of, by name; NaN where unscored.
    """

    values: Float[Tensor, " batch"]
    reasons: tuple[str | None, ...]
    components: dict[str, Tensor]


@dataclass(frozen=True)
class RewardSpec:
    """What a reward's number means.

    Attributes:
        name: as in `load_reward(name)`.
        version: changes whenever the same sample may get another number; part of cache keys.
        media: what it looks at; "features" where the caller has encoded it already.
        level: one sample, one against a reference set, a set by itself, or a set against another.
        unit: of the value ("kB", or "1" for a pure number).
        range: least and greatest value; infinities where there is no bound.
        differentiable: whether gradients flow to the media.
        licence: of the code and weights that make the number.
        needs: what of a `Sample` must be there beside the media; "reference" is `metadata["reference"]`, a picture.
        source: paper or definition.
        reads: what of a `Sample` changes the number where it is there, beside `needs`; part of cache keys.
        deterministic: whether a sample always gets the same number; else a cache keeps the first that it gets.
    """

    name: str
    version: str
    media: Literal["image", "video", "audio", "mesh", "features"]
    level: Literal["instance", "instance_to_set", "set", "set_to_set"]
    unit: str
    range: tuple[float, float]
    differentiable: bool
    licence: str
    needs: tuple[Literal["prompt", "metadata", "reference"], ...]
    source: str
    deterministic: bool = True
    reads: tuple[Literal["prompt", "metadata"], ...] = ()


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
            if found is None:
                self.batch = max(1, len(media[part]) // 2)
                _log.warning("%s: memory holds no %d at a time; going on with %d", self.spec.name, size, self.batch)
                if torch.cuda.is_initialized():
                    torch.cuda.empty_cache()
                continue
            if len(found) != len(media[part]):
                raise ShapeError(f"{self.spec.name}: {len(media[part])} samples got {len(found)} judgements")
            judged += found
        return judged

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
        """The judgement of each sample, or the reason why it has none: `score` before it becomes tensors."""
        judged: list[Judged] = []
        good: list[tuple[int, Any]] = []
        read = MEDIA[self.spec.media].read
        for place, sample in enumerate(batch):
            try:
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


def samples_of(
    spec: RewardSpec,
    media: Any,
    prompts: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
) -> list[Sample]:
    """What a call brings, sample by sample.

    Raises:
        ShapeError: a wrong number of axes, channels, prompts or metadata.
        DataError: float pictures outside of [0, 1], or no prompts or metadata although the reward needs them.
    """
    parts = MEDIA[spec.media].split(media)
    check_given(spec, prompts, metadata)
    texts = one_each("prompts", prompts, "", len(parts))
    facts = one_each("metadata", metadata, {}, len(parts))
    return [
        Sample(one, text, fact, id=str(index))
        for index, (one, text, fact) in enumerate(zip(parts, texts, facts, strict=True))
    ]


def check_given(spec: RewardSpec, prompts: Sequence[str] | None, metadata: Sequence[Mapping[str, Any]] | None) -> None:
    """Whether a call brings what the reward needs beside the media.

    Raises:
        DataError: it does not.
    """
    one, several = MEDIA[spec.media].one, MEDIA[spec.media].several
    if prompts is None and "prompt" in spec.needs:
        raise DataError(f"the {spec.name} reward needs a prompt per {one}: call reward({several}, prompts)")
    if metadata is None and "reference" in spec.needs:
        raise DataError(
            f"the {spec.name} reward needs a reference per {one}: call "
            f"reward({several}, metadata=[{{'reference': other}}, ...])"
        )
    if metadata is None and "metadata" in spec.needs:
        raise DataError(f"the {spec.name} reward needs metadata per {one}: call reward({several}, metadata=[...])")


def one_each(name: str, given: Sequence[Any] | None, missing: Any, count: int) -> list[Any]:
    """What was given for each of `count` samples, or `missing` for all of them.

    Raises:
        ShapeError: it is not one a picture.
    """
    if given is None:
        return [missing] * count
    if isinstance(given, str | Mapping) or len(given) != count:
        seen = f"one {type(given).__name__}" if isinstance(given, str | Mapping) else str(len(given))
        raise ShapeError(f"{name} must be a sequence with one entry per sample ({count}), got {seen}")
    return list(given)
