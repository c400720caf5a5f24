"""Best of n: which picture is kept, from which seeds, and what an unscored one does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffalign.exceptions import ConfigError, DataError
from diffalign.pipelines import BestOf, ImageGenerator, best_of_n, draw_pictures
from diffalign.rewards import JPEGReward, RewardEnsemble, SampleReward, load_reward
from tests.backbones.models import load
from tests.pipelines.shades import shades


class ByShade(SampleReward):
    """A reward of the picture's shade alone."""

    components = ()
    spec = JPEGReward().spec

    def __init__(self, judge: Callable[[int], float]) -> None:
        self._judge = judge

    def judge(self, pixels: Any, sample: Any) -> tuple[float, dict[str, float]]:
        value = self._judge(int(pixels[0, 0, 0]))
        if math.isnan(value):
            raise DataError("no number for it")
        return value, {}


def kept(pictures: torch.Tensor) -> list[int]:
    return [round(float(picture[0, 0, 0]) * 255) for picture in pictures]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_highest_reward_is_kept(batch):
    table = {10: 0.1, 11: 0.9, 12: 0.3, 13: 0.2, 14: 0.2, 15: 0.8}
    generator = shades(batch=batch)
    found = best_of_n(generator, ["one", "two"], ByShade(table.__getitem__), 3, seed=10)
    assert generator.drawn == [10, 11, 12, 13, 14, 15]
    assert kept(found.pictures) == [11, 15]
    assert found.chosen.tolist() == [1, 2]
    torch.testing.assert_close(found.scores, torch.tensor([[0.1, 0.9, 0.3], [0.2, 0.2, 0.8]]))


def test_of_equal_ones_the_lower_seed_and_never_an_unscored_one():
    table = {0: math.nan, 1: 0.5, 2: 0.5, 3: -1.0, 4: math.nan, 5: -2.0}
    found = best_of_n(shades(), ["one", "two"], ByShade(table.__getitem__), 3)
    assert kept(found.pictures) == [1, 3]
    assert found.scores.isnan().tolist() == [[True, False, False], [False, True, False]]


def test_prompt_of_which_nothing_can_be_scored_is_named():
    with pytest.raises(DataError, match=r"prompt 'two': none of 2 pictures could be scored: no number for it"):
        best_of_n(shades(), ["one", "two"], ByShade(lambda shade: math.nan if shade > 1 else 1.0), 2)


def test_one_text_is_no_list_of_prompts():
    with pytest.raises(ConfigError, match="give a list of texts, got the one text 'a red circle'"):
        best_of_n(shades(), "a red circle", ByShade(float), 2)


def test_ensemble_chooses():
    rewards = [ByShade(lambda shade: float(shade)), ByShade(lambda shade: 1.0 if shade == 1 else 0.0)]
    assert best_of_n(shades(), ["x"], RewardEnsemble(rewards), 4).chosen.tolist() == [3]
    assert best_of_n(shades(), ["x"], RewardEnsemble(rewards, combine="worst"), 4).chosen.tolist() == [1]


def test_generator_of_the_best_draws_into_a_folder_and_is_gone_on_with(tmp_path):
    reward = ByShade(lambda shade: -abs(shade - 5.0))
    inner = shades(backbone=load("sd", lora=None))
    rows = draw_pictures(BestOf.of(inner, reward, 4), ["one", "two"], tmp_path, source="m")
    assert inner.drawn == list(range(8))
    assert (rows[0]["best_of"], rows[0]["chosen_by"]) == (4, f"jpeg {reward.spec.version}")
    inner.drawn.clear()
    draw_pictures(BestOf.of(inner, reward, 4), ["one", "two"], tmp_path, source="m")
    assert inner.drawn == []
    (tmp_path / "000001.png").unlink()
    draw_pictures(BestOf.of(inner, reward, 4), ["one", "two"], tmp_path, source="m")
    assert inner.drawn == [4, 5, 6, 7]
    assert [json.loads(line)["id"] for line in (tmp_path / "metadata.jsonl").read_text().splitlines()] == [
        "000000",
        "000001",
    ]


def test_refusals():
    with pytest.raises(ConfigError, match="n: must be at least 1, got 0"):
        best_of_n(shades(), ["x"], JPEGReward(), 0)
    with pytest.raises(ConfigError, match="psnr needs a reference beside each picture"):
        best_of_n(shades(), ["x"], load_reward("psnr"), 2)
    with pytest.raises(ConfigError, match="stability judges shapes, and the model draws pictures"):
        best_of_n(shades(), ["x"], load_reward("stability"), 2)
    with pytest.raises(ConfigError, match="prompts: there are none"):
        best_of_n(shades(), [], JPEGReward(), 2)
    with pytest.raises(ConfigError, match=r"seed: .* is too large for the best of 4"):
        next(BestOf.of(shades(backbone=load("sd", lora=None)), JPEGReward(), 4)(["x"], [2**62]))


def test_real_model_and_reward():
    """The zoo: the graded scene reward of the best of 3 is the highest of the three that generate draws."""
    generator = ImageGenerator.create(load("sd", lora=None), steps=2)
    reward = load_reward("scene", form="graded")
    prompts = ["a red circle", "a blue square"]
    found = best_of_n(generator, prompts, reward, 3, seed=1, view="reference")
    six = next(generator([prompt for prompt in prompts for _ in range(3)], range(1, 7), view="reference"))
    scores = reward(six, [prompt for prompt in prompts for _ in range(3)]).reshape(2, 3)
    torch.testing.assert_close(found.scores, scores)
    torch.testing.assert_close(found.pictures, six.reshape(2, 3, *six.shape[1:])[torch.arange(2), found.chosen])
