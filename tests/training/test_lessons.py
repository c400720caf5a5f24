"""What a round's rewards teach: winners and losers without the tie trap, weights, several rewards as one."""

from __future__ import annotations

import pytest
import torch

from diffalign.data import Contrast
from diffalign.denoising import DenoisingErrors
from diffalign.rewards import load_reward
from diffalign.training.lessons import Lesson, combined, contrast_of_sets, lesson_of, round_figures
from diffalign.training.step_metrics import error_figures, half_sums, reward_sums, without_sums
from diffalign.types import Condition, GroupBatch
from tests.training.online import online

NAN = torch.nan
D3PO, DPO, NFT = ({"name": name} for name in ("d3po", "diffusion_dpo", "nft"))


def test_a_pair_is_the_best_and_the_worst_and_a_tie_is_none(tmp_path):
    """argmax and argmin of equal numbers are one member: trained on, it would be its own rival."""
    rewards = torch.tensor([[[0.2, 0.9, 0.1], [0.5, NAN, 0.7], [0.5, 0.5, 0.5], [NAN, 0.3, NAN]]])
    lesson = lesson_of(online(tmp_path, DPO, online={"members": 3}), rewards)
    assert lesson.order.tolist() == [[1, 2], [2, 0], [0, 1], [0, 1]]
    assert lesson.valid.tolist() == [True, True, False, False]


def test_a_ranking_needs_two_different_rewards_and_weights_need_two(tmp_path):
    rewards = torch.tensor([[[0.2, 0.9, 0.1], [0.5, 0.5, 0.5], [0.5, NAN, 0.5], [NAN, 0.3, NAN], [0.1, NAN, 0.2]]])
    for name in ("rank_dpo", "gdro"):
        lesson = lesson_of(online(tmp_path, {"name": name}, online={"members": 3}), rewards)
        assert lesson.valid.tolist() == lesson.informative.tolist() == [True, False, False, False, True]
        assert round_figures(lesson, rewards, ["scene"], None)["silent_prompts"] == 3.0
    weighted = lesson_of(online(tmp_path, {"name": "flow_rwr"}, "sd3", online={"members": 3}), rewards)
    assert weighted.valid.tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("name", ["diffusion_dpo", "rank_dpo", "sft"])
def test_a_zero_that_stands_for_a_missing_reward_is_not_counted_as_one(tmp_path, name):
    """Two prompts, one of them without any reward: mean and spread are those of the other."""
    rewards = torch.tensor([[[20.0, 22.0], [NAN, NAN]]])
    taught = lesson_of(online(tmp_path, {"name": name}), rewards).taught(
        slice(0, 2), [torch.Generator(), torch.Generator()]
    )
    batch = GroupBatch(torch.zeros(2, 2, 4), Condition({}), torch.ones(2, 2, dtype=torch.bool), (), taught.reward)
    assert taught.reward.isfinite().all()
    assert without_sums(reward_sums(batch, taught.told)) == pytest.approx({"reward_mean": 21, "reward_spread": 1})


def test_a_pair_is_drawn_anew_among_equals_where_rewards_chose_it_and_nowhere_else(tmp_path):
    rewards = torch.tensor([[[1.0, 0.0, 1.0, 0.0], [0.5, 0.9, 0.1, 0.2]]])
    lesson = lesson_of(online(tmp_path, {"name": "diffusion_dpo"}, online={"members": 4}), rewards)
    seen = [lesson.members(slice(0, 2), [torch.Generator().manual_seed(seed) for _ in range(2)]) for seed in range(60)]
    assert {tuple(order[0].tolist()) for order in seen} == {(0, 1), (0, 3), (2, 1), (2, 3)}
    assert {tuple(order[1].tolist()) for order in seen} == {(1, 2)}
    set_chosen = Contrast(torch.tensor([2, 1]), torch.tensor([3, 0]), torch.tensor([True, True]))
    dragon = online(tmp_path, {"name": "dragon"}, online={"members": 4})
    fixed = lesson_of(dragon, rewards, set_chosen)
    draws = [torch.Generator(), torch.Generator()]
    assert fixed.members(slice(0, 2), draws).tolist() == [[2, 3], [1, 0]]


def test_winners_of_prompts_that_say_nothing_are_not_counted():
    errors = DenoisingErrors(torch.tensor([[1.0, 2.0], [7.0, 9.0]]), None, torch.zeros(2, 2), {}, None)
    batch = GroupBatch(torch.zeros(2, 2, 4), Condition({}), torch.ones(2, 2, dtype=torch.bool), ("a", "b"))
    assert error_figures(errors, batch) == {"winner_error": 4.0, "loser_error": 5.5}
    assert error_figures(errors, batch, torch.tensor([2.0, 0.0])) == {"winner_error": 1.0, "loser_error": 2.0}


def test_errors_of_good_and_bad_are_means_over_the_members_of_a_step_and_none_where_there_are_none():
    errors = DenoisingErrors(torch.tensor([[1.0, 2.0, 3.0], [7.0, 9.0, 5.0]]), None, torch.zeros(2, 3), {}, None)
    label = torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, -1.0]])
    batch = GroupBatch(torch.zeros(2, 3, 4), Condition({}), torch.ones(2, 3, dtype=torch.bool), ("a", "b"), label=label)
    sums = half_sums(errors, batch)
    told = without_sums({"good_error": 9.9, "bad_error": 9.9, "loss": 0.5, **sums})
    assert told == {"loss": 0.5, "good_error": 1.0, "bad_error": pytest.approx((2 + 7 + 9 + 5) / 4)}
    none_good = without_sums(
        {"good_error": 0.0, "bad_error": 9.9, **half_sums(errors, batch, torch.tensor([0.0, 1.0]))}
    )
    assert none_good == {"bad_error": 7.0}
    pair = GroupBatch(torch.zeros(2, 2, 4), Condition({}), torch.ones(2, 2, dtype=torch.bool), ("a", "b"))
    pairs = DenoisingErrors(errors.policy[:, :2], None, torch.zeros(2, 2), {}, None)
    assert without_sums(half_sums(pairs, pair, torch.tensor([2.0, 0.0]))) == {"good_error": 1.0, "bad_error": 2.0}


