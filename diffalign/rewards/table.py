"""The table of rewards: by name their settings, and how they are made from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffalign.config.params import Params
from diffalign.config.rewards import (
    AestheticParams,
    BrisqueParams,
    ClipParams,
    DistortionParams,
    EmojiParams,
    FrechetParams,
    GenEvalParams,
    HPSParams,
    ImageRewardParams,
    JPEGParams,
    LearnedParams,
    OCRParams,
    PerceptualDistanceParams,
    PickScoreParams,
    PSNRParams,
    SafetyParams,
    SceneParams,
    SSIMParams,
    TextImageParams,
    VendiParams,
    VideoRewardParams,
)
from diffalign.config.sample_rewards import HTTPParams, SampleRewardParams, VLMJudgeParams, without_shared
from diffalign.config.shape_rewards import StabilityParams
from diffalign.config.sound_rewards import ClapParams, FADParams, FADSongParams, NotesParams, SpeechQualityParams
from diffalign.rewards._text_reader import check_installed
from diffalign.rewards._vgg import check_vgg
from diffalign.rewards.aesthetic import aesthetic_spec, load_aesthetic
from diffalign.rewards.brisque import WEIGHTS as BRISQUE_WEIGHTS
from diffalign.rewards.brisque import BrisqueReward
from diffalign.rewards.clap import clap_spec, load_clap_reward
from diffalign.rewards.clap_towers import ClapEncoder, ClapTowers, load_clap
from diffalign.rewards.clip import (
    clip_spec,
    hps_spec,
    load_clip_reward,
    load_hps_reward,
    load_pickscore,
    pickscore_spec,
)
from diffalign.rewards.distortion import DistortionReward
from diffalign.rewards.emoji import EmojiReward
from diffalign.rewards.encoders import Encoder, load_encoder
from diffalign.rewards.fad import FADReward, FADSongReward, fad_song_spec, fad_spec
from diffalign.rewards.frechet import FrechetReward, frechet_spec
from diffalign.rewards.full_reference import PSNRReward, SSIMReward
from diffalign.rewards.geneval import GenEvalReward
from diffalign.rewards.http_reward import HTTPReward, http_spec
from diffalign.rewards.image_reward import image_reward_spec, load_image_reward
from diffalign.rewards.jpeg import JPEGReward
from diffalign.rewards.learned import learned_spec, load_learned
from diffalign.rewards.notes import NotesReward, notes_spec
from diffalign.rewards.ocr import OCRReward
from diffalign.rewards.perceptual import PerceptualDistanceReward
from diffalign.rewards.protocol import BatchReward, RewardSpec
from diffalign.rewards.reference_set import encoder_of, read_reference
from diffalign.rewards.safety import SafetyReward, check_safety_parts
from diffalign.rewards.scene import SceneReward
from diffalign.rewards.set_protocol import SetReward
from diffalign.rewards.speech_quality import SpeechQualityReward, speech_quality_spec
from diffalign.rewards.stability import StabilityReward, check_simulator
from diffalign.rewards.text_image import TextImageReward, check_text_image
from diffalign.rewards.vendi import VendiReward
from diffalign.rewards.video_reward import load_video_reward, video_reward_spec
from diffalign.rewards.vlm_judge import load_vlm_judge, vlm_judge_spec
from diffalign.rewards.wheels import packaged_file


@dataclass(frozen=True)
class RewardEntry:
    """One row of the table of rewards: its settings, how it is made from them, and its spec at default settings.

    Of a reward with weights or a reference set the spec's version leaves these out: they are not loaded for it. Of one that
    is done elsewhere the spec says what can be said before anybody is asked.
    """

    params: type[SampleRewardParams]
    load: Callable[[Any], BatchReward]
    spec: RewardSpec


@dataclass(frozen=True)
class SetRewardEntry:
    """One row of the table of rewards of sets: its settings, how it is made from them, and its spec at default settings."""

    params: type[Params]
    load: Callable[[Any], SetReward]
    spec: RewardSpec


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


def _load_brisque(params: BrisqueParams) -> BrisqueReward:
    for wanted in BRISQUE_WEIGHTS:  # now and not after the first pictures have been drawn
        packaged_file(wanted)
    return BrisqueReward()


def _load_text_image(params: TextImageParams) -> TextImageReward:
    check_text_image()
    return TextImageReward(device=params.device)


def _load_safety(params: SafetyParams) -> SafetyReward:
    check_safety_parts()
    return SafetyReward(threads=params.threads)


def _load_distortion(params: DistortionParams) -> DistortionReward:
    return DistortionReward(form=params.form)


def _load_geneval(params: GenEvalParams) -> GenEvalReward:
    return GenEvalReward(form=params.form, detector=params.detector)


def _load_perceptual_distance(params: PerceptualDistanceParams) -> PerceptualDistanceReward:
    check_vgg()
    return PerceptualDistanceReward(device=params.device)


def _load_psnr(params: PSNRParams) -> PSNRReward:
    return PSNRReward(channel=params.channel, crop_border=params.crop_border)


def _load_ssim(params: SSIMParams) -> SSIMReward:
    return SSIMReward(channel=params.channel, crop_border=params.crop_border)


def _load_speech_quality(params: SpeechQualityParams) -> SpeechQualityReward:
    return SpeechQualityReward(personalised=params.personalised, threads=params.threads)


def _load_notes(params: NotesParams) -> NotesReward:
    return NotesReward(threshold=params.threshold, shortest=params.shortest, threads=params.threads)


def _load_fad_song(params: FADSongParams) -> FADSongReward:
    encoder = _sound_encoder(params)
    return FADSongReward(read_reference(params.reference, encoder, params.name), encoder=encoder)


def _sound_encoder(params: FADParams | FADSongParams) -> Encoder:
    name = params.encoder or encoder_of(params.reference) or "aisfx"
    if name == "clap":
        return ClapEncoder(ClapTowers(*load_clap(params.name, params.model)))
    return load_encoder(name)


def _load_stability(params: StabilityParams) -> StabilityReward:
    check_simulator()
    return StabilityReward(**without_shared(params))


REWARDS: dict[str, RewardEntry] = {
    "scene": RewardEntry(SceneParams, _load_scene, SceneReward().spec),
    "jpeg": RewardEntry(JPEGParams, _load_jpeg, JPEGReward().spec),
    "emoji": RewardEntry(EmojiParams, _load_emoji, EmojiReward().spec),
    "ocr": RewardEntry(OCRParams, _load_ocr, OCRReward().spec),
    "clip": RewardEntry(ClipParams, load_clip_reward, clip_spec(ClipParams())),
    "pickscore": RewardEntry(PickScoreParams, load_pickscore, pickscore_spec(PickScoreParams())),
    "hps": RewardEntry(HPSParams, load_hps_reward, hps_spec(HPSParams())),
    "image_reward": RewardEntry(ImageRewardParams, load_image_reward, image_reward_spec(ImageRewardParams())),
    "aesthetic": RewardEntry(AestheticParams, load_aesthetic, aesthetic_spec(AestheticParams())),
    "learned": RewardEntry(LearnedParams, load_learned, learned_spec()),
    "brisque": RewardEntry(BrisqueParams, _load_brisque, BrisqueReward().spec),
    "text_image": RewardEntry(TextImageParams, _load_text_image, TextImageReward().spec),
    "safety": RewardEntry(SafetyParams, _load_safety, SafetyReward().spec),
    "distortion": RewardEntry(DistortionParams, _load_distortion, DistortionReward().spec),
    "geneval": RewardEntry(GenEvalParams, _load_geneval, GenEvalReward().spec),
    "psnr": RewardEntry(PSNRParams, _load_psnr, PSNRReward().spec),
    "ssim": RewardEntry(SSIMParams, _load_ssim, SSIMReward().spec),
    "perceptual_distance": RewardEntry(
        PerceptualDistanceParams, _load_perceptual_distance, PerceptualDistanceReward().spec
    ),
    "video_reward": RewardEntry(VideoRewardParams, load_video_reward, video_reward_spec(VideoRewardParams())),
    "http": RewardEntry(HTTPParams, HTTPReward, http_spec()),
    "vlm_judge": RewardEntry(VLMJudgeParams, load_vlm_judge, vlm_judge_spec(VLMJudgeParams(model="MODEL"))),
    "speech_quality": RewardEntry(SpeechQualityParams, _load_speech_quality, speech_quality_spec()),
    "notes": RewardEntry(NotesParams, _load_notes, notes_spec()),
    "clap": RewardEntry(ClapParams, load_clap_reward, clap_spec(ClapParams())),
    "fad_song": RewardEntry(FADSongParams, _load_fad_song, fad_song_spec()),
    "stability": RewardEntry(StabilityParams, _load_stability, StabilityReward().spec),
}


def _load_vendi(params: VendiParams) -> VendiReward:
    return VendiReward(encoder=load_encoder(params.encoder), q=params.q, kernel=params.kernel)


def _load_frechet(params: FrechetParams) -> FrechetReward:
    encoder = load_encoder(params.encoder or encoder_of(params.reference) or "pixels")
    return FrechetReward(read_reference(params.reference, encoder), encoder=encoder)


def _load_fad(params: FADParams) -> FADReward:
    encoder = _sound_encoder(params)
    return FADReward(
        read_reference(params.reference, encoder, params.name),
        encoder=encoder,
        infinity=params.infinity,
        smallest=params.smallest,
        sizes=params.sizes,
        seed=params.seed,
    )


SET_REWARDS: dict[str, SetRewardEntry] = {
    "vendi": SetRewardEntry(VendiParams, _load_vendi, VendiReward().spec),
    "frechet": SetRewardEntry(FrechetParams, _load_frechet, frechet_spec()),
    "fad": SetRewardEntry(FADParams, _load_fad, fad_spec(frechet_spec("audio"))),
}
