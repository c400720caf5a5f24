"""The corrected score against the numbers of GDRO's card."""

from __future__ import annotations

import pytest
import torch

from diffalign.exceptions import DataError
from diffalign.rewards import diversity
from diffalign.rewards.functional import corrected_score, diversity_within, picture_diversity, thumbnails


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


# ---------------------------------------------------------------- diversity


def test_diversity_by_hand_in_chunks_too(monkeypatch):
    pictures = torch.rand(7, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    pairs = [(one, other) for other in range(7) for one in range(other)]
    expected = sum((pictures[one] - pictures[other]).square().mean().sqrt().item() for one, other in pairs) / len(pairs)
    assert picture_diversity(pictures) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(diversity, "_ROWS", 3)
    assert picture_diversity(pictures) == pytest.approx(expected, rel=1e-5)


def test_equal_pictures_and_too_few_have_no_diversity():
    assert picture_diversity(torch.rand(1, 3, 8, 8).expand(40, -1, -1, -1)) == 0
    assert picture_diversity(torch.rand(1, 3, 8, 8)) == 0


def bar(length: int, at: int = 0) -> torch.Tensor:
    grid = torch.zeros(1, 8, 2, 2)
    grid[:, at : at + length, 0, 0] = 1
    return grid


def test_diversity_of_shapes_is_one_minus_what_they_share():
    grids = torch.stack([bar(2), bar(4), bar(2, at=4)])  # 2 of 4 cells shared, none, none
    assert picture_diversity(grids) == pytest.approx((0.5 + 1 + 1) / 3)
    fuller = grids.repeat_interleave(2, 3).repeat_interleave(2, 4)  # four times the volume in an equal grid of cells
    assert picture_diversity(fuller) == pytest.approx(picture_diversity(grids))
    empty = torch.zeros(2, 1, 8, 2, 2)
    assert picture_diversity(empty) == 0
    assert picture_diversity(torch.stack([bar(2), empty[0]])) == 1


def test_pictures_of_one_prompt_count_within_it_and_not_across():
    grids = torch.stack([bar(2), bar(2, at=4), bar(4), bar(2, at=4)])
    assert picture_diversity(grids, ["a", "b", "a", "b"]) == pytest.approx(1)
    assert picture_diversity(grids, ["a"] * 4) == picture_diversity(grids) < 1
    torch.testing.assert_close(
        diversity_within(grids, ["a", "b", "a", "c"]),
        torch.tensor([0.5, torch.nan, torch.nan]).double(),
        equal_nan=True,
    )
    assert diversity_within(grids, ["b", "a", "b", "a"]).tolist() == [0.5, 0.0]
    pictures = torch.rand(2, 3, 8, 8)
    assert diversity_within(pictures, ["a", "a"]).item() == pytest.approx(picture_diversity(pictures))


def test_thumbnails_are_means_over_boxes():
    pictures = torch.rand(2, 3, 128, 64)
    small = thumbnails(pictures)
    assert small.shape == (2, 3, 64, 32)
    torch.testing.assert_close(small[0, 1, 5, 7], pictures[0, 1, 10:12, 14:16].mean())
    assert torch.equal(thumbnails(pictures[..., :64, :]), pictures[..., :64, :])
    assert picture_diversity(pictures) == picture_diversity(small)
