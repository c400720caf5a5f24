"""Votes of several rewards: domination, shares of rivals beaten, and what a missing reward leaves open."""

from __future__ import annotations

import pytest
import torch

from diffalign.data.reward_votes import pareto_preference, share_of_rivals_beaten
from diffalign.exceptions import ShapeError

NAN = torch.nan


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [0.0, 1.0], 1.0),  # better by both
        ([1.0, 2.0], [1.0, 1.0], 1.0),  # as good by one, better by the other
        ([1.0, 2.0], [1.0, 2.0], 0.5),
        ([1.0, 2.0], [2.0, 1.0], 0.5),  # the rewards disagree
        ([0.0, 1.0], [0.0, 2.0], 0.0),
        ([3.0], [2.0], 1.0),
        ([torch.inf, 1.0], [0.0, 1.0], 1.0),
        ([NAN, 2.0], [0.0, 1.0], NAN),
        ([1.0, 2.0], [0.0, NAN], NAN),
    ],
)
def test_pareto_preference(a, b, expected):
    found = pareto_preference(torch.tensor([a, a]), torch.tensor([b, b]))
    torch.testing.assert_close(found, torch.full((2,), expected), equal_nan=True)
    mirrored = pareto_preference(torch.tensor(b), torch.tensor(a))
    torch.testing.assert_close(mirrored, torch.tensor(1 - expected), equal_nan=True)


def test_shapes_must_agree(unchecked_types):
    with pytest.raises(ShapeError, match=r"reward_a is \[3, 2\], reward_b \[3, 1\]"):
        pareto_preference(torch.zeros(3, 2), torch.zeros(3, 1))


def test_shares_by_hand_and_ties_score_nobody():
    reward = torch.tensor([[[3.0, 2.0, 2.0]], [[0.1, 0.2, 0.3]]])
    torch.testing.assert_close(share_of_rivals_beaten(reward), torch.tensor([[0.5, 0.25, 0.5]]))
    assert share_of_rivals_beaten(torch.ones(2, 3, 4)).count_nonzero() == 0
    assert share_of_rivals_beaten(reward[..., :1]).isnan().all()  # without a rival there is nothing to win


def test_shares_are_of_the_comparisons_that_were_made():
    """The second reward says nothing of member 1; nothing at all is known of member 2 of the second group."""
    reward = torch.tensor([[[3.0, 2.0, 1.0], [1.0, 2.0, NAN]], [[0.1, NAN, 0.3], [1.0, 2.0, NAN]]])
    expected = torch.tensor([[2 / 3, 1 / 2, 1 / 3], [0.0, 1.0, NAN]])
    torch.testing.assert_close(share_of_rivals_beaten(reward), expected, equal_nan=True)


def test_shares_do_not_see_scales_and_follow_the_members():
    reward = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    share = share_of_rivals_beaten(reward)
    scale = torch.tensor([1.0, 40.0, 0.01])[:, None, None]
    torch.testing.assert_close(share_of_rivals_beaten(reward * scale + scale), share)
    order = torch.tensor([2, 0, 4, 1, 3])
    torch.testing.assert_close(share_of_rivals_beaten(reward[..., order]), share[:, order])
    torch.testing.assert_close(share.mean(1), torch.full((4,), 0.5))  # no ties: each comparison has one winner
