"""What rewards get and give: a sample, scores, and the facts of what a reward's number means."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.media import MEDIA

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
        grouped: whether a score goes by the other samples of its `metadata["group"]`, which have to come whole, in one
            call: such a reward is not remembered, and nothing cuts its batches.
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
    grouped: bool = False


def own_version(told: str | None) -> str:
    """What stands in a reward's version for a function of the user's; of one without a name, never the same twice."""
    return f"own-{told or secrets.token_hex(8)}"


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


def check_samples(batch: Sequence[Any]) -> None:
    """Whether a batch for `score` is one.

    Raises:
        DataError: something else stands in it.
    """
    other = None if isinstance(batch, list | tuple) else batch
    if other is None and (other := next((each for each in batch if not isinstance(each, Sample)), None)) is None:
        return
    raise DataError(
        f"score takes a list of Sample(media, prompt), got {'one of ' if isinstance(batch, list | tuple) else ''}"
        f"{type(other).__name__}; or call the reward itself: reward(media, prompts)"
    )


def lacks_prompt(spec: RewardSpec, sample: Sample) -> str | None:
    """Why the reward cannot take the sample's prompt; None: it can, or needs none."""
    if not isinstance(sample.prompt, str):
        return f"its prompt must be text, got {type(sample.prompt).__name__}"
    if "prompt" in spec.needs and not sample.prompt.strip():
        return f"it has no prompt, which {spec.name} needs"
    return None


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
