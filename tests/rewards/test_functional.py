"""The corrected score against the numbers of GDRO's card."""

from __future__ import annotations

import pytest
import torch

from diffalign.exceptions import DataError
from diffalign.rewards.functional import corrected_score


def test_parity_with_the_card():
    assert corrected_score(0.8721, 3.424378) == pytest.approx(0.570100, abs=1e-6)


def test_tensors():
    scores = corrected_score(torch.tensor([0.5, 1.0]), torch.tensor([4.0, 3.0]))
    torch.testing.assert_close(scores, torch.tensor([0.7, 0.2]))


def test_below_the_floor_is_kept_negative():
    assert corrected_score(0.9, 2.0) == pytest.approx(-0.7)


def test_floor_and_shift():
    assert corrected_score(0.5, 4.0, floor=2.0, shift=0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("quality", [0.5, 5.1, torch.tensor([3.0, 50.0])])
def test_quality_on_another_scale(quality):
    reward = 0.5 if isinstance(quality, float) else torch.tensor([0.5, 0.5])
    with pytest.raises(DataError, match=r"quality must lie in \[1, 5\]"):
        corrected_score(reward, quality)