def test_weights_make_a_steps_mean_one_over_its_valid_groups():
    valid = torch.tensor([True, False, True, True, False, False, True, False])
    lesson = Lesson(torch.zeros(8, 2), torch.zeros(8, 2, dtype=torch.long), valid)
    weights = lesson.weights(4)
    assert weights is not None
    losses = torch.arange(8.0)
    for step in (slice(0, 4), slice(4, 8)):
        expected = losses[step][valid[step]].mean()
        torch.testing.assert_close((losses[step] * weights[step]).mean(), expected)
    assert Lesson(lesson.reward, lesson.order, torch.ones(8, dtype=torch.bool)).weights(4) is None


def test_a_step_without_valid_groups_weighs_nothing():
    weights = Lesson(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, dtype=torch.bool)).weights(
        2
    )
    assert weights is not None and not weights.any()


def test_weighted_sum_leaves_out_a_reward_of_weight_zero():
    rewards = torch.tensor([[[1.0, 2.0]], [[NAN, 4.0]]])
    assert combined(rewards, [1.0, 0.0], "sum").tolist() == [[1.0, 2.0]]
    assert combined(rewards, [1.0, 0.5], "sum")[0, 1] == 4.0
    assert combined(rewards, [1.0, 0.5], "sum").isnan().tolist() == [[True, False]]


def test_d3po_prefers_by_reward_or_by_all_rewards(tmp_path):
    rewards = torch.tensor([[[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]], [[2.0, 1.0], [1.0, 2.0], [3.0, 3.0]]])
    two = [{"name": "scene"}, {"name": "jpeg"}]
    summed = lesson_of(online(tmp_path, D3PO, online={"rewards": two}), rewards)
    assert summed.order.tolist() == [[0, 1], [1, 0], [0, 1]] and summed.valid.tolist() == [True, True, False]
    pareto = lesson_of(online(tmp_path, D3PO, online={"rewards": two, "combine": "pareto"}), rewards)
    assert pareto.order[0].tolist() == [0, 1]
    assert pareto.valid.tolist() == [True, False, False]


def test_an_unscored_picture_makes_no_preference(tmp_path):
    lesson = lesson_of(online(tmp_path, D3PO), torch.tensor([[[NAN, 0.4], [0.6, 0.4]]]))
    assert lesson.valid.tolist() == [False, True]


def test_advantages_are_by_group_or_by_batch(tmp_path):
    """The card's numbers of flow_grpo: group and global standard deviation."""
    rewards = torch.tensor([[[0.2, 0.4, 0.9, 0.5], [0.1, 0.1, 0.3, 0.1]]])
    config = online(tmp_path, NFT, family="sd3", online={"members": 4})
    expected = torch.tensor([-1.176235, -0.392078, 1.568314, 0.0])
    torch.testing.assert_close(lesson_of(config, rewards).advantage[0], expected, atol=1e-5, rtol=0)
    config = online(tmp_path, NFT, family="sd3", online={"members": 4, "advantage": {"scope": "batch"}})
    expected = torch.tensor([[-1.159635, -0.386545, 1.546180, 0.0], [-0.193273, -0.193273, 0.579818, -0.193273]])
    torch.testing.assert_close(lesson_of(config, rewards).advantage, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("combine", ["standardised", "decoupled"])
def test_several_rewards_make_advantages_each_on_its_own_scale(tmp_path, combine):
    """Without them the reward with the larger numbers would decide alone."""
    rewards = torch.tensor([[[1.0, 0.0, 1.0, 0.0]], [[0.0, 1000.0, 1000.0, 0.0]]])
    two = [{"name": "scene"}, {"name": "jpeg"}]
    config = online(tmp_path, NFT, family="sd3", online={"members": 4, "rewards": two, "combine": combine})
    advantage = lesson_of(config, rewards).advantage[0]
    assert advantage[2] > 0 > advantage[3]
    torch.testing.assert_close(advantage[0], advantage[1], atol=1e-3, rtol=0)


def test_members_stand_by_falling_reward_with_the_unscored_last(tmp_path):
    lesson = lesson_of(online(tmp_path, NFT, family="sd3", online={"members": 3}), torch.tensor([[[0.1, NAN, 0.8]]]))
    assert lesson.order.tolist() == [[2, 0, 1]] and lesson.advantage[0, 1] == 0


def test_a_round_of_which_no_sets_can_be_made_teaches_nothing(tmp_path):
    """Neither the features of a prompt's two pictures nor their quality are all there: no error, and nobody learns."""
    judged = {"set_reward": {"name": "vendi"}, "quality_weight": 1.0}
    config = online(tmp_path, DPO, online=judged)
    features, quality = torch.zeros(3, 2, 4, dtype=torch.float64), torch.full((1, 3, 2), torch.nan)
    features[0, 1] = torch.nan
    found = contrast_of_sets(config, load_reward("vendi"), features, quality)
    lesson = lesson_of(config, quality, found.contrast)
    assert not lesson.valid.any() and found.swaps == 0
    assert "positive_set" not in round_figures(lesson, quality, ["scene"], found)
