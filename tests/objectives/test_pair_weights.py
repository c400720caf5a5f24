"""Weights of pairs by margin and by curriculum."""

from __future__ import annotations

import pytest
import torch

from diffalign.exceptions import ConfigError
from diffalign.objectives import curriculum_weight, margin_weight

REWARD = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [9e9, 0.0]])


def test_hard_pairs_weigh_more():
    weight = margin_weight(REWARD, threshold=1.0, strength=2.0)
    assert weight[1] == 1
    assert (weight.diff() < 0).all() and (weight >= 0).all() and (weight < 2).all()


def test_a_negative_strength_turns_it_round():
    weight = margin_weight(REWARD, threshold=1.0, strength=-2.0)
    torch.testing.assert_close(weight, 2 - margin_weight(REWARD, threshold=1.0, strength=2.0))


def test_no_strength_is_no_weight():
    torch.testing.assert_close(margin_weight(REWARD, threshold=1.0, strength=0.0), torch.ones(4))


GAP = torch.tensor([1.0, 0.7, 0.3, 0.0])


@pytest.mark.parametrize(
    ("progress", "reached"),
    [(0.0, [1, 0, 0, 0]), (0.3, [1, 1, 0, 0]), (0.5, [1, 1, 1, 0]), (0.75, [1, 1, 1, 1]), (1.0, [1, 1, 1, 1])],
)
def test_easy_pairs_come_first(progress, reached):
    assert curriculum_weight(GAP, progress=progress, stages=4).tolist() == reached


def test_one_stage_is_everything():
    assert curriculum_weight(GAP, progress=0.0, stages=1).tolist() == [1, 1, 1, 1]


def test_a_pair_without_a_gap_has_no_weight():
    """NaN, not 0: a missing reward is no hard pair."""
    gap = torch.tensor([0.9, float("nan")])
    assert curriculum_weight(gap, progress=1.0, stages=2).isnan().tolist() == [False, True]
    assert margin_weight(torch.tensor([[1.0, float("nan")]]), threshold=0.0, strength=1.0).isnan().all()


def test_ranges_are_checked():
    with pytest.raises(ConfigError, match=r"progress: must be between 0 and 1, got 1\.5"):
        curriculum_weight(GAP, progress=1.5, stages=2)
    with pytest.raises(ConfigError, match="stages: must be at least 1, got 0"):
        curriculum_weight(GAP, progress=0.5, stages=0)
