"""Rewards: what is good about a sample or a set, as one number each, higher is better. No trainer, no diffusers.

from diffalign.rewards import load_reward
reward = load_reward("jpeg")
scores = reward(pictures, prompts)  # [batch]
diversity = load_reward("vendi")(pictures)  # one number for all of them
"""

from __future__ import annotations

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
from diffalign.rewards.loading import (
    any_reward_of_text,
    build_reward,
    build_set_reward,
    load_reward,
    reward_of_text,
    rewards_by_name,
)
from diffalign.rewards.media import Audio, Video
from diffalign.rewards.named_options import options_of_text
from diffalign.rewards.notes import NotesReward
from diffalign.rewards.ocr import OCRReward
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
from diffalign.rewards.stability import StabilityReward
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
    "StabilityReward",
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
