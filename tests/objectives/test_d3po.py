"""D3PO: clipped log-ratios of steps."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import d3po

WIN = torch.ones(3, dtype=torch.float64)


def _d3po(log_prob, reference, preference=WIN, beta=2.0, clip=0.1):
    return d3po(log_prob, reference_log_prob=reference, preference=preference, beta=beta, clip=clip)


@pytest.fixture
def steps(generator):
    """Log-densities [4 steps, 3 groups, 2], within the clip of each other."""
    return 0.09 * torch.rand(2, 4, 3, 2, generator=generator, dtype=torch.float64).unbind()[0], torch.zeros(
        4, 3, 2, dtype=torch.float64
    )


def test_starts_at_log_two(steps):
    output = _d3po(steps[0], steps[0])
    torch.testing.assert_close(output.loss, torch.full((3,), 2.0, dtype=torch.float64).log())
    assert output.metrics["margin"] == 0 and output.metrics["clip_fraction"] == 0


def test_by_hand():
    output = _d3po(torch.tensor([[0.05, -0.5]]), torch.zeros(1, 2), torch.ones(1))
    inside = 2 * (0.05 - math.log(0.9))
    assert output.loss.item() == pytest.approx(math.log1p(math.exp(-inside)))
    assert output.metrics["clip_fraction"] == 0.5 and output.metrics["pair_accuracy"] == 1


def test_steps_are_averaged(steps):
    alone = torch.stack([_d3po(policy, reference).loss for policy, reference in zip(*steps)])
    output = _d3po(*steps)
    torch.testing.assert_close(output.loss, alone.mean(0))
    torch.testing.assert_close(_d3po(steps[0][:1], steps[1][:1]).loss, alone[0])


def test_gradient(steps):
    policy = steps[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda it: _d3po(it, steps[1]).loss, policy)
    gradient = torch.autograd.grad(_d3po(policy, steps[1]).loss.sum(), policy)[0]
    assert (gradient[..., 0] < 0).all() and (gradient[..., 1] > 0).all()  # descent: the winner's density up


def test_clipped_ratios_carry_no_gradient():
    policy = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    loss = _d3po(policy, torch.zeros_like(policy)).loss
    loss.sum().backward()
    assert (policy.grad != 0).tolist() == [[False, True], [True, False], [False, False]]


def test_a_tie_is_log_two_without_gradient(steps):
    policy = steps[0].requires_grad_()
    output = _d3po(policy, steps[1], torch.full((3,), 0.5, dtype=torch.float64))
    output.loss.sum().backward()
    torch.testing.assert_close(output.loss, torch.full((3,), 2.0, dtype=torch.float64).log())
    assert not policy.grad.any()


def test_swapping_members_and_preference_keeps_the_loss(steps):
    preference = torch.tensor([1.0, 0.0, 0.7], dtype=torch.float64)
    there = _d3po(*steps, preference)
    torch.testing.assert_close(_d3po(steps[0].flip(2), steps[1], 1 - preference).loss, there.loss)
    order = [2, 0, 1]
    torch.testing.assert_close(_d3po(steps[0][:, order], steps[1], preference[order]).loss, there.loss[order])


def test_a_bad_number_spoils_its_own_group_alone(steps):
    policy = steps[0].clone()
    policy[1, 1, 0] = float("nan")
    policy.requires_grad_()
    loss = _d3po(policy, steps[1]).loss
    loss.sum().backward()
    assert loss.isnan().tolist() == [False, True, False]
    assert policy.grad[:, [0, 2]].isfinite().all()


def test_no_ratio_overflows():
    policy = torch.tensor([[1e5, -1e5]], requires_grad=True)
    loss = _d3po(policy, -policy.detach(), torch.ones(1)).loss
    loss.sum().backward()
    assert loss.isfinite().all() and policy.grad.isfinite().all()


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_clip_must_be_a_fraction(steps, clip):
    with pytest.raises(ConfigError, match=f"clip: must be between 0 and 1, got {clip:g}"):
        _d3po(*steps, clip=clip)
