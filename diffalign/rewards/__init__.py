"""Rewards: what is good about a sample or a set, as one number each, higher is better. No trainer, no diffusers.

from diffalign.rewards import load_reward
reward = load_reward("jpeg")
scores = reward(pictures, prompts)  # [batch]
diversity = load_reward("vendi")(pictures)  # one number for all of them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from pydantic import ValidationError

from diffalign.config.params import Params
from diffalign.config.sample_rewards import without_shared
from diffalign.exceptions import ConfigError
from diffalign.rewards.aesthetic import AestheticReward
from diffalign.rewards.aisfx import AisfxEncoder
from diffalign.rewards.brisque import BrisqueReward
from diffalign.rewards.cache import CachedReward, cached
from diffalign.rewards.clap import CLAPReward
from diffalign.rewards.clap_towers import ClapEncoder, ClapTowers, load_clap
from diffalign.rewards.clip import CLIPReward, HPSReward, PickScoreReward
from diffalign.rewards.clip_encoder import ClipEncoder
from diffalign.rewards.distortion import DistortionReward
from diffalign.rewards.emoji import EmojiReward
from diffalign.rewards.encoders import ENCODERS, Encoder, FrameEncoder, TextEncoder, load_encoder
from diffalign.rewards.ensemble import RewardEnsemble, combine_rewards
from diffalign.rewards.fad import FADReward, FADSongReward
from diffalign.rewards.frechet import FrechetReward
from diffalign.rewards.full_reference import PSNRReward, SSIMReward
from diffalign.rewards.geneval import GenEvalReward
from diffalign.rewards.http_reward import HTTPReward
from diffalign.rewards.image_reward import ImageReward
from diffalign.rewards.isolation import IsolatedReward, isolated
from diffalign.rewards.jpeg import JPEGReward
from diffalign.rewards.learned import LearnedReward
from diffalign.rewards.media import Audio, Video
from diffalign.rewards.named_options import options_of_text
from diffalign.rewards.notes import NotesReward
from diffalign.rewards.ocr import OCRReward
from diffalign.rewards.option_errors import as_text, closest, sentence
from diffalign.rewards.perceptual import PerceptualDistanceReward, PerceptualEncoder
from diffalign.rewards.protocol import BatchReward, Reward, RewardOutput, RewardSpec, Sample, SampleReward
from diffalign.rewards.reference_set import (
    fit_reference,
    fit_text_reference,
    read_reference,
    reference_facts,
    save_reference,
)
from diffalign.rewards.safety import SafetyReward
from diffalign.rewards.scene import SceneReward
from diffalign.rewards.selftest import self_test
from diffalign.rewards.selftest_checks import Check, passed
from diffalign.rewards.server import RewardServer
from diffalign.rewards.set_protocol import EncodedSetReward, SetOutput, SetReward
from diffalign.rewards.speaker import SpeakerEncoder
from diffalign.rewards.speech_quality import SpeechQualityReward
from diffalign.rewards.sr_attribute import SRAttributeReward
from diffalign.rewards.table import REWARDS, SET_REWARDS, RewardEntry, SetRewardEntry
from diffalign.rewards.text_image import TextImageReward
from diffalign.rewards.vendi import VendiReward
from diffalign.rewards.video_reward import VideoReward
from diffalign.rewards.vlm_judge import VLMJudge
from diffalign.rewards.wheels import packaged_files

__all__ = [
    "ENCODERS",
    "REWARDS",
    "SET_REWARDS",
    "AestheticReward",
    "AisfxEncoder",
    "Audio",
    "BatchReward",
    "BrisqueReward",
    "CLAPReward",
    "CLIPReward",
    "CachedReward",
    "Check",
    "ClapEncoder",
    "ClapTowers",
    "ClipEncoder",
    "DistortionReward",
    "EmojiReward",
    "EncodedSetReward",
    "Encoder",
    "FADReward",
    "FADSongReward",
    "FrameEncoder",
    "FrechetReward",
    "GenEvalReward",
    "HPSReward",
    "HTTPReward",
    "ImageReward",
    "IsolatedReward",
    "JPEGReward",
    "LearnedReward",
    "NotesReward",
    "OCRReward",
    "PSNRReward",
    "PerceptualDistanceReward",
    "PerceptualEncoder",
    "PickScoreReward",
    "Reward",
    "RewardEnsemble",
    "RewardEntry",
    "RewardOutput",
    "RewardServer",
    "RewardSpec",
    "SRAttributeReward",
    "SSIMReward",
    "SafetyReward",
    "Sample",
    "SampleReward",
    "SceneReward",
    "SetOutput",
    "SetReward",
    "SetRewardEntry",
    "SpeakerEncoder",
    "SpeechQualityReward",
    "TextEncoder",
    "TextImageReward",
    "VLMJudge",
    "VendiReward",
    "Video",
    "VideoReward",
    "any_reward_of_text",
    "build_reward",
    "build_set_reward",
    "cached",
    "combine_rewards",
    "fit_reference",
    "fit_text_reference",
    "isolated",
    "load_clap",
    "load_encoder",
    "load_reward",
    "options_of_text",
    "packaged_files",
    "passed",
    "read_reference",
    "reference_facts",
    "reward_of_text",
    "rewards_by_name",
    "save_reference",
    "self_test",
]


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
