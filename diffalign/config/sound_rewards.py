"""Settings of the rewards of sound: of single sounds, and of whole sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from diffalign.config.fields import LocalPath
from diffalign.config.params import Params
from diffalign.config.sample_rewards import ModelRewardParams, SampleRewardParams


class SpeechQualityParams(SampleRewardParams):
    """Of speech: how people would rate its sound, about 1 to 4.6 (DNSMOS; a wheel and extra audio)."""

    name: Literal["speech_quality"] = "speech_quality"
    personalised: bool = False  # whether other people's voices count as background
    threads: PositiveInt = 1  # of the networks, on the CPU


class NotesParams(SampleRewardParams):
    """Of music: are the notes heard that were asked for, and no others (basic-pitch; a wheel, extra audio)."""

    name: Literal["notes"] = "notes"
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3  # how sure the network must be that a note sounds
    shortest: PositiveFloat = 0.1277  # seconds; what sounds for less is not heard
    threads: PositiveInt = 1  # of the network, on the CPU


class ClapParams(ModelRewardParams):
    """Does the sound agree with its prompt, to CLAP: the cosine, over windows of 10 s."""

    name: Literal["clap"] = "clap"
    model: LocalPath = "laion/larger_clap_general"  # a folder or hub id in transformers' format


class _OfFrames(Params):
    """A distance of sound to a reference set."""

    reference: LocalPath  # a .safetensors file of features of frames, or of their statistics
    encoder: Literal["aisfx", "speaker", "clap"] | None = None  # None: that of the file; aisfx where it says nothing
    model: LocalPath = "laion/larger_clap_music"  # of encoder clap: a folder or hub id in transformers' format


class FADSongParams(_OfFrames, SampleRewardParams):
    """Of each sound: how near its own frames come to a reference set's mean and covariance, 0 or less."""

    name: Literal["fad_song"] = "fad_song"


class FADParams(_OfFrames):
    """Of a set of sounds: how near all frames come to a reference set's mean and covariance, 0 or less (FAD)."""

    name: Literal["fad"] = "fad"
    infinity: bool = False  # extrapolate to infinitely many frames: free of the bias of small sets
    smallest: Annotated[int, Field(ge=2)] = 500  # frames, with infinity: of the smallest set that is drawn
    sizes: Annotated[int, Field(ge=2)] = 25  # how many sets are drawn
    seed: NonNegativeInt = 0  # of the draws
