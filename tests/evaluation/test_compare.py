"""Base against aligned: files, figures, and what is left out."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.backbones import LoRASettings, load_backbone
from diffalign.config.rewards import JPEGParams, SceneParams
from diffalign.config.run import EvaluationConfig
from diffalign.evaluation import check_quality, evaluate
from diffalign.evaluation import compare as room
from diffalign.exceptions import ConfigError, DataError
from diffalign.pipelines import ImageGenerator
from diffalign.rewards import RewardSpec, SampleReward

PROMPTS = ["a red circle", "two green crosses", "a blue square"]
REWARDS = (SceneParams(), JPEGParams())


@pytest.fixture(scope="module")
def generator() -> ImageGenerator:
    backbone = load_backbone("sd", "zoo://shapes-sd", lora=LoRASettings(rank=2))
    return ImageGenerator.create(backbone, steps=2, batch=2)


class ByBrightness(SampleReward):
    """Brightness of a picture, but not for prompts that say 'skip'; component `clean` is brightness too."""

    components = ("clean", "big")

    def __init__(self, name: str = "scene") -> None:
        self.spec = RewardSpec(
            name=name, version="1", media="image", level="instance", unit="1", range=(0.0, math.inf),
            differentiable=False, licence="Apache-2.0", needs=(), source="this test",
        )  # fmt: skip

    def judge(self, pixels: np.ndarray, sample: Any) -> tuple[float, dict[str, float]]:
        if sample.prompt == f"skip {sample.id.split('-')[0]}" or sample.prompt == "skip both":
            raise DataError("told to skip")
        value = float(pixels.mean() / 255)
        return value, {"clean": value, "big": 2 * value}


class FakeGenerator:
    """Gives grey pictures of a shade by prompt and view."""

    guidance_scale = 1.5
    sampler = SimpleNamespace()
    times = torch.linspace(1, 0, 4)

    def __init__(self, shades: dict[str, Sequence[float]]) -> None:
        self._shades = shades
        self.seeds: dict[str, list[int]] = {}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], *, view: str) -> Iterator[torch.Tensor]:
        self.seeds[view] = list(seeds)
        shades = torch.tensor(self._shades[view])
        for start in range(0, len(prompts), 2):
            yield shades[start : start + 2, None, None, None].expand(-1, 3, 4, 4)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """evaluate() with made-up pictures and rewards."""
    monkeypatch.setattr(room, "build_reward", lambda params: ByBrightness(params.name))
    monkeypatch.setattr(room, "_draw_and_score", inspect.unwrap(room._draw_and_score))  # no check that it is the class
    original = inspect.unwrap(room.evaluate)

    def call(
        base: Sequence[float], aligned: Sequence[float], prompts: Sequence[str], run: Path, **settings: Any
    ) -> Any:
        made = FakeGenerator({"reference": base, "policy": aligned})
        config = EvaluationConfig(**({"resamples": 500, "rewards": REWARDS} | settings))
        return original(made, prompts, config, run), made

    return call


def read_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluation" / "records.jsonl").read_text("utf-8").splitlines()]


def plain(value: float) -> float:
    """A shade after eight bits."""
    return round(value * 255) / 255


def test_figures_by_hand(fake, tmp_path):
    base, aligned = [0.2, 0.4, 0.6, 0.8], [0.4, 0.4, 0.5, 1.0]
    summary, made = fake(base, aligned, ["a", "b", "c", "d"], tmp_path, seed=5)
    assert made.seeds == {"reference": [5, 6, 7, 8], "policy": [5, 6, 7, 8]}
    seen = summary["rewards"]["scene"]
    assert (seen["wins"], seen["ties"], seen["losses"]) == (2, 1, 1)
    assert seen["win_rate"] == pytest.approx(0.625)
    assert seen["win_rate_low"] <= 0.625 <= seen["win_rate_high"]
    shades = [np.mean([plain(each) for each in side]) for side in (base, aligned)]
    assert [seen["base_mean"], seen["aligned_mean"]] == pytest.approx(shades, abs=1e-6)
    assert seen["difference"] == pytest.approx(shades[1] - shades[0], abs=1e-6)
    assert seen["low"] < seen["difference"] < seen["high"]
    assert (seen["scored"], seen["unscored"], seen["reasons"]) == (4, 0, {})


def test_pictures_of_one_prompt_are_no_prompts_of_their_own(fake, tmp_path):
    """A file that lists four prompts ten times says as much as one that lists them once."""
    base, aligned = [0.2, 0.4, 0.6, 0.8], [0.4, 0.4, 0.5, 1.0]
    once, _ = fake(base, aligned, ["a", "b", "c", "d"], tmp_path)
    often, _ = fake(base * 10, aligned * 10, ["a", "b", "c", "d"] * 10, tmp_path)
    assert (often["prompts"], often["pictures"], once["pictures"]) == (4, 40, 4)
    alone, many = (summary["rewards"]["scene"] for summary in (once, often))
    for name in ("difference", "low", "high", "win_rate", "win_rate_low", "win_rate_high", "base_mean", "aligned_mean"):
        assert many[name] == pytest.approx(alone[name], abs=1e-6)
    assert many["wins"] == 10 * alone["wins"]


def test_members_are_more_pictures_of_each_prompt_with_seeds_that_go_on(fake, tmp_path):
    base, aligned = [0.2, 0.4, 0.6, 0.8], [0.4, 0.4, 0.5, 1.0]
    summary, made = fake(base, aligned, ["a", "b"], tmp_path, seed=5, members=2)
    assert made.seeds == {"reference": [5, 6, 7, 8], "policy": [5, 6, 7, 8]}
    assert (summary["prompts"], summary["members"], summary["pictures"]) == (2, 2, 4)
    rows = read_rows(tmp_path)
    assert [(row["prompt"], row["seed"]) for row in rows] == [("a", 5), ("b", 6), ("a", 7), ("b", 8)]
    assert rows[2]["rewards"]["scene"] == pytest.approx([plain(0.6), plain(0.5)], abs=1e-6)
    seen = summary["rewards"]["scene"]
    per_prompt = [(plain(0.4) - plain(0.2) + plain(0.5) - plain(0.6)) / 2, (plain(1.0) - plain(0.8)) / 2]
    assert seen["difference"] == pytest.approx(np.mean(per_prompt), abs=1e-6)
    assert seen["low"] == pytest.approx(min(per_prompt), abs=1e-6) and seen["scored"] == 4
    assert len(list((tmp_path / "evaluation" / "aligned").iterdir())) == 4
    listed, _ = fake(base, aligned, ["a", "b", "a", "b"], tmp_path, seed=5)
    assert {**listed["rewards"]["scene"]} == seen and listed["members"] == 1


def test_unscored_pairs_are_left_out_and_counted_with_reasons(fake, tmp_path):
    prompts = ["a", "skip base", "skip aligned", "skip both", "b"]
    summary, _ = fake([0.2] * 5, [0.4, 1.0, 1.0, 1.0, 0.4], prompts, tmp_path)
    seen = summary["rewards"]["scene"]
    assert (seen["scored"], seen["unscored"], seen["reasons"]) == (2, 3, {"told to skip": 4})
    assert (seen["wins"], seen["losses"]) == (2, 0)
    assert seen["aligned_mean"] == pytest.approx(plain(0.4), abs=1e-6)
    rows = read_rows(tmp_path)
    assert rows[1]["rewards"]["scene"] == [None, pytest.approx(1.0)]
    assert rows[3]["rewards"]["scene"] == [None, None]
    json.loads((tmp_path / "evaluation" / "summary.json").read_text(), parse_constant=pytest.fail)


def test_components_are_compared_as_the_reward_is(fake, tmp_path):
    base, aligned = [0.2, 0.4, 0.6], [0.4, 0.4, 1.0]
    summary, _ = fake(base, aligned, ["a", "b", "skip base"], tmp_path)
    seen = summary["rewards"]["scene"]
    assert seen["components"].keys() == {"clean", "big"}
    for name, times in (("clean", 1), ("big", 2)):
        part = seen["components"][name]
        assert part["scored"] == 2
        for figure in ("base_mean", "aligned_mean", "difference", "low", "high"):
            assert part[figure] == pytest.approx(times * seen[figure], abs=1e-6)
    nothing, _ = fake([0.2], [0.4], ["skip both"], tmp_path)
    assert "components" not in nothing["rewards"]["scene"]


def test_nothing_scored_is_said_not_invented(fake, tmp_path):
    summary, _ = fake([0.2], [0.4], ["skip both"], tmp_path, trained_reward="scene", quality="scene.clean")
    seen = summary["rewards"]["scene"]
    assert (seen["scored"], seen["unscored"]) == (0, 1)
    assert "win_rate" not in seen
    assert summary["corrected"] is None


def test_corrected_score_is_r_times_u_minus_three_plus_a_fifth(fake, tmp_path):
    """Wang et al. 2026: r (u - 3) + 0.2, u on 1 to 5; here u = 1 + 4 quality, quality = r."""
    base, aligned = [0.0, 0.5], [1.0, 0.5]
    summary, _ = fake(base, aligned, ["a", "b"], tmp_path, trained_reward="scene", quality="scene.clean")
    corrected = [[plain(r) * (1 + 4 * plain(r) - 3) + 0.2 for r in side] for side in (base, aligned)]
    seen = summary["corrected"]
    assert seen["base_mean"] == pytest.approx(np.mean(corrected[0]), abs=1e-5)
    assert seen["aligned_mean"] == pytest.approx(np.mean(corrected[1]), abs=1e-5)
    assert seen["difference"] == pytest.approx(np.mean(corrected[1]) - np.mean(corrected[0]), abs=1e-5)
    assert seen.keys() >= {"reward", "quality", "formula", "low", "high"}
    assert summary["rewards"]["scene"]["trained_on"] is True
    assert summary["rewards"]["jpeg"]["trained_on"] is False


def test_corrected_score_leaves_unscored_prompts_out(fake, tmp_path):
    prompts = ["a", "skip both"]
    summary, _ = fake([0.5, 0.0], [1.0, 0.0], prompts, tmp_path, trained_reward="jpeg", quality="scene.clean")
    assert summary["corrected"]["aligned_mean"] == pytest.approx(1 * (5 - 3) + 0.2, abs=1e-5)


def test_quality_outside_zero_to_one(fake, tmp_path):
    with pytest.raises(ConfigError, match=r"evaluation.quality: must be a component in \[0, 1\], and scene.big is not"):
        fake([0.9], [0.9], ["a"], tmp_path, trained_reward="scene", quality="scene.big")
    assert not (tmp_path / "evaluation").exists()


def test_unknown_quality_is_found_before_anything_is_drawn():
    config = EvaluationConfig(rewards=REWARDS, trained_reward="scene", quality="scene.claen")
    with pytest.raises(
        ConfigError, match=r"'scene' has no component 'claen'; it has .*clean.*; did you mean scene.clean"
    ):
        check_quality(config)
    check_quality(EvaluationConfig(rewards=REWARDS, trained_reward="scene", quality="scene.clean"))
    check_quality(EvaluationConfig())


def test_no_prompts(fake, tmp_path):
    with pytest.raises(ConfigError, match=r"evaluation.prompts: names no prompts to compare on"):
        fake([], [], [], tmp_path)


def test_evaluating_again_replaces_and_a_failure_keeps_the_old(fake, tmp_path):
    fake([0.1, 0.2], [0.2, 0.3], ["a", "b"], tmp_path)
    fake([0.1], [0.2], ["a"], tmp_path)
    assert {path.name for path in (tmp_path / "evaluation" / "base").iterdir()} == {"00000.png"}
    before = (tmp_path / "evaluation" / "summary.json").read_bytes()
    with pytest.raises(ConfigError):
        fake([0.9], [0.9], ["a"], tmp_path, trained_reward="scene", quality="scene.big")
    assert (tmp_path / "evaluation" / "summary.json").read_bytes() == before


# ---------------------------------------------------------------- with the zoo's model


def test_untrained_adapter_changes_nothing(generator, tmp_path):
    """B is 0: all differences are exactly 0, everything ties."""
    told: list[tuple[int, int]] = []
    config = EvaluationConfig(rewards=REWARDS, seed=3, resamples=200, trained_reward="scene", quality="scene.clean")
    summary = evaluate(generator, PROMPTS, config, tmp_path, progress=lambda *done: told.append(done))
    for name in ("scene", "jpeg"):
        seen = summary["rewards"][name]
        assert (seen["difference"], seen["low"], seen["high"]) == (0.0, 0.0, 0.0)
        assert (seen["wins"], seen["ties"], seen["losses"], seen["win_rate"]) == (0, 3, 0, 0.5)
    assert summary["corrected"]["difference"] == 0
    assert summary["diversity"]["base"] == summary["diversity"]["aligned"] > 0
    assert told == [(2, 6), (3, 6), (5, 6), (6, 6)]
    for number in range(3):
        pair = [(tmp_path / "evaluation" / side / f"{number:05d}.png").read_bytes() for side in ("base", "aligned")]
        assert pair[0] == pair[1]


def test_schema_of_summary_and_records(generator, tmp_path):
    config = EvaluationConfig(rewards=REWARDS, seed=3, resamples=200, trained_reward="scene")
    summary = evaluate(generator, PROMPTS, config, tmp_path)
    assert json.loads((tmp_path / "evaluation" / "summary.json").read_text("utf-8")) == summary
    assert summary.keys() == {
        "prompts", "members", "pictures", "seed", "guidance_scale", "sampler", "confidence", "resamples", "trained_reward",
        "rewards", "corrected", "diversity", "seconds",
    }  # fmt: skip
    assert (summary["prompts"], summary["sampler"]) == (3, {"name": "DDIM", "steps": 2})
    assert summary["rewards"]["jpeg"]["range"][0] is None or math.isfinite(summary["rewards"]["jpeg"]["range"][0])
    rows = read_rows(tmp_path)
    assert [(row["id"], row["prompt"], row["seed"]) for row in rows] == [
        (f"{number:05d}", prompt, 3 + number) for number, prompt in enumerate(PROMPTS)
    ]
    for row in rows:
        assert row.keys() == {"id", "prompt", "seed", "base", "aligned", "rewards"}
        assert all(len(scores) == 2 for scores in row["rewards"].values())
        for side in ("base", "aligned"):
            with Image.open(tmp_path / row[side]) as picture:
                assert picture.size == (32, 32)
    assert not (tmp_path / ".evaluation.partial").exists()


def test_pictures_do_not_depend_on_their_batch(generator, tmp_path):
    config, file = EvaluationConfig(rewards=REWARDS, resamples=50), tmp_path / "evaluation" / "base" / "00001.png"
    evaluate(generator, PROMPTS[:2], config, tmp_path)
    whole = np.asarray(Image.open(file)).astype(int)
    evaluate(replace(generator, batch=1), PROMPTS[:2], config, tmp_path)
    assert np.abs(np.asarray(Image.open(file)) - whole).max() <= 1


def test_prompt_outside_the_grammar_is_unscored_by_scene_alone(generator, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        summary = evaluate(
            generator, ["a red circle", "a cat"], EvaluationConfig(rewards=REWARDS, resamples=50), tmp_path
        )
    assert summary["rewards"]["scene"]["unscored"] == 1
    assert "not of the scene grammar" in next(iter(summary["rewards"]["scene"]["reasons"]))
    assert summary["rewards"]["jpeg"]["unscored"] == 0


def test_pictures_leave_memory_batch_by_batch(fake, tmp_path, monkeypatch):
    """When a batch is drawn, no picture of an earlier one is held any more."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    original = FakeGenerator.__call__

    def call(self: FakeGenerator, prompts: Sequence[str], seeds: Sequence[int], *, view: str) -> Iterator[torch.Tensor]:
        for batch in original(self, prompts, seeds, view=view):
            gc.collect()
            alive.append(sum(each() is not None for each in held))
            large = batch[..., :1, :1].repeat(1, 1, 100, 80)
            held.append(weakref.ref(large.untyped_storage()))
            yield large
            del large

    monkeypatch.setattr(FakeGenerator, "__call__", call)
    summary, _ = fake([0.1, 0.2, 0.3, 0.4, 0.5], [0.1] * 5, list("abcde"), tmp_path)
    assert max(alive) <= 1  # the one that has just been scored
    assert summary["rewards"]["scene"]["scored"] == 5
    assert "thumbnails" in summary["diversity"]["measure"]
    assert summary["diversity"]["base"] == pytest.approx(0.2, rel=1e-4)
    assert summary["diversity"]["aligned"] == 0
    with Image.open(tmp_path / "evaluation" / "base" / "00004.png") as picture:
        assert picture.size == (80, 100)
