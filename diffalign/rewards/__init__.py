"""Rewards: what is good about a sample, as one number each, higher is better. No trainer, no diffusers.

from diffalign.rewards import load_reward
reward = load_reward("jpeg")
scores = reward(pictures, prompts)  # [batch]
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from diffalign.config.params import Params
from diffalign.config.rewards import EmojiParams, JPEGParams, SceneParams
from diffalign.config.yaml_values import read_yaml
from diffalign.exceptions import ConfigError
from diffalign.rewards.emoji import EmojiReward
from diffalign.rewards.ensemble import RewardEnsemble, combine_rewards
from diffalign.rewards.jpeg import JPEGReward
from diffalign.rewards.protocol import PictureReward, Reward, RewardOutput, RewardSpec, Sample
from diffalign.rewards.scene import SceneReward

__all__ = [
    "REWARDS",
    "EmojiReward",
    "JPEGReward",
    "PictureReward",
    "Reward",
    "RewardEnsemble",
    "RewardEntry",
    "RewardOutput",
    "RewardSpec",
    "Sample",
    "SceneReward",
    "build_reward",
    "combine_rewards",
    "load_reward",
    "reward_of_text",
]


@dataclass(frozen=True)
class RewardEntry:
    """One row of the table of rewards: its settings, how it is made from them, and its spec at default settings."""

    params: type[Params]
    load: Callable[[Any], Reward]
    spec: RewardSpec


def _load_scene(params: SceneParams) -> SceneReward:
    return SceneReward(form=params.form)


def _load_jpeg(params: JPEGParams) -> JPEGReward:
    return JPEGReward(quality=params.quality, direction=params.direction)


def _load_emoji(params: EmojiParams) -> EmojiReward:
    return EmojiReward(form=params.form)


REWARDS: dict[str, RewardEntry] = {
    "scene": RewardEntry(SceneParams, _load_scene, SceneReward().spec),
    "jpeg": RewardEntry(JPEGParams, _load_jpeg, JPEGReward().spec),
    "emoji": RewardEntry(EmojiParams, _load_emoji, EmojiReward().spec),
}


def load_reward(name: str, **options: Any) -> Reward:
    """Make a reward by name.

    Args:
        name: a key of `REWARDS`.
        options: its settings, for example `form="graded"` for the scene reward; the rest keep their defaults.

    Raises:
        ConfigError: an unknown name or a wrong option; says what would be right.

    Example:
        `load_reward("jpeg", quality=80)(pictures)`
    """
    if name not in REWARDS:
        raise ConfigError(f"reward: must be one of {', '.join(REWARDS)}, got {name!r}{_closest(name, REWARDS)}")
    entry = REWARDS[name]
    try:
        params = entry.params.model_validate({"name": name, **options})
    except ValidationError as error:
        problems = [_sentence(name, entry.params, item) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from None
    return entry.load(params)


def reward_of_text(text: str) -> Reward:
    """Make a reward from one line, as commands take it: NAME or NAME:option=value,option=value.

    Raises:
        ConfigError: an unknown name or a wrong option; says what would be right.

    Example:
        `reward_of_text("scene:form=graded")`
    """
    name, _, told = text.partition(":")
    options: dict[str, Any] = {}
    for part in told.split(",") if told else ():
        key, sign, value = part.partition("=")
        if not sign or not key.strip() or key.strip() in options:
            raise ConfigError(
                f"reward: {text!r}: after the colon stand options, each once, as {name or 'NAME'}:option=value,option=value"
            )
        try:
            options[key.strip()] = read_yaml(value)
        except YAMLError:
            options[key.strip()] = value
    return load_reward(name.strip(), **options)


def build_reward(params: Params) -> Reward:
    """Make a reward from validated settings.

    Raises:
        ConfigError: the settings are not those of a reward.
    """
    for entry in REWARDS.values():
        if type(params) is entry.params:
            return entry.load(params)
    known = ", ".join(entry.params.__name__ for entry in REWARDS.values())
    raise ConfigError(f"reward: settings must be one of {known}, got {type(params).__name__}")


def _sentence(reward: str, params: type[Params], item: ErrorDetails) -> str:
    """One problem as `dotted.path: what was expected, what was seen`."""
    path = ".".join(str(step) for step in (reward, *item["loc"]))
    if item["type"] == "extra_forbidden":
        known = [name for name in params.model_fields if name != "name"]
        key = str(item["loc"][-1])
        return f"{path}: unknown option{_closest(key, known) or '; known options: ' + ', '.join(known)}"
    context = item.get("ctx", {})
    bounds = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    expected = next((f"{sign} {context[key]}" for key, sign in bounds.items() if key in context), "")
    expected = expected or item["msg"].removeprefix("Input should be ")
    return f"{path}: must be {expected}, got {item['input']!r}"


def _closest(seen: str, known: Any) -> str:
    close = difflib.get_close_matches(str(seen), list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
