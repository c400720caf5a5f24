"""Advantages: conventions, missing rewards, groups that say nothing, and several rewards as one."""

from __future__ import annotations

import pytest
import torch

from diffalign.exceptions import ConfigError, ShapeError
from diffalign.objectives.advantages import (
    CONVENTIONS,
    Convention,
    aggregated_advantage,
    decoupled_advantage,
    ensemble_mean,
    ensemble_uncertainty_weighted,
    ensemble_worst_case,
    global_advantage,
    group_advantage,
    leave_one_out_advantage,
)

NAN = torch.nan
every = pytest.mark.parametrize(
    "advantage",
    [
        lambda reward: group_advantage(reward, convention="flow_grpo"),
        lambda reward: group_advantage(reward, convention="dance_grpo"),
        lambda reward: global_advantage(reward, convention="flow_grpo"),
        leave_one_out_advantage,
        lambda reward: aggregated_advantage(reward[None], weights=[1.0], convention="dance_grpo"),
        lambda reward: decoupled_advantage(reward[None], weights=[1.0], convention="gdpo"),
    ],
    ids=["group", "group_ddof1", "global", "leave_one_out", "aggregated", "decoupled"],
)


@pytest.fixture
def reward(generator):
    return torch.rand(3, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_group_advantage_is_its_formula(name, reward):
    rule = CONVENTIONS[name]
    std = reward.std(1, correction=rule.ddof, keepdim=True)
    below = std + rule.epsilon if rule.form == "add" else std.clamp(min=rule.epsilon)
    expected = (reward - reward.mean(1, keepdim=True)) / below
    torch.testing.assert_close(group_advantage(reward, convention=name).values, expected)
    torch.testing.assert_close(group_advantage(reward, convention=rule).values, expected)
    everywhere = reward.std(correction=rule.ddof)
    below = everywhere + rule.epsilon if rule.form == "add" else everywhere.clamp(min=rule.epsilon)
    expected = (reward - reward.mean(1, keepdim=True)) / below
    torch.testing.assert_close(global_advantage(reward, convention=name).values, expected)


def test_leave_one_out_by_hand():
    values = leave_one_out_advantage(torch.tensor([[1.0, 2.0, 6.0]])).values
    torch.testing.assert_close(values, torch.tensor([[1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5]]))


@every
def test_order_and_sum(advantage, reward):
    out = advantage(reward)
    torch.testing.assert_close(advantage(reward.flip(0)).values, out.values.flip(0))
    torch.testing.assert_close(advantage(reward.flip(1)).values, out.values.flip(1))
    torch.testing.assert_close(out.values.sum(1), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(out.values.argsort(1), reward.argsort(1))
    assert out.informative.all() and out.silent_groups == 0 and out.unscored == 0
    torch.testing.assert_close(advantage(reward + 5.0).values, out.values)


@every
def test_unscored_members_are_masked_and_counted(advantage, reward):
    with_gap = torch.cat([reward, torch.full((3, 1), NAN, dtype=torch.float64)], dim=1)
    out = advantage(with_gap)
    torch.testing.assert_close(out.values[:, :4], advantage(reward).values)
    assert not out.values[:, 4].any() and out.unscored == 3 and out.silent_groups == 0


@every
def test_silent_groups_are_skipped_and_counted(advantage, reward):
    # 0.1 in float32: its mean is not exactly 0.1, and rounding noise over 1e-8 would be an advantage of order 1
    silent = torch.tensor([[0.1] * 4, [0.3, NAN, NAN, NAN], [NAN] * 4])
    out = advantage(torch.cat([reward.float(), silent]))
    assert out.informative.tolist() == [True] * 3 + [False] * 3
    assert out.silent_groups == 3 and out.unscored == 7
    assert not out.values[3:].any() and out.values.isfinite().all()
    assert not advantage(silent).values.any()


def test_groups_that_hardly_differ_are_skipped_on_request():
    reward = torch.tensor([[0.5, 0.5 + 1e-6], [0.0, 1.0]], dtype=torch.float64)
    blown_up = group_advantage(reward, convention="dance_grpo").values[0]
    assert blown_up.abs().max() > 0.6
    out = group_advantage(reward, convention="dance_grpo", min_std=1e-3)
    assert out.informative.tolist() == [False, True] and not out.values[0].any()
    alone = global_advantage(reward[:1], convention="flow_grpo", min_std=1e-3)
    assert alone.silent_groups == 1


def test_infinite_rewards_spoil_their_group_alone(reward):
    reward[1, 2] = torch.inf
    values = group_advantage(reward, convention="flow_grpo").values
    assert values.isnan().any(1).tolist() == [False, True, False]


def test_aggregation_is_a_weighted_mean_of_advantages(reward):
    several = torch.stack([reward, 100 * reward.flip(1)])
    each = [group_advantage(one, convention="dance_grpo").values for one in several]
    out = aggregated_advantage(several, weights=[3.0, 1.0], convention="dance_grpo")
    torch.testing.assert_close(out.values, 0.75 * each[0] + 0.25 * each[1])


def test_decoupled_advantages_have_unit_spread_and_forget_scale(reward):
    several = torch.stack([reward, 100 * reward.flip(1)])
    out = decoupled_advantage(several, weights=[3.0, 1.0], convention=Convention(ddof=0, epsilon=0.0))
    torch.testing.assert_close(out.values.std(correction=0), torch.ones((), dtype=torch.float64))
    scaled = decoupled_advantage(several, weights=[30.0, 10.0], convention=Convention(ddof=0, epsilon=0.0))
    torch.testing.assert_close(scaled.values, out.values)


def test_decoupled_advantages_keep_or_skip_silent_groups(reward):
    several = torch.stack([reward, 100 * reward.flip(1)])
    beside = torch.cat([several, torch.full((2, 6, 4), 0.3, dtype=torch.float64)], dim=1)
    exact = Convention(ddof=0, epsilon=0.0)
    alone = decoupled_advantage(several, weights=[1.0, 1.0], convention=exact)
    kept = decoupled_advantage(beside, weights=[1.0, 1.0], convention=exact)
    skipped = decoupled_advantage(beside, weights=[1.0, 1.0], convention=exact, silent="skip")
    torch.testing.assert_close(skipped.values[:3], alone.values)
    torch.testing.assert_close(kept.values[:3], alone.values * 3**0.5)  # 9 groups share the deviation of 3
    for out in (kept, skipped):
        assert out.silent_groups == 6 and not out.values[3:].any()
    # global_advantage: the same factor between the two
    over_all = global_advantage(beside[0], convention=exact).values[:3]
    torch.testing.assert_close(over_all * beside[0].std(correction=0), reward - reward.mean(1, keepdim=True))


@pytest.mark.parametrize("combine", [aggregated_advantage, decoupled_advantage])
def test_a_reward_that_is_missing_or_silent_adds_nothing(combine, reward):
    silent, gaps = torch.full_like(reward, 0.1), torch.full_like(reward, NAN)
    exact = Convention(ddof=1, epsilon=1e-12)
    alone = combine(reward[None], weights=[1.0], convention=exact).values
    for other in (silent, gaps):
        out = combine(torch.stack([reward, other]), weights=[1.0, 1.0], convention=exact)
        torch.testing.assert_close(out.values / out.values.max(), alone / alone.max())
        assert out.unscored == 0 and out.silent_groups == 0  # one reward suffices
    nothing = combine(torch.stack([silent, gaps]), weights=[1.0, 1.0], convention="gdpo")
    assert nothing.silent_groups == 3 and not nothing.values.any()


def test_ensembles_want_every_score():
    reward = torch.tensor([[[1.0, 2.0, NAN]], [[3.0, 0.0, 1.0]]])
    torch.testing.assert_close(ensemble_mean(reward), torch.tensor([[2.0, 1.0, NAN]]), equal_nan=True)
    torch.testing.assert_close(ensemble_worst_case(reward), torch.tensor([[1.0, 0.0, NAN]]), equal_nan=True)
    penalised = ensemble_uncertainty_weighted(reward, penalty=0.5, ddof=0)
    torch.testing.assert_close(penalised, torch.tensor([[1.5, 0.5, NAN]]), equal_nan=True)
    unpenalised = ensemble_uncertainty_weighted(reward, penalty=0.0, ddof=1)
    torch.testing.assert_close(unpenalised, ensemble_mean(reward), equal_nan=True)


def test_refusals(reward, unchecked_types):
    with pytest.raises(ConfigError, match=r"convention: must be one of flow_grpo, .*gdpo_sr, got 'grpo'"):
        group_advantage(reward, convention="grpo")
    with pytest.raises(ConfigError, match="weights: must not sum to 0"):
        aggregated_advantage(reward[None], weights=[0.0], convention="gdpo")
    with pytest.raises(ConfigError, match="silent: must be skip or keep, got 'drop'"):
        decoupled_advantage(reward[None], weights=[1.0], convention="gdpo", silent="drop")
    with pytest.raises(ShapeError, match="2 weights for rewards of shape"):
        decoupled_advantage(reward[None], weights=[1.0, 1.0], convention="gdpo")
