"""GDRO: values by hand, gradients, symmetries, ties, members left out, and the limits that are other losses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import diffusion_dpo, gdro

OPTIONS = {"beta": 3.0, "tau": 0.5, "gamma": 0.0, "ranking": "full", "ties": "order", "normalise": "none"}
every = pytest.mark.parametrize(
    "options", [{}, {"ties": "average"}, {"ranking": "top1"}, {"tau": 0.0}, {"gamma": 0.7}, {"normalise": "steps"}]
)


def _gdro(policy, reference, reward, valid=None, **options):
    return gdro(policy, reference=reference, reward=reward, valid=valid, **(OPTIONS | options))


@every
def test_gradient_is_right_and_none_goes_astray(options, batch):
    policy, reference, reward = batch
    policy.requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: _gdro(seen, reference, reward, **options).loss, policy)
    output = _gdro(policy, reference, reward, **options)
    assert output.loss.shape == (3,)
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


def test_starts_at_log_of_the_number_of_orders(batch):
    policy, _, reward = batch
    output = _gdro(policy, policy, reward)
    torch.testing.assert_close(output.loss, torch.full((3,), math.log(24), dtype=torch.float64))
    assert output.metrics["margin"] == 0 and output.metrics["pair_accuracy"] == 0
    top = _gdro(policy, policy, reward, ranking="top1")
    torch.testing.assert_close(top.loss, torch.full((3,), math.log(4), dtype=torch.float64))


def test_descent_lowers_the_best_and_raises_the_worst(batch):
    policy, _, reward = batch
    policy.requires_grad_()
    gradient = torch.autograd.grad(_gdro(policy, policy.detach(), reward, tau=0.05).loss.sum(), policy)[0]
    best, worst = reward.argmax(1, keepdim=True), reward.argmin(1, keepdim=True)
    assert (gradient.gather(1, best) > 0).all() and (gradient.gather(1, worst) < 0).all()
    torch.testing.assert_close(gradient.sum(1), torch.zeros(3, dtype=torch.float64))  # within a group they cancel


@pytest.mark.parametrize("ranking", ["full", "top1"])
def test_the_optimum_is_the_reward_over_tau(ranking, batch):
    _, reference, reward = batch
    policy = (reference - (reward / 0.5 + 7.0) / 3.0).requires_grad_()  # s = reward / tau + const
    output = _gdro(policy, reference, reward, ranking=ranking)
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    torch.testing.assert_close(output.metrics["margin"], output.metrics["reward_margin"] / 0.5)
    assert output.metrics["pair_accuracy"] == 1


@every
@pytest.mark.parametrize("order", [[1, 0, 3, 2], [3, 2, 1, 0]])
def test_the_order_of_members_and_groups_does_not_matter(options, order, batch):
    plain = _gdro(*batch, **options)
    members = _gdro(*(value[:, order] for value in batch), **options)
    torch.testing.assert_close(members.loss, plain.loss)
    for name, value in plain.metrics.items():
        torch.testing.assert_close(members.metrics[name], value)
    groups = [2, 0, 1]
    torch.testing.assert_close(_gdro(*(value[groups] for value in batch), **options).loss, plain.loss[groups])


def test_two_members_without_temperature_are_dpo(batch):
    policy, reference, _ = (value[:, :2] for value in batch)
    better_first = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    dpo = diffusion_dpo(policy, reference=reference, beta=2 * 3.0).loss  # which halves its beta
    for tau in (0.0, 1e-9):
        torch.testing.assert_close(_gdro(policy, reference, better_first, tau=tau).loss, dpo)
    worse_first = better_first.flip(1)
    swapped = diffusion_dpo(policy.flip(1), reference=reference.flip(1), beta=2 * 3.0).loss
    torch.testing.assert_close(_gdro(policy, reference, worse_first, tau=0.0).loss, swapped)


@pytest.mark.parametrize("ties", ["order", "average"])
def test_without_temperature_it_is_the_plain_ranking_loss(ties, batch):
    policy, reference, reward = batch
    score = (3.0 * (reference - policy)).gather(1, reward.argsort(1, descending=True))
    plackett_luce = sum(score[:, i:].logsumexp(1) - score[:, i] for i in range(3))
    torch.testing.assert_close(_gdro(policy, reference, reward, tau=0.0, ties=ties).loss, plackett_luce)
    torch.testing.assert_close(_gdro(policy, reference, reward, tau=1e-6, ties=ties).loss, plackett_luce)


def test_equal_rewards_pull_to_nowhere_at_the_reference(batch):
    policy = batch[0].requires_grad_()
    gradient = torch.autograd.grad(
        _gdro(policy, policy.detach(), torch.ones_like(policy), ties="average").loss.sum(), policy
    )
    torch.testing.assert_close(gradient[0], torch.zeros_like(gradient[0]))


@pytest.mark.parametrize("tau", [0.0, 0.3])
@pytest.mark.parametrize(
    "reward", [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0], [3.0, 2.0, 2.0, 1.0]]
)
def test_average_is_the_mean_over_all_orders_of_the_tied(reward, tau, batch):
    policy, reference, _ = batch
    reward = torch.tensor([reward] * 3, dtype=torch.float64)
    losses = [
        _gdro(policy[:, order], reference[:, order], reward[:, order], tau=tau, gamma=0.3).loss
        for order in map(list, itertools.permutations(range(4)))
    ]
    average = _gdro(policy, reference, reward, tau=tau, gamma=0.3, ties="average").loss
    torch.testing.assert_close(average, torch.stack(losses).mean(0))


def test_regulariser_is_the_error_of_the_best(batch):
    policy, reference, reward = batch
    with_it, without = _gdro(policy, reference, reward, gamma=0.7), _gdro(policy, reference, reward)
    best = policy.gather(1, reward.argmax(1, keepdim=True))[:, 0]
    torch.testing.assert_close(with_it.loss - without.loss, 0.7 * best)
    torch.testing.assert_close(with_it.metrics["best_error"], best.mean())
    tied = torch.ones_like(reward)
    first = _gdro(policy, reference, tied, gamma=0.7).loss - _gdro(policy, reference, tied).loss
    torch.testing.assert_close(first, 0.7 * policy[:, 0])


@every
@pytest.mark.parametrize("left_out", [torch.nan, -1.0, 2.0])  # their rewards: lower and higher than all others
def test_k_of_n_members(options, left_out, batch):
    """Members left out change nothing, whatever stands in their place, and get no gradient."""
    policy, reference, reward = batch
    kept = [0, 2, 3]
    few = _gdro(*(value[:, kept] for value in batch), **options)
    valid = torch.tensor([[True, False, True, True]] * 3)
    policy, reference, reward = (value.clone() for value in batch)
    policy[:, 1], reference[:, 1], reward[:, 1] = torch.nan, torch.inf, left_out
    policy.requires_grad_()
    masked = _gdro(policy, reference, reward, valid, **options)
    torch.testing.assert_close(masked.loss, few.loss)
    for name, value in few.metrics.items():
        torch.testing.assert_close(masked.metrics[name], value)
    gradient = torch.autograd.grad(masked.loss.sum(), policy)[0]
    assert gradient.isfinite().all() and not gradient[:, 1].any()


@every
def test_groups_with_one_member_or_none_have_no_ranking(options, batch):
    policy, reference, reward = batch
    policy.requires_grad_()
    valid = torch.tensor([[False, True, False, False], [False] * 4, [True] * 4])
    loss = _gdro(policy, reference, reward, valid, **options).loss
    gamma = options.get("gamma", 0.0)
    torch.testing.assert_close(loss[:2], torch.stack([gamma * policy[0, 1], torch.zeros_like(policy[0, 0])]))
    assert torch.autograd.grad(loss.sum(), policy)[0].isfinite().all()


@every
@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_nan_spoils_its_group_alone(options, where, batch):
    spoiled = [value.clone() for value in batch]
    spoiled[where][1, 2] = torch.nan
    policy = spoiled[0].requires_grad_()
    loss = _gdro(policy, *spoiled[1:], **options).loss
    assert loss.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(loss[[0, 2]], _gdro(*batch, **options).loss[[0, 2]])
    gradient = torch.autograd.grad(loss.sum(), policy)[0]
    assert gradient[[0, 2]].isfinite().all()


def test_steps_takes_the_mean_over_removals(batch):
    torch.testing.assert_close(_gdro(*batch, normalise="steps").loss * 3, _gdro(*batch).loss)
    tied = batch[0], batch[1], torch.ones_like(batch[2])
    averaged = _gdro(*tied, ties="average")
    torch.testing.assert_close(_gdro(*tied, ties="average", normalise="steps").loss * 3, averaged.loss)


def test_groups_in_which_the_reward_says_nothing_are_counted(batch):
    policy, reference, reward = batch
    reward[1] = 0.3
    valid = torch.tensor([[True] * 4, [True] * 4, [False, False, True, False]])
    assert _gdro(policy, reference, reward).metrics["silent_groups"] == pytest.approx(1 / 3)
    assert _gdro(policy, reference, reward, valid).metrics["silent_groups"] == pytest.approx(2 / 3)


def test_extreme_scores_and_rewards_stay_finite():
    policy = torch.tensor([[0.0, 1.0, 0.5]], requires_grad=True)
    reward = torch.tensor([[0.0, 1e6, -1e6]])
    loss = _gdro(policy, torch.full((1, 3), 0.5), reward, beta=1e5, tau=1e-3).loss
    loss.sum().backward()
    assert loss.isfinite().all() and policy.grad.isfinite().all()


def test_refuses_what_it_does_not_know(batch, unchecked_types):
    for option, message in {
        "ranking": "ranking: must be full or top1, got 'x'",
        "ties": "ties: must be order or average, got 'x'",
        "normalise": "normalise: must be none or steps, got 'x'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            _gdro(*batch, **{option: "x"})
    many = torch.rand(1, 13)
    with pytest.raises(ConfigError, match="ties: average takes at most 12 members, got 13; use order"):
        _gdro(many, many, many, ties="average")
