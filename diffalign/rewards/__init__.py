"""Rewards: what is good about a sample or a set, as one number each, higher is better. No trainer, no diffusers.

from diffalign.rewards import load_reward
reward = load_reward("jpeg")
scores = reward(pictures, prompts)  # [batch]
diversity = load_reward("vendi")(pictures)  # one number for all of them
"""

from __future__ import annotations

import difflib
from typing import Any, Literal, overload

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from diffalign.config.params import Params
from diffalign.config.yaml_values import read_yaml
from diffalign.exceptions import ConfigError
from diffalign.rewards.aesthetic import AestheticReward
from diffalign.rewards.clip import CLIPReward, HPSReward, PickScoreReward
from diffalign.rewards.emoji import EmojiReward
from diffalign.rewards.encoders import ENCODERS, Encoder, load_encoder
from diffalign.rewards.ensemble import RewardEnsemble, combine_rewards
from diffalign.rewards.frechet import FrechetReward
from diffalign.rewards.full_reference import PSNRReward, SSIMReward
from diffalign.rewards.jpeg import JPEGReward
from diffalign.rewards.learned import LearnedReward
from diffalign.rewards.ocr import OCRReward
from diffalign.rewards.protocol import BatchReward, PictureReward, Reward, RewardOutput, RewardSpec, Sample
from diffalign.rewards.reference_set import fit_reference, read_reference, save_reference
from diffalign.rewards.scene import SceneReward
from diffalign.rewards.set_protocol import EncodedSetReward, SetOutput, SetReward
from diffalign.rewards.table import REWARDS, SET_REWARDS, RewardEntry, SetRewardEntry
from diffalign.rewards.vendi import VendiReward

__all__ = [
    "ENCODERS",
    "REWARDS",
    "SET_REWARDS",
    "AestheticReward",
    "BatchReward",
    "CLIPReward",
    "EmojiReward",
    "EncodedSetReward",
    "Encoder",
    "FrechetReward",
    "HPSReward",
    "JPEGReward",
    "LearnedReward",
    "OCRReward",
    "PSNRReward",
    "PickScoreReward",
    "PictureReward",
    "Reward",
    "RewardEnsemble",
    "RewardEntry",
    "RewardOutput",
    "RewardSpec",
    "SSIMReward",
    "Sample",
    "SceneReward",
    "SetOutput",
    "SetReward",
    "SetRewardEntry",
    "VendiReward",
    "build_reward",
    "build_set_reward",
    "combine_rewards",
    "fit_reference",
    "load_encoder",
    "load_reward",
    "read_reference",
    "reward_of_text",
    "save_reference",
]


@overload
def load_reward(name: Literal["vendi", "frechet"], **options: Any) -> SetReward: ...
@overload
def load_reward(name: str, **options: Any) -> Reward: ...
def load_reward(name: str, **options: Any) -> Reward | SetReward:
    """Make a reward by name.

    Args:
        name: a key of `REWARDS`, whose rewards give one value per sample, or of `SET_REWARDS`, whose rewards give one
            value for all samples together.
        options: its settings, for example `form="graded"` for the scene reward; the rest keep their defaults.

    Raises:
        ConfigError: an unknown name or a wrong option; says what would be right.
        DataError: a reference set that cannot be read.
        MissingExtraError: the reward needs a library that is not installed; names the extra.

    Example:
        `load_reward("jpeg", quality=80)(pictures)`
    """
    table: dict[str, Any] = REWARDS | SET_REWARDS
    if name not in table:
        raise ConfigError(f"reward: must be one of {', '.join(table)}, got {name!r}{_closest(name, table)}")
    entry = table[name]
    try:
        params = entry.params.model_validate({"name": name, **options})
    except ValidationError as error:
        problems = [_sentence(name, entry.params, item) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from None
    return entry.load(params)


def reward_of_text(text: str) -> Reward:
    """Make a reward of single samples from one line, as commands take it: NAME or NAME:option=value,option=value.

    Raises:
        ConfigError: an unknown name, one of a reward of sets, or a wrong option; says what would be right.

    Example:
        `reward_of_text("scene:form=graded")`
    """
    name, _, told = text.partition(":")
    if name.strip() in SET_REWARDS:
        raise ConfigError(
            f"reward: {name.strip()} judges whole sets, not single pictures; docs/set_rewards.md says how to ask it"
        )
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
    """Make a reward of single samples from validated settings.

    Raises:
        ConfigError: the settings are not those of such a reward.
    """
    return _entry_of(params, REWARDS).load(params)


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


def _sentence(reward: str, params: type[Params], item: ErrorDetails) -> str:
    """One problem as `dotted.path: what was expected, what was seen`."""
    path = ".".join(str(step) for step in (reward, *item["loc"]))
    if item["type"] == "extra_forbidden":
        known = [name for name in params.model_fields if name != "name"]
        key = str(item["loc"][-1])
        return f"{path}: unknown option{_closest(key, known) or '; known options: ' + ', '.join(known)}"
    if item["type"] == "missing":
        return f"{path}: required, but missing: load_reward({reward!r}, {item['loc'][-1]}=...)"
    context = item.get("ctx", {})
    bounds = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    expected = next((f"{sign} {context[key]}" for key, sign in bounds.items() if key in context), "")
    expected = expected or item["msg"].removeprefix("Input should be ")
    return f"{path}: must be {expected}, got {item['input']!r}"


def _closest(seen: str, known: Any) -> str:
    close = difflib.get_close_matches(str(seen), list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
