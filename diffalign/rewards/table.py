"""The table of rewards: by name their settings, and how they are made from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffalign.config.params import Params
from diffalign.config.rewards import (
    AestheticParams,
    ClipParams,
    EmojiParams,
    FrechetParams,
    HPSParams,
    JPEGParams,
    LearnedParams,
    OCRParams,
    PickScoreParams,
    PSNRParams,
    SceneParams,
    SSIMParams,
    VendiParams,
)
from diffalign.rewards._text_reader import check_installed
from diffalign.rewards.aesthetic import aesthetic_spec, load_aesthetic
from diffalign.rewards.clip import (
    clip_spec,
    hps_spec,
    load_clip_reward,
    load_hps_reward,
    load_pickscore,
    pickscore_spec,
)
from diffalign.rewards.emoji import EmojiReward
from diffalign.rewards.encoders import load_encoder
from diffalign.rewards.frechet import FrechetReward
from diffalign.rewards.full_reference import PSNRReward, SSIMReward
from diffalign.rewards.jpeg import JPEGReward
from diffalign.rewards.learned import learned_spec, load_learned
from diffalign.rewards.ocr import OCRReward
from diffalign.rewards.protocol import Reward, RewardSpec
from diffalign.rewards.reference_set import read_reference
from diffalign.rewards.scene import SceneReward
from diffalign.rewards.set_protocol import SetReward
from diffalign.rewards.vendi import VendiReward


@dataclass(frozen=True)
class RewardEntry:
    """One row of the table of rewards: its settings, how it is made from them, and its spec at default settings.

    Of a reward with weights the spec's version leaves these out: they are not loaded for it.
    """

    params: type[Params]
    load: Callable[[Any], Reward]
    spec: RewardSpec


@dataclass(frozen=True)
class SetRewardEntry:
    """One row of the table of rewards of sets: its settings, and how it is made from them."""

    params: type[Params]
    load: Callable[[Any], SetReward]


def _load_scene(params: SceneParams) -> SceneReward:
    return SceneReward(form=params.form)


def _load_jpeg(params: JPEGParams) -> JPEGReward:
    return JPEGReward(quality=params.quality, direction=params.direction)


def _load_emoji(params: EmojiParams) -> EmojiReward:
    return EmojiReward(form=params.form)


def _load_ocr(params: OCRParams) -> OCRReward:
    check_installed()  # now and not after the first pictures have been drawn
    return OCRReward(
        without_quotes=params.without_quotes,
        nfkc=params.nfkc,
        least_confidence=params.least_confidence,
        detection_side=params.detection_side,
        threads=params.threads,
    )


def _load_psnr(params: PSNRParams) -> PSNRReward:
    return PSNRReward(channel=params.channel, crop_border=params.crop_border)


def _load_ssim(params: SSIMParams) -> SSIMReward:
    return SSIMReward(channel=params.channel, crop_border=params.crop_border)


REWARDS: dict[str, RewardEntry] = {
    "scene": RewardEntry(SceneParams, _load_scene, SceneReward().spec),
    "jpeg": RewardEntry(JPEGParams, _load_jpeg, JPEGReward().spec),
    "emoji": RewardEntry(EmojiParams, _load_emoji, EmojiReward().spec),
    "ocr": RewardEntry(OCRParams, _load_ocr, OCRReward().spec),
    "clip": RewardEntry(ClipParams, load_clip_reward, clip_spec(ClipParams())),
    "pickscore": RewardEntry(PickScoreParams, load_pickscore, pickscore_spec(PickScoreParams())),
    "hps": RewardEntry(HPSParams, load_hps_reward, hps_spec(HPSParams())),
    "aesthetic": RewardEntry(AestheticParams, load_aesthetic, aesthetic_spec(AestheticParams())),
    "learned": RewardEntry(LearnedParams, load_learned, learned_spec()),
    "psnr": RewardEntry(PSNRParams, _load_psnr, PSNRReward().spec),
    "ssim": RewardEntry(SSIMParams, _load_ssim, SSIMReward().spec),
}


def _load_vendi(params: VendiParams) -> VendiReward:
    return VendiReward(encoder=load_encoder(params.encoder), q=params.q, kernel=params.kernel)


def _load_frechet(params: FrechetParams) -> FrechetReward:
    encoder = load_encoder(params.encoder)
    return FrechetReward(read_reference(params.reference, encoder), encoder=encoder)


SET_REWARDS: dict[str, SetRewardEntry] = {
    "vendi": SetRewardEntry(VendiParams, _load_vendi),
    "frechet": SetRewardEntry(FrechetParams, _load_frechet),
}
