"""Losses of rewards: the card's numbers, limits, symmetry, gradients."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.rewards.preference_loss import bradley_terry, bradley_terry_ties, regression

WIDE = torch.linspace(-9, 9, 13, dtype=torch.float64)
ONE, NONE = torch.ones(13, dtype=torch.float64), torch.zeros(13, dtype=torch.float64)


def outcome_probabilities(difference: Tensor, *, theta: float) -> tuple[Tensor, Tensor, Tensor]:
    """P(first), P(second) and P(tie) of `bradley_terry_ties`, each of the shape of `difference`."""
    gap = math.log(theta)
    won, lost = torch.sigmoid(difference - gap), torch.sigmoid(-difference - gap)
    return won, lost, (theta**2 - 1.0) * won * lost


def told(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_card_values():
    """flow-dpo-rwr-nrg.md section 8: r_A = 1.3, r_B = 0.4, theta = 5."""
    d = told(0.9, 0.9, 0.9)
    losses = bradley_terry_ties(d, first=told(1, 0, 0), second=told(0, 1, 0), theta=5.0)
    torch.testing.assert_close(losses, told(1.109502, 2.587615, 0.519063), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        torch.stack(outcome_probabilities(d[:1], theta=5.0)).flatten(),
        told(0.329723, 0.075199, 0.595078),
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(bradley_terry(d[:1], first=ONE[:1], second=NONE[:1]), told(0.341154), atol=1e-6, rtol=0)
    tie = bradley_terry_ties(told(0), first=told(0), second=told(0), theta=5.0)
    torch.testing.assert_close(tie, told(0.405465), atol=1e-6, rtol=0)


def test_form_of_the_authors_code():
    """Written as VideoAlign's trainer has it, with the chosen picture first."""
    gap = math.log(5.0)
    log = torch.nn.functional.logsigmoid
    won = -log(WIDE - gap)
    same = -log(WIDE - gap) - log(-WIDE - gap) - math.log(5.0**2 - 1)
    torch.testing.assert_close(bradley_terry_ties(WIDE, first=ONE, second=NONE, theta=5.0), won)
    torch.testing.assert_close(bradley_terry_ties(WIDE, first=NONE, second=NONE, theta=5.0), same)


@pytest.mark.parametrize("theta", [1.001, 2.0, 5.0, 40.0])
def test_outcomes_are_probabilities(theta):
    won, lost, drawn = outcome_probabilities(WIDE, theta=theta)
    torch.testing.assert_close(won + lost + drawn, ONE)
    assert (torch.stack([won, lost, drawn]) > 0).all()
    losses = [
        bradley_terry_ties(WIDE, first=first, second=second, theta=theta)
        for first, second in ((ONE, NONE), (NONE, ONE), (NONE, NONE))
    ]
    torch.testing.assert_close(torch.stack(losses), -torch.stack([won, lost, drawn]).log())


def test_theta_one_would_be_plain_bradley_terry():
    plain = bradley_terry(WIDE, first=ONE, second=NONE)
    torch.testing.assert_close(bradley_terry_ties(WIDE, first=ONE, second=NONE, theta=1 + 1e-9), plain)


def test_swapping_the_pictures_keeps_the_loss():
    first, second = told(0.7, 0.2, 0.0), told(0.1, 0.5, 0.0)
    d = told(1.2, -0.4, 2.0)
    torch.testing.assert_close(
        bradley_terry(d, first=first, second=second), bradley_terry(-d, first=second, second=first)
    )
    torch.testing.assert_close(
        bradley_terry_ties(d, first=first, second=second, theta=3.0),
        bradley_terry_ties(-d, first=second, second=first, theta=3.0),
    )


def test_soft_labels_are_the_mean_over_judges():
    d = told(0.6)
    mixed = bradley_terry_ties(d, first=told(0.5), second=told(0.2), theta=5.0)
    each = [
        bradley_terry_ties(d, first=told(a), second=told(b), theta=5.0) for a, b in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
    ]
    torch.testing.assert_close(mixed, 0.5 * each[0] + 0.2 * each[1] + 0.3 * each[2])


def test_least_loss_is_at_the_share_of_judges():
    """70 % for the first: sigmoid(d) = 0.7 there, and a tie counts half for each."""
    d = told(math.log(0.7 / 0.3)).requires_grad_()
    bradley_terry(d, first=told(0.6), second=told(0.2)).sum().backward()
    assert d.grad is not None
    assert d.grad.abs().item() < 1e-12


def test_ties_pull_together_and_preferences_apart():
    d = told(2.0, -2.0, 0.5).requires_grad_()
    bradley_terry_ties(d, first=told(0, 0, 1), second=told(0, 0, 0), theta=5.0).sum().backward()
    assert d.grad is not None
    assert d.grad[0] > 0 > d.grad[1]  # down, and up, to 0
    assert d.grad[2] < 0


def test_gradients_are_those_of_finite_differences():
    d = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    first, second = torch.rand(2, 5, dtype=torch.float64) / 2
    assert torch.autograd.gradcheck(lambda x: bradley_terry(x, first=first, second=second), d)
    assert torch.autograd.gradcheck(lambda x: bradley_terry_ties(x, first=first, second=second, theta=5.0), d)
    assert torch.autograd.gradcheck(lambda x: regression(x, target=first, huber_delta=0.3), d)


def test_far_apart_stays_finite():
    d = torch.tensor([300.0, -300.0], requires_grad=True)
    loss = bradley_terry_ties(d, first=torch.zeros(2), second=torch.ones(2), theta=5.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert d.grad is not None
    assert torch.isfinite(d.grad).all()


def test_regression_by_hand():
    error = told(0.0, 0.5, -1.0, 3.0)
    torch.testing.assert_close(regression(error, target=0 * error, huber_delta=None), told(0, 0.25, 1, 9))
    torch.testing.assert_close(regression(error, target=0 * error, huber_delta=1.0), told(0, 0.25, 1, 5))


def test_theta_must_be_above_one():
    with pytest.raises(ValueError, match="theta: must be > 1, got 1"):
        bradley_terry_ties(WIDE, first=ONE, second=NONE, theta=1.0)
