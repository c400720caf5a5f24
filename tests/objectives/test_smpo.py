"""SmPO: soft preferences scale the margin."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.objectives import diffusion_dpo, smoothed_preference, smpo


@pytest.fixture
def errors(generator):
    return torch.rand(2, 4, 2, generator=generator, dtype=torch.float64).unbind()


def _smpo(policy, reference, preference, scale=10.0):
    return smpo(policy, reference=reference, preference=preference, beta=3.0, scale=scale)


def test_margin_by_hand():
    policy, reference = torch.tensor([[0.1, 0.4]]), torch.tensor([[0.2, 0.3]])
    output = _smpo(policy, reference, torch.tensor([0.75]))
    inside = 1.5 * 10 * 0.5 * 0.2
    assert output.metrics["margin"].item() == pytest.approx(inside)
    assert output.loss.item() == pytest.approx(math.log1p(math.exp(-inside)))


def test_a_tie_is_log_two_without_gradient(errors):
    policy = errors[0].requires_grad_()
    output = _smpo(policy, errors[1], torch.full((4,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(output.loss, torch.full((4,), 2.0, dtype=torch.float64).log())
    output.loss.sum().backward()
    assert not policy.grad.any()
    assert output.metrics["pair_accuracy"] == 0


def test_swapping_members_and_preference_keeps_the_loss(errors):
    preference = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    swapped = _smpo(errors[0].flip(1), errors[1].flip(1), 1 - preference)
    torch.testing.assert_close(swapped.loss, _smpo(errors[0], errors[1], preference).loss)


def test_a_preference_for_member_one_pushes_the_other_way():
    policy = torch.full((2, 2), 0.5, requires_grad=True)
    _smpo(policy, torch.full((2, 2), 0.5), torch.tensor([0.9, 0.1])).loss.sum().backward()
    assert (policy.grad[0] * torch.tensor([1, -1]) > 0).all()
    torch.testing.assert_close(policy.grad[1], -policy.grad[0])


def test_every_pair_has_its_own_factor(errors):
    preference = torch.tensor([0.6, 0.7, 0.8, 0.9], dtype=torch.float64)
    loss = _smpo(errors[0], errors[1], preference).loss
    for pair in range(4):
        beta = 3.0 * 10 * (2 * preference[pair].item() - 1)
        alone = diffusion_dpo(errors[0][[pair]], reference=errors[1][[pair]], beta=beta)
        torch.testing.assert_close(loss[[pair]], alone.loss)


def test_a_bad_preference_spoils_its_own_pair_alone(errors):
    policy = errors[0].requires_grad_()
    preference = torch.tensor([0.6, float("nan"), 0.8, 0.9], dtype=torch.float64)
    loss = _smpo(policy, errors[1], preference).loss
    loss.sum().backward()
    assert loss.isnan().tolist() == [False, True, False, False]
    assert policy.grad.isnan().any(1).tolist() == [False, True, False, False]


def test_smoothed_preference():
    reward = torch.tensor([[2.0, 2.0], [5.0, 1.0], [1.0, 5.0], [1e4, -1e4]])
    preference = smoothed_preference(reward, low=1.0, high=5.0)
    one = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(preference, torch.tensor([0.5, one, 1 - one, 1.0]))
