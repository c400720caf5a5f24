"""What every reward of single samples can be told beside its own settings; and the settings of rewards done elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from diffalign.config.fields import LocalPath, OwnFolder
from diffalign.config.params import Params


class ProcessParams(Params):
    """A worker process that a reward's work is done in."""

    python: LocalPath | None = None  # another environment's interpreter, such as /opt/venv/bin/python
    timeout: PositiveFloat = 300.0  # seconds for one batch; then the worker is ended and started again
    workers: PositiveInt = 1  # each loads the reward once


def _yes_or_no(told: Any) -> Any:
    """True asks for a process as it is by default."""
    return {True: {}, False: None}[told] if isinstance(told, bool) else told


class SampleRewardParams(Params):
    """The base of the settings of every reward of single samples: where it is done, and whether it is remembered."""

    medium: ClassVar[str | None] = "image"  # what it judges of what a run draws; None: whatever it is

    # done in a worker process: true, or a mapping that says how; None: here
    process: Annotated[ProcessParams | None, BeforeValidator(_yes_or_no)] = None
    cache: OwnFolder | None = None  # a folder in which scores are kept, by what the sample holds


class ModelRewardParams(SampleRewardParams):
    """A reward that is a model."""

    device: Literal["cuda", "mps", "cpu"] | None = None  # None: the best that there is
    batch: int = Field(default=16, ge=1)  # samples at a time


SHARED_SETTINGS = tuple(SampleRewardParams.model_fields)


def own_settings(params: type[Params]) -> list[str]:
    """The names of settings without `name`, and of a reward's without what all of them have."""
    shared = SHARED_SETTINGS if issubclass(params, SampleRewardParams) else ()
    return [name for name in params.model_fields if name not in ("name", *shared)]


def _address(text: str) -> str:
    if not re.match(r"https?://[^/\s@]+(/[^\s?#]*)?$", text):
        raise ValueError(f"must be an address as http://HOST:PORT, without user, query or fragment, got {text!r}")
    return text.rstrip("/")


def _variable(text: str) -> str:
    """The name of one, and not by mistake the secret that it holds, which is not repeated in the message."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) or re.match(r"sk[_-]|hf_", text):
        raise ValueError("must be the name of an environment variable that holds the secret, such as OPENAI_API_KEY")
    return text


Address = Annotated[str, AfterValidator(_address)]
VariableName = Annotated[str, AfterValidator(_variable)]


class OverHTTPParams(SampleRewardParams):
    """How rewards that are asked over HTTP are asked."""

    timeout: PositiveFloat = 60.0  # seconds for one answer
    retries: NonNegativeInt = 4  # after a lost connection, a timeout, or status 408, 429 or 5xx
    backoff: PositiveFloat = 1.0  # seconds before the first retry; doubled each time, 30 at most


class HTTPParams(OverHTTPParams):
    """A reward that another machine or process serves: `diffalign rewards serve`."""

    medium: ClassVar[str | None] = None

    name: Literal["http"] = "http"
    url: Address = "http://127.0.0.1:8300"  # where `diffalign rewards serve` listens by default
    reward: str | None = None  # which of those that are served; None: the only one
    batch: PositiveInt = 16  # samples in one request
    token: VariableName | None = None  # the environment variable with the server's token


class VLMJudgeParams(OverHTTPParams):
    """What a vision-language model says of the picture, over an OpenAI-compatible endpoint: 0 to 1."""

    name: Literal["vlm_judge"] = "vlm_judge"
    url: Address = "http://127.0.0.1:8000/v1"  # where vLLM listens by default
    model: str  # as the endpoint calls it
    style: Literal["rubric", "yes_no", "unified_reward", "unified_reward_2"] = "rubric"
    question: str | None = None  # another one than the style's; {prompt} in it becomes the sample's prompt
    pattern: str | None = None  # another regular expression than the style's: each group is a number, their mean counts
    scale: tuple[float, float] | None = None  # the answers that become 0 and 1; None: the style's
    side: PositiveInt | None = None  # pixels: pictures are sent with this longest side; None: as they are
    max_tokens: PositiveInt = 1024  # of an answer in text
    concurrency: PositiveInt = 8  # questions at a time
    api_key: VariableName | None = None  # the environment variable with the endpoint's key

    @model_validator(mode="after")
    def _consistent(self) -> VLMJudgeParams:
        if self.style == "yes_no" and (self.pattern is not None or self.scale is not None):
            raise ValueError("yes_no reads no number: leave out pattern and scale, or take style rubric")
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError(f"scale must be the least and the greatest answer, got {list(self.scale)}")
        if self.pattern is not None and not _groups(self.pattern):
            raise ValueError(f"pattern must have a group for the number, as 'Score: (\\d+)', got {self.pattern!r}")
        return self


def _groups(pattern: str) -> int:
    try:
        return re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"pattern is no regular expression: {error}") from None


def without_shared(params: Params) -> dict[str, Any]:
    """The settings that make the reward itself, as plain values."""
    return params.model_dump(mode="json", exclude={"name", *SHARED_SETTINGS})


def medium_problems(setting: str, rewards: Sequence[SampleRewardParams], drawn: str) -> Iterator[str]:
    """Which rewards judge something else than what a run draws, "image" or "mesh"."""
    kinds = {"mesh": "shapes", "image": "pictures"}
    for reward in rewards:
        if reward.medium not in (None, drawn):
            name = type(reward).model_fields["name"].default
            judged = kinds[str(reward.medium)]
            yield f"{setting}: {name!r} judges {judged}, and the model draws {kinds[drawn]}; leave it out"
