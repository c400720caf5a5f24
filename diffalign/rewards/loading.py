"""Rewards by name: from Python, from settings, and from the text of a command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from pydantic import ValidationError

from diffalign.config.params import Params
from diffalign.config.sample_rewards import (
    without_shared,
)
from diffalign.exceptions import ConfigError
from diffalign.rewards.cache import cached
from diffalign.rewards.isolation import IsolatedReward
from diffalign.rewards.named_options import options_of_text
from diffalign.rewards.option_errors import as_text, closest, sentence
from diffalign.rewards.protocol import BatchReward, Reward
from diffalign.rewards.set_protocol import SetReward
from diffalign.rewards.table import REWARDS, SET_REWARDS, RewardEntry


@overload
def load_reward(name: Literal["vendi", "frechet", "fad"], **options: Any) -> SetReward: ...
@overload
def load_reward(name: str, **options: Any) -> Reward: ...
def load_reward(name: str, **options: Any) -> Reward | SetReward:
    """Make a reward by name.

    Args:
        name: a key of `REWARDS`, whose rewards give one value per sample, or of `SET_REWARDS`, whose rewards give one
            value for all samples together.
        options: its settings, for example `form="graded"` for the scene reward; the rest keep their defaults. Every reward
            of single samples also takes `process` (True, or a mapping: in a worker process) and `cache` (a folder).

    Raises:
        ConfigError: an unknown name or a wrong option; says what would be right.
        DataError: a reference set that cannot be read.
        MissingExtraError: the reward needs a library that is not installed; names the extra.

    Example:
        `load_reward("jpeg", quality=80)(pictures)`
    """
    table: dict[str, Any] = REWARDS | SET_REWARDS
    if name not in table:
        raise ConfigError(f"reward: must be one of {', '.join(table)}, got {name!r}{closest(name, table)}")
    entry = table[name]
    try:
        params = entry.params.model_validate({"name": name, **options})
    except ValidationError as error:
        problems = [sentence(name, entry.params, item) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from None
    return entry.load(params) if name in SET_REWARDS else _placed(entry, params)


def reward_of_text(text: str) -> Reward:
    """Make a reward of single samples from one line, as commands take it: NAME or NAME:option=value,option=value.

    Raises:
        ConfigError: an unknown name, one of a reward of sets, or a wrong option; says what would be right.

    Example:
        `reward_of_text("scene:form=graded")`
    """
    name, _ = options_of_text(text)
    if name in SET_REWARDS:
        raise ConfigError(
            f"reward: {name} judges whole sets, not single samples; docs/set_rewards.md says how to ask it"
        )
    return any_reward_of_text(text)


def any_reward_of_text(text: str) -> Any:
    """The same of any reward: a `Reward`, or a `SetReward` where the name is one of `SET_REWARDS`.

    Raises:
        ConfigError: an unknown name or a wrong option; says what would be right.
    """
    name, options = options_of_text(text)
    try:
        return load_reward(name, **options)
    except ConfigError as error:  # in the terms in which it was asked for
        raise ConfigError(as_text(str(error))) from None


def guarded_reward_of_text(text: str) -> Any:
    """The same as `any_reward_of_text`, but a reward of shapes works in a process of its own unless `process` is said.

    A mesh that makes the simulator crash or hang costs its own score then, and not those of all others.
    """
    name, options = options_of_text(text)
    if name not in REWARDS or REWARDS[name].spec.media != "mesh" or "process" in options:
        return any_reward_of_text(text)
    return any_reward_of_text(f"{text}{',' if options else ':'}process=true")


def rewards_by_name(texts: Sequence[str], make: Callable[[str], Any] = any_reward_of_text) -> dict[str, Any]:
    """Rewards as they stand on a command line, by name; one name with different options, by all that was said.

    Args:
        texts: as `make` takes them.
        make: of one text its reward; `reward_of_text` refuses those of sets.

    Raises:
        ConfigError: the same stands twice, or one cannot be made.
    """
    if len(set(texts)) < len(texts):
        raise ConfigError(f"--reward: the same stands twice in {', '.join(texts)}")
    made = {text: make(text) for text in texts}
    names = [reward.spec.name for reward in made.values()]
    return {reward.spec.name if names.count(reward.spec.name) == 1 else text: reward for text, reward in made.items()}


def build_reward(params: Params) -> Reward:
    """Make a reward of single samples from validated settings.

    Raises:
        ConfigError: the settings are not those of such a reward.
    """
    return _placed(_entry_of(params, REWARDS), params)


def _placed(entry: RewardEntry, params: Any) -> Reward:
    """The reward where its work is to be done, with a memory if it is to have one."""
    process = params.process
    if process is not None:
        reward: BatchReward = IsolatedReward(
            entry.spec.name,
            without_shared(params),
            python=process.python,
            timeout=process.timeout,
            workers=process.workers,
        )
    else:
        reward = entry.load(params)
    return reward if params.cache is None else cached(reward, params.cache)


def build_set_reward(params: Params) -> SetReward:
    """Make a reward of whole sets from validated settings.

    Raises:
        ConfigError: the settings are not those of such a reward, or its reference set is missing.
        DataError: its reference set cannot be read.
    """
    return _entry_of(params, SET_REWARDS).load(params)


def _entry_of(params: Params, table: dict[str, Any]) -> Any:
    for entry in table.values():
        if type(params) is entry.params:
            return entry
    known = ", ".join(entry.params.__name__ for entry in table.values())
    raise ConfigError(f"reward: settings must be one of {known}, got {type(params).__name__}")
