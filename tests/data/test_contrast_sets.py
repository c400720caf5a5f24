"""D+ and D- from rewards of samples: ties, unscored members, and the cut through a pool."""

from __future__ import annotations

import pytest
import torch

from diffalign.data import paired_by_reward, unpaired_by_reward
from diffalign.exceptions import ConfigError, ShapeError

NAN = torch.nan


@pytest.mark.parametrize(
    ("reward", "best", "worst"),
    [
        ([1.0, 3.0, 2.0], 1, 0),
        ([3.0, 3.0, 1.0], 0, 2),  # of equally good ones the first
        ([3.0, 1.0, 1.0], 0, 1),  # of equally bad ones the first
        ([1.0, 1.0, 3.0], 2, 0),
        ([NAN, 2.0, 1.0], 1, 2),
        ([2.0, NAN, 1.0], 0, 2),
        ([-torch.inf, NAN, 1.0], 2, 0),
        ([torch.inf, 1.0, NAN], 0, 1),
        ([2.0, 2.0, 2.0], -1, -1),
        ([2.0, NAN, 2.0], -1, -1),
        ([2.0, NAN, NAN], -1, -1),
        ([NAN, NAN, NAN], -1, -1),
        ([torch.inf, torch.inf, NAN], -1, -1),
    ],
)
def test_best_and_worst(reward, best, worst):
    contrast = paired_by_reward(torch.tensor([reward, [0.0, 1.0, 2.0]]))
    assert contrast.positive.tolist() == [best, 2]
    assert contrast.negative.tolist() == [worst, 0]
    assert contrast.valid.tolist() == [best >= 0, True]


def test_never_the_same_member_never_an_unscored_one():
    generator = torch.Generator().manual_seed(0)
    reward = torch.randint(3, (500, 4), generator=generator).float()
    reward[torch.rand(reward.shape, generator=generator) < 0.3] = NAN
    contrast = paired_by_reward(reward)
    assert 0 < contrast.valid.sum() < 500
    picked = contrast.pick(reward)
    assert (picked[:, 0] > picked[:, 1]).all()  # false for a NaN


def test_lots_fall_among_equally_good_and_equally_bad_members_alone():
    reward = torch.tensor([[1.0, 0.0, 1.0, float("nan"), 0.5, 0.0, 1.0]])
    drawn = [paired_by_reward(reward, [torch.Generator().manual_seed(seed)]) for seed in range(200)]
    assert all(contrast.valid.all() for contrast in drawn)
    assert {int(contrast.positive) for contrast in drawn} == {0, 2, 6}
    assert {int(contrast.negative) for contrast in drawn} == {1, 5}
    again = paired_by_reward(reward, [torch.Generator().manual_seed(3)])
    assert (int(again.positive), int(again.negative)) == (int(drawn[3].positive), int(drawn[3].negative))
    equal = paired_by_reward(torch.ones(2, 3), [torch.Generator(), torch.Generator()])
    assert not equal.valid.any() and equal.positive.tolist() == [-1, -1]


def test_labels_are_what_the_objective_takes():
    contrast = paired_by_reward(torch.tensor([[1.0, 3.0, 2.0], [1.0, 1.0, 1.0]]))
    assert contrast.labels(3).tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    latents = torch.arange(6.0).reshape(2, 3, 1).expand(2, 3, 4)
    assert contrast.pick(latents)[..., 0].tolist() == [[1.0, 0.0]]


def test_a_single_member_is_refused():
    with pytest.raises(ShapeError, match=r"2 members or more, got \[3, 1\]"):
        paired_by_reward(torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("reward", "share", "expected"),
    [
        ([4.0, 1.0, 3.0, 2.0], 0.5, [1, -1, 1, -1]),
        ([4.0, 1.0, 3.0, 2.0], 0.25, [1, -1, -1, -1]),
        ([1.0, 0.0, 0.0, 0.0], 0.5, [1, -1, -1, -1]),  # equal ones stay together
        ([1.0, 1.0, 1.0, 0.0], 0.5, [1, 1, 1, -1]),
        ([3.0, 2.0, 2.0, 1.0], 0.5, [1, -1, -1, -1]),  # two cuts equally near: the smaller D+
        ([3.0, NAN, NAN, 1.0], 0.5, [1, 0, 0, -1]),
        ([2.0, 2.0, 2.0, NAN], 0.5, [0, 0, 0, 0]),
        ([NAN, NAN, NAN, NAN], 0.5, [0, 0, 0, 0]),
        ([4.0, 1.0, 3.0, 2.0], 0.01, [1, -1, -1, -1]),  # neither side is left empty
        ([4.0, 1.0, 3.0, 2.0], 0.99, [1, -1, 1, 1]),
    ],
)
def test_the_pool_is_cut(reward, share, expected):
    label = unpaired_by_reward(torch.tensor(reward).reshape(2, 2), share=share)
    assert label.flatten().tolist() == expected


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_all_is_refused(share):
    with pytest.raises(ConfigError, match="share: must be between 0 and 1"):
        unpaired_by_reward(torch.zeros(2, 2), share=share)
