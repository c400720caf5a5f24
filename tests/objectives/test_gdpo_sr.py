"""GDPO-SR: the limit that is Diffusion-DPO, gradients, and its reward on ties, missing scores and narrow ranges."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.objectives import diffusion_dpo, gdpo_sr
from diffalign.objectives.advantages import group_advantage
from diffalign.rewards.sr_attribute import attribute_aware_reward


@pytest.fixture
def batch(generator):
    policy, reference, reward = torch.rand(3, 3, 6, generator=generator, dtype=torch.float64)
    return policy, reference, group_advantage(reward, convention="gdpo_sr").values


def _sr(policy, reference, advantage, beta=3.0):
    return gdpo_sr(policy, reference=reference, advantage=advantage, beta=beta)


def test_a_pair_is_diffusion_dpo(batch):
    policy, reference = batch[0][:, :2], batch[1][:, :2]
    one = torch.tensor([[1.0, -1.0]] * 3, dtype=torch.float64)
    dpo = diffusion_dpo(policy, reference=reference, beta=3.0)
    torch.testing.assert_close(_sr(policy, reference, one).loss, dpo.loss)
    torch.testing.assert_close(_sr(policy, reference, one).metrics["margin"], dpo.metrics["margin"])
    standard = group_advantage(one, convention="gdpo_sr").values  # 1 / sqrt(2), by the unbiased deviation
    narrower = diffusion_dpo(policy, reference=reference, beta=3.0 / math.sqrt(2)).loss
    torch.testing.assert_close(_sr(policy, reference, standard).loss, narrower)


def test_starts_at_log_two(batch):
    output = _sr(batch[0], batch[0], batch[2])
    torch.testing.assert_close(output.loss, torch.full((3,), 2.0, dtype=torch.float64).log())
    assert output.metrics["margin"] == 0 and output.metrics["group_accuracy"] == 0


def test_gradient_is_right_and_none_goes_astray(batch):
    policy, reference, advantage = (value.requires_grad_() for value in batch)
    assert torch.autograd.gradcheck(lambda seen: _sr(seen, reference.detach(), advantage).loss, policy)
    output = _sr(policy, reference.detach(), advantage)
    gradient, astray = torch.autograd.grad(output.loss.sum(), (policy, advantage), allow_unused=True)
    assert astray is None
    assert torch.equal(gradient > 0, advantage > 0)  # descent lowers the error where the advantage is positive
    for value in output.metrics.values():
        assert value.shape == () and not value.requires_grad


def test_a_shift_of_all_errors_cancels(batch):
    policy, reference, advantage = batch
    torch.testing.assert_close(_sr(policy + 0.3, reference, advantage).loss, _sr(policy, reference, advantage).loss)


def test_order_of_members_and_groups_does_not_matter(batch):
    loss = _sr(*batch).loss
    torch.testing.assert_close(_sr(*(value.flip(1) for value in batch)).loss, loss)
    torch.testing.assert_close(_sr(*(value.flip(0) for value in batch)).loss, loss.flip(0))


def test_a_silent_group_has_no_gradient(batch):
    policy = batch[0].requires_grad_()
    silent = group_advantage(torch.ones(3, 6, dtype=torch.float64), convention="gdpo_sr")
    assert silent.silent_groups == 3
    assert _sr(policy, batch[1], silent.values).metrics["silent_groups"] == 1
    some = torch.cat([silent.values[:1], batch[2][1:]])
    some[1, 0] = 0.0  # of one member alone
    assert _sr(policy, batch[1], some).metrics["silent_groups"] == pytest.approx(1 / 3)
    assert not torch.autograd.grad(_sr(policy, batch[1], silent.values).loss.sum(), policy)[0].any()


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_nan_spoils_its_group_alone(where, batch):
    spoiled = [value.clone() for value in batch]
    spoiled[where][1, 2] = torch.nan
    policy = spoiled[0].requires_grad_()
    loss = _sr(policy, *spoiled[1:]).loss
    assert loss.isnan().tolist() == [False, True, False]
    assert torch.autograd.grad(loss.sum(), policy)[0][[0, 2]].isfinite().all()


# ---------------------------------------------------------------- its reward


def _reward(fidelity, *perceptual, smooth=0.4, texture=0.6, min_range=1e-8):
    fidelity = torch.tensor([fidelity])
    return attribute_aware_reward(
        fidelity,
        torch.stack([torch.tensor([one]) for one in perceptual]),
        smooth=torch.tensor([smooth]),
        texture=torch.tensor([texture]),
        min_range=min_range,
    )


def test_smooth_pictures_follow_fidelity_textured_ones_perception():
    scores = [20.0, 30.0, 25.0], [5.0, 1.0, 3.0]
    torch.testing.assert_close(_reward(*scores, smooth=1.0, texture=0.0), torch.tensor([[0.0, 1.0, 0.5]]))
    torch.testing.assert_close(_reward(*scores, smooth=0.0, texture=1.0), torch.tensor([[1.0, 0.0, 0.5]]))


def test_a_metric_that_agrees_on_all_says_nothing():
    """The authors' code divides 0 by 0 there."""
    torch.testing.assert_close(_reward([20.0, 30.0], [5.0, 5.0]), torch.tensor([[0.0, 0.4]]))
    narrow = _reward([20.0, 20.01], [5.0, 6.0], min_range=0.1)  # nor does one whose range is too small to mean it
    torch.testing.assert_close(narrow, torch.tensor([[0.0, 0.6]]))


def test_a_missing_score_leaves_its_member_unscored():
    reward = _reward([20.0, torch.nan, 30.0], [1.0, 2.0, 3.0])
    assert reward.isnan().tolist() == [[False, True, False]]
    torch.testing.assert_close(reward[0, [0, 2]], torch.tensor([0.0, 1.0]))
    flat = _reward([20.0, torch.nan, 20.0], [1.0, 2.0, 3.0])  # also where the others agree
    assert flat.isnan().tolist() == [[False, True, False]]
