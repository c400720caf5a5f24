"""Rewards by name: the table, and what is said about a wrong name or option."""

from __future__ import annotations

import re

import pytest

from diffalign.config.params import Params
from diffalign.config.rewards import JPEGParams, SceneParams
from diffalign.exceptions import ConfigError
from diffalign.rewards import REWARDS, JPEGReward, SceneReward, build_reward, load_reward
from tests.rewards.test_protocol import MODELS

NAMES = "scene, jpeg, emoji, ocr, clip, pickscore, hps, aesthetic, learned, psnr, ssim, vendi, frechet"


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_table_is_consistent(name):
    entry = REWARDS[name]
    assert entry.params.model_fields["name"].default == entry.spec.name == name
    if name in MODELS:  # without their weights there is nothing to load
        return
    assert load_reward(name).spec == build_reward(entry.params()).spec == entry.spec


def test_options_reach_the_reward():
    assert load_reward("scene", form="graded").form == "graded"
    assert load_reward("jpeg", quality=80, direction="incompressible").spec.version == "1-incompressible-q80"


def test_build_from_params():
    assert isinstance(build_reward(SceneParams(form="graded")), SceneReward)
    assert isinstance(build_reward(JPEGParams()), JPEGReward)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "scenes",
            {},
            f"reward: must be one of {NAMES}, got 'scenes'; did you mean 'scene'?",
        ),
        (
            "zzz",
            {},
            f"reward: must be one of {NAMES}, got 'zzz'",
        ),
        ("jpeg", {"quality": 200}, "jpeg.quality: must be <= 100, got 200"),
        ("jpeg", {"quality": "high"}, "jpeg.quality: must be a valid integer, unable to parse string as an integer"),
        ("jpeg", {"qualty": 90}, "jpeg.qualty: unknown option; did you mean 'quality'?"),
        ("jpeg", {"xyz": 90}, "jpeg.xyz: unknown option; known options: quality, direction"),
        ("scene", {"form": "soft"}, "scene.form: must be 'strict' or 'graded', got 'soft'"),
        ("jpeg", {"quality": 0, "direction": "small"}, "jpeg.direction: must be 'compressible' or 'incompressible'"),
        ("jpeg", {"quality": 0, "direction": "small"}, "jpeg.quality: must be >= 1, got 0"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_reward(name, **options)


def test_settings_of_something_else():
    with pytest.raises(ConfigError, match=r"must be one of SceneParams, JPEGParams, EmojiParams, .*, got Params"):
        build_reward(Params())
