"""Flow-RWR: the three weightings by hand, negative weights, members left out, gradients."""

from __future__ import annotations

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import flow_rwr, sft

OPTIONS = {"weighting": "exp", "temperature": 0.5, "negative": "zero"}
every = pytest.mark.parametrize("weighting", ["exp", "softmax", "raw"])


def _rwr(policy, reward, valid=None, **options):
    return flow_rwr(policy, reward=reward, valid=valid, **(OPTIONS | options))


@pytest.fixture
def batch(generator):
    policy, reward = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    return policy, reward


def test_weights_by_hand():
    policy, reward = torch.tensor([[0.2, 0.4]]), torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(_rwr(policy, reward).loss, (0.2 * torch.tensor([2.0]).exp() + 0.4) / 2)
    share = torch.sigmoid(torch.tensor([2.0]))
    torch.testing.assert_close(_rwr(policy, reward, weighting="softmax").loss, 0.2 * share + 0.4 * (1 - share))
    torch.testing.assert_close(_rwr(policy, reward, weighting="raw").loss, torch.tensor([0.1]))


@every
def test_gradient_is_right_and_none_goes_to_the_reward(weighting, batch):
    policy, reward = batch
    policy.requires_grad_()
    reward.requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: _rwr(seen, reward, weighting=weighting).loss, policy)
    output = _rwr(policy, reward, weighting=weighting)
    gradient, astray = torch.autograd.grad(output.loss.sum(), (policy, reward), allow_unused=True)
    assert (gradient > 0).all() and astray is None  # every error is pulled down
    assert torch.equal(gradient.argsort(1), reward.argsort(1))  # the better, the harder
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


def test_softmax_limits_are_sft_and_the_mean(batch):
    policy, reward = batch
    best_first = reward.argsort(1, descending=True)
    torch.testing.assert_close(
        _rwr(policy, reward, weighting="softmax", temperature=1e-6).loss, sft(policy.gather(1, best_first)).loss
    )
    torch.testing.assert_close(_rwr(policy, reward, weighting="softmax", temperature=1e9).loss, policy.mean(1))
    shifted = _rwr(policy, reward + 50, weighting="softmax").loss
    torch.testing.assert_close(shifted, _rwr(policy, reward, weighting="softmax").loss)


@every
def test_equal_rewards_weigh_equally(weighting, batch):
    policy, _ = batch
    output = _rwr(policy, torch.ones_like(policy), weighting=weighting)
    torch.testing.assert_close(output.metrics["effective_share"], torch.ones((), dtype=torch.float64))
    one = {"exp": torch.tensor(2.0).exp().double(), "softmax": 1.0, "raw": 1.0}[weighting]
    torch.testing.assert_close(output.loss, one * policy.mean(1))


@every
def test_groups_stand_alone(weighting, batch):
    policy, reward = batch
    loss = _rwr(policy, reward, weighting=weighting).loss
    order = [2, 0, 1]
    torch.testing.assert_close(_rwr(policy[order], reward[order], weighting=weighting).loss, loss[order])
    members = [3, 1, 0, 2]
    torch.testing.assert_close(_rwr(policy[:, members], reward[:, members], weighting=weighting).loss, loss)


def test_negative_raw_rewards_are_set_to_zero_or_kept():
    policy, reward = torch.tensor([[0.2, 0.4]]), torch.tensor([[1.0, -0.5]])
    guarded, kept = (_rwr(policy, reward, weighting="raw", negative=how) for how in ("zero", "keep"))
    torch.testing.assert_close(guarded.loss, torch.tensor([0.1]))
    torch.testing.assert_close(kept.loss, torch.tensor([0.0]))
    assert guarded.metrics["negative_share"] == kept.metrics["negative_share"] == 0.5
    assert guarded.metrics["effective_share"] == 0.5
    none_left = _rwr(policy, -torch.ones_like(policy), weighting="raw")
    assert none_left.loss == 0 and none_left.metrics["effective_share"] == 0


@every
def test_members_left_out(weighting, batch):
    kept = [0, 2, 3]
    few = _rwr(*(value[:, kept] for value in batch), weighting=weighting)
    policy, reward = (value.clone() for value in batch)
    policy[:, 1], reward[:, 1] = torch.nan, torch.nan
    policy.requires_grad_()
    masked = _rwr(policy, reward, torch.tensor([[True, False, True, True]] * 3), weighting=weighting)
    torch.testing.assert_close(masked.loss, few.loss)
    for name, value in few.metrics.items():
        torch.testing.assert_close(masked.metrics[name], value)
    gradient = torch.autograd.grad(masked.loss.sum(), policy)[0]
    assert gradient.isfinite().all() and not gradient[:, 1].any()
    nobody = _rwr(policy, reward, torch.zeros(3, 4, dtype=torch.bool), weighting=weighting)
    assert not nobody.loss.any() and nobody.metrics["weight_mean"] == 0


@every
@pytest.mark.parametrize("where", [0, 1])
def test_a_nan_spoils_its_group_alone(weighting, where, batch):
    spoiled = [value.clone() for value in batch]
    spoiled[where][1, 2] = torch.nan
    loss = _rwr(*spoiled, weighting=weighting).loss
    assert loss.isnan().tolist() == [False, True, False]


def test_refuses_what_it_does_not_know(batch, unchecked_types):
    with pytest.raises(ConfigError, match="weighting: must be exp, softmax or raw, got 'z'"):
        _rwr(*batch, weighting="z")
    with pytest.raises(ConfigError, match="negative: must be zero or keep, got 'clip'"):
        _rwr(*batch, negative="clip")
