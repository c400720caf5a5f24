"""Several rewards as one: the card's numbers, scales, and what is unscored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import (
    JPEGReward,
    RewardEnsemble,
    RewardServer,
    Sample,
    SceneReward,
    cached,
    combine_rewards,
    load_reward,
    reward_of_text,
)
from diffalign.rewards.pictures import as_pixels
from diffalign.rewards.wire import pack_sample, pack_samples, read_judged

MEMBERS = torch.tensor([[0.7], [0.4], [0.9], [0.6]])


def test_the_card_s_numbers():
    assert combine_rewards(MEMBERS).item() == pytest.approx(0.65)
    assert combine_rewards(MEMBERS, "worst").item() == pytest.approx(0.40)
    assert combine_rewards(MEMBERS, "uncertainty", penalty=0.5).item() == pytest.approx(0.633750)


def test_weights_are_shares():
    values = torch.tensor([[1.0], [3.0]])
    assert combine_rewards(values, weights=[3.0, 1.0]).item() == pytest.approx(1.5)
    spread = 0.75 * 0.25 + 0.25 * 2.25
    assert combine_rewards(values, "uncertainty", weights=[3.0, 1.0], penalty=2.0).item() == pytest.approx(
        1.5 - 2 * spread
    )


@pytest.mark.parametrize("combine", ["mean", "worst", "uncertainty"])
def test_nan_of_one_is_nan_of_all(combine):
    values = torch.tensor([[1.0, math.nan], [2.0, 5.0]])
    assert combine_rewards(values, combine).isnan().tolist() == [False, True]


def samples(count: int = 4) -> list[Sample]:
    draw = np.random.default_rng(0)
    return [
        Sample(draw.integers(0, 255, (16, 16 + 4 * k, 3), dtype=np.uint8), "a red circle", id=str(k))
        for k in range(count)
    ]


def test_scores_reasons_and_components():
    both = RewardEnsemble([JPEGReward(), SceneReward(form="graded")], weights=[1.0, 3.0])
    batch = [*samples(2), Sample(samples(1)[0].media, "no scene", id="x")]
    output = both.score(batch)
    alone = [reward.score(batch).values for reward in both.rewards]
    torch.testing.assert_close(output.values[:2], 0.25 * alone[0][:2] + 0.75 * alone[1][:2])
    assert output.values[2].isnan() and output.reasons[2] is not None and output.reasons[2].startswith("scene: ")
    torch.testing.assert_close(output.components["jpeg"][:2], alone[0][:2])
    assert output.components["jpeg"][2].isnan()
    assert both.spec.needs == ("prompt",)
    called = both([sample.media for sample in batch], [sample.prompt for sample in batch])
    torch.testing.assert_close(called, output.values, equal_nan=True)


def test_it_is_remembered_and_served_as_any_reward(tmp_path):
    both, batch = RewardEnsemble([JPEGReward(), SceneReward(form="graded")]), samples(3)
    expected = both.score(batch)
    for _ in range(2):
        kept = cached(both, tmp_path)
        torch.testing.assert_close(kept.score(batch).values, expected.values)
    assert kept.known == 3
    with RewardServer({"both": both}, port=0) as server:
        packed = [pack_sample(as_pixels(each.media), each, both.spec) for each in batch]
        judged = server.judge(pack_samples(packed, rewards=["both"]))
    values = [each[0] for each in read_judged(judged, "both", 3)[1]]
    torch.testing.assert_close(torch.tensor(values), expected.values)


def test_fitted_members_are_on_one_scale():
    batch = samples(6)
    both = RewardEnsemble([JPEGReward(), JPEGReward(direction="incompressible")]).fitted(batch)
    torch.testing.assert_close(both.score(batch).values, torch.zeros(6), atol=1e-5, rtol=0)
    worst = RewardEnsemble(both.rewards, combine="worst", scale=both.scale).score(batch).values
    raw = JPEGReward().score(batch).values
    torch.testing.assert_close(worst, -((raw - raw.mean()) / raw.std(correction=0)).abs(), atol=1e-5, rtol=1e-5)
    assert both.names == ("jpeg-1", "jpeg-2")
    with pytest.raises(DataError, match="jpeg-1: no two of 1 samples have different scores"):
        both.fitted(batch[:1])


def test_version_changes_with_all_that_changes_the_number():
    rewards = [JPEGReward(), SceneReward()]
    made = [
        RewardEnsemble(rewards), RewardEnsemble(rewards, combine="worst"), RewardEnsemble(rewards, weights=[1.0, 2.0]),
        RewardEnsemble(rewards, scale=[(0.0, 1.0), (0.0, 2.0)]), RewardEnsemble([JPEGReward(quality=50), SceneReward()]),
    ]  # fmt: skip
    assert len({each.spec.version for each in made}) == len(made)
    assert RewardEnsemble(rewards).spec.version == made[0].spec.version


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": [1.0]}, "weights: must be 2, one a reward, got 1"),
        ({"weights": [1.0, -1.0]}, "weights: must be finite, not negative"),
        ({"weights": [1.0, 1.0], "combine": "worst"}, "weights: worst takes none"),
        ({"scale": [(0.0, 1.0), (0.0, 0.0)]}, "scale: must be 2 pairs"),
        ({"penalty": -1.0}, "penalty: must be finite and not negative"),
        ({"penalty": math.nan}, "penalty: must be finite and not negative"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ConfigError, match=says):
        RewardEnsemble([JPEGReward(), SceneReward()], **options)
    with pytest.raises(ConfigError, match="two or more, got 1"):
        RewardEnsemble([JPEGReward()])


def test_reward_from_one_line():
    assert reward_of_text("jpeg").spec == load_reward("jpeg").spec
    made = reward_of_text("jpeg:quality=80, direction=incompressible")
    assert made.spec == load_reward("jpeg", quality=80, direction="incompressible").spec
    for text, says in (
        ("jpeg:quality", "after the colon stand options"),
        ("vlm_judge:model=x,scale=0,90", "'90' is no option=value; where a value has a comma in it"),
        ("learned", "learned.path: required, but missing: give it as learned:path=VALUE"),
        ("jpg", "did you mean 'jpeg'"),
        ("jpeg:q=1", "unknown"),
    ):
        with pytest.raises(ConfigError, match=says):
            reward_of_text(text)
