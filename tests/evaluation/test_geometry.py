"""What alignment did to shapes: the figures of equal sets, of slabs, and of grids that are empty."""

from __future__ import annotations

import pytest
import torch

from diffalign.config.run import EvaluationConfig
from diffalign.evaluation.geometry import compare_shapes
from diffalign.rewards.functional import picture_diversity, thumbnails

CONFIG = EvaluationConfig(resamples=200)


def tower(x: int) -> torch.Tensor:
    grid = torch.zeros(1, 8, 8, 8)
    grid[:, x : x + 2, 3:5, :7] = 1
    return grid


def slab() -> torch.Tensor:
    grid = torch.zeros(1, 8, 8, 8)
    grid[:, :, :, :2] = 1
    return grid


def test_shapes_that_did_not_change():
    grids = torch.stack([tower(1), tower(4)])
    found = compare_shapes(grids, grids, ["a", "b"], CONFIG)
    assert found["shared"] == 1.0 and found["f_score"] == 1.0
    assert 0.001 < found["chamfer"] == found["chamfer_floor"] < 0.02
    assert found["volume"]["difference"] == 0.0 and found["volume"]["base"] == pytest.approx(28 / 512)
    assert found["pieces"]["aligned"] == 1.0 and found["empty"] == [0, 0] and found["compared"] == 2


def test_shapes_that_hardly_changed_are_not_nearer_than_two_samplings_of_one():
    base = torch.stack([tower(1), tower(4), slab(), slab()])
    aligned = base.clone()
    aligned[2, 0, 3, 3, 1] = 0  # a cell of the slab's top
    found = compare_shapes(base, aligned, list("abcd"), CONFIG)
    assert 0.99 < found["shared"] < 1 and 0.99 < found["chamfer"] / found["chamfer_floor"] < 1.1


def test_everything_became_a_slab():
    base, aligned = torch.stack([tower(1), tower(4), tower(2)]), torch.stack([slab()] * 3)
    found = compare_shapes(base, aligned, ["a", "b", "c"], CONFIG)
    assert found["shared"] < 0.1 and found["f_score"] < 0.5 and found["chamfer"] > 0.1
    assert found["volume"]["low"] > 0 and found["volume"]["aligned"] == pytest.approx(0.25)
    assert picture_diversity(thumbnails(aligned)) == 0.0 < picture_diversity(thumbnails(base))


def test_empty_grids_are_counted_and_left_out():
    base, aligned = torch.stack([tower(1), tower(4)]), torch.stack([torch.zeros(1, 8, 8, 8), tower(4)])
    found = compare_shapes(base, aligned, ["a", "b"], CONFIG)
    assert found["empty"] == [0, 1] and found["compared"] == 1 and found["shared"] == 1.0
    none = compare_shapes(base, torch.zeros(2, 1, 8, 8, 8), ["a", "b"], CONFIG)
    assert none["compared"] == 0 and "shared" not in none


def test_two_draws_of_the_base_are_the_yardstick():
    """Of prompt a the second shape is the first moved on by two cells; of prompt b by one, and it is whole."""
    base = torch.stack([tower(1), tower(4), tower(3), tower(5)])
    found = compare_shapes(base, base, ["a", "b", "a", "b"], CONFIG)
    assert found["shared"] == 1.0 and found["two_draws"]["compared"] == 2
    assert found["two_draws"]["shared"] == pytest.approx((0 + 14 / 42) / 2)
    assert found["two_draws"]["f_score"] == pytest.approx(1.0)  # scaled and centred they are the same tower
    within = found["diversity_within"]
    assert within["base"] == within["aligned"] == pytest.approx((1 + 28 / 42) / 2) and within["difference"] == 0
    alone = compare_shapes(base, base, list("abcd"), CONFIG)
    assert "two_draws" not in alone and "diversity_within" not in alone


def test_each_is_compared_with_the_next_of_its_prompt_and_the_last_with_the_first():
    base = torch.stack([tower(1), tower(2), tower(5)])
    found = compare_shapes(base, torch.stack([slab()] * 3), ["a"] * 3, CONFIG)
    assert found["two_draws"]["compared"] == 3
    assert found["two_draws"]["shared"] == pytest.approx((14 / 42 + 0 + 0) / 3)
    assert found["diversity_within"]["aligned"] == 0.0 < found["diversity_within"]["base"]
    holes = compare_shapes(torch.stack([tower(1), torch.zeros(1, 8, 8, 8)]), base[:2], ["a"] * 2, CONFIG)
    assert "two_draws" not in holes and holes["empty"] == [1, 0]
