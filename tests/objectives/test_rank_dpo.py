"""RankDPO: values by hand, gradients, ties, members left out, and a pair as weighted Diffusion-DPO."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import diffusion_dpo, rank_dpo

OPTIONS = {"beta": 3.0, "normalise": "none", "rank_by": "reward"}
every = pytest.mark.parametrize("options", [{}, {"normalise": "pairs"}, {"normalise": "sum"}, {"rank_by": "model"}])


def _rank(policy, reference, reward, valid=None, **options):
    return rank_dpo(policy, reference=reference, reward=reward, valid=valid, **(OPTIONS | options))


@every
def test_gradient_is_right(options, batch):
    policy, reference, reward = batch
    policy.requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: _rank(seen, reference, reward, **options).loss, policy)
    output = _rank(policy, reference, reward, **options)
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


def test_descent_lowers_the_best_and_raises_the_worst(batch):
    policy, _, reward = batch
    policy.requires_grad_()
    output = _rank(policy, policy.detach(), reward)
    gradient = torch.autograd.grad(output.loss.sum(), policy)[0]
    best, worst = reward.argmax(1, keepdim=True), reward.argmin(1, keepdim=True)
    assert (gradient.gather(1, best) > 0).all() and (gradient.gather(1, worst) < 0).all()
    torch.testing.assert_close(gradient.sum(1), torch.zeros(3, dtype=torch.float64))


def test_starts_at_log_two_times_the_weights(batch):
    policy, _, reward = batch
    output = _rank(policy, policy, reward)
    torch.testing.assert_close(output.loss.mean(), output.metrics["weight_sum"] * math.log(2))
    torch.testing.assert_close(
        _rank(policy, policy, reward, normalise="sum").loss, torch.full_like(output.loss, 2).log()
    )
    assert output.metrics["margin"] == 0 and output.metrics["pair_accuracy"] == 0


def test_a_pair_is_weighted_dpo(batch):
    policy, reference, _ = (value[:, :2] for value in batch)
    reward = torch.tensor([[1.0, 0.0], [0.5, 0.25], [0.75, 0.0]], dtype=torch.float64)
    dpo = diffusion_dpo(policy, reference=reference, beta=3.0).loss
    discount = 1 / math.log(2) - 1 / math.log(3)
    torch.testing.assert_close(
        _rank(policy, reference, reward).loss, discount * (2 ** reward[:, 0] - 2 ** reward[:, 1]) * dpo
    )
    torch.testing.assert_close(_rank(policy, reference, reward, normalise="sum").loss, dpo)
    swapped = _rank(policy.flip(1), reference.flip(1), reward.flip(1), normalise="sum").loss
    torch.testing.assert_close(swapped, dpo)


@every
def test_the_order_of_members_and_groups_does_not_matter(options, batch):
    plain = _rank(*batch, **options)
    members = _rank(*(value[:, [2, 0, 3, 1]] for value in batch), **options)
    torch.testing.assert_close(members.loss, plain.loss)
    for name, value in plain.metrics.items():
        torch.testing.assert_close(members.metrics[name], value)
    groups = [2, 0, 1]
    torch.testing.assert_close(_rank(*(value[groups] for value in batch), **options).loss, plain.loss[groups])


@every
def test_tied_groups_teach_nothing(options, batch):
    policy, reference, _ = batch
    policy.requires_grad_()
    output = _rank(policy, reference, torch.full_like(reference, 0.6), **options)
    assert not output.loss.any() and output.metrics["weight_sum"] == 0
    assert not torch.autograd.grad(output.loss.sum(), policy)[0].any()


def test_groups_in_which_the_reward_says_nothing_are_counted(batch):
    policy, reference, reward = batch
    reward[1] = 0.3
    valid = torch.tensor([[True] * 4, [True] * 4, [False, False, True, False]])
    assert _rank(policy, reference, reward).metrics["silent_groups"] == pytest.approx(1 / 3)
    assert _rank(policy, reference, reward, valid).metrics["silent_groups"] == pytest.approx(2 / 3)


def test_rank_by_model_ranks_by_gain():
    reward = torch.tensor([[0.9, 0.5, 0.1]], dtype=torch.float64)
    reference = torch.full_like(reward, 0.5)
    policy = torch.tensor([[0.45, 0.4, 0.3]], dtype=torch.float64)  # the model likes the last member best
    gain, discount = 2 ** reward[0], [1 / math.log(4), 1 / math.log(3), 1 / math.log(2)]
    expected = sum(
        (gain[i] - gain[j])
        * abs(discount[i] - discount[j])
        * torch.log1p(torch.exp(1.5 * (policy[0, i] - policy[0, j])))
        for i, j in [(0, 1), (0, 2), (1, 2)]
    )
    torch.testing.assert_close(_rank(policy, reference, reward, rank_by="model").loss[0], expected)


@every
def test_no_gradient_goes_through_the_weights(options, batch):
    policy, reference, reward = batch
    reward.requires_grad_()
    loss = _rank(policy.requires_grad_(), reference, reward, **options).loss
    assert torch.autograd.grad(loss.sum(), reward, allow_unused=True)[0] is None


@every
@pytest.mark.parametrize("left_out", [torch.nan, -1.0, 2.0])  # their rewards: lower and higher than all others
def test_members_left_out(options, left_out, batch):
    kept = [0, 2, 3]
    few = _rank(*(value[:, kept] for value in batch), **options)
    policy, reference, reward = (value.clone() for value in batch)
    policy[:, 1], reference[:, 1], reward[:, 1] = torch.nan, torch.inf, left_out
    policy.requires_grad_()
    masked = _rank(policy, reference, reward, torch.tensor([[True, False, True, True]] * 3), **options)
    torch.testing.assert_close(masked.loss, few.loss)
    for name, value in few.metrics.items():
        torch.testing.assert_close(masked.metrics[name], value)
    gradient = torch.autograd.grad(masked.loss.sum(), policy)[0]
    assert gradient.isfinite().all() and not gradient[:, 1].any()
    nobody = _rank(policy, reference, reward, torch.zeros(3, 4, dtype=torch.bool), **options)
    assert not nobody.loss.any()


@every
@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_nan_spoils_its_group_alone(options, where, batch):
    spoiled = [value.clone() for value in batch]
    spoiled[where][1, 2] = torch.nan
    policy = spoiled[0].requires_grad_()
    loss = _rank(policy, *spoiled[1:], **options).loss
    assert loss.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(loss[[0, 2]], _rank(*batch, **options).loss[[0, 2]])
    assert torch.autograd.grad(loss.sum(), policy)[0][[0, 2]].isfinite().all()


def test_large_margins_stay_finite():
    policy = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    reward = torch.tensor([[1.0, 0.0]] * 2)
    loss = _rank(policy, torch.full((2, 2), 0.5), reward, beta=5000.0, normalise="sum").loss
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([0.0, 2500.0]))
    assert policy.grad.isfinite().all()


def test_refuses_what_it_does_not_know(batch, unchecked_types):
    with pytest.raises(ConfigError, match="normalise: must be none, pairs or sum, got 'mean'"):
        _rank(*batch, normalise="mean")
    with pytest.raises(ConfigError, match="rank_by: must be reward or model, got 'labels'"):
        _rank(*batch, rank_by="labels")
