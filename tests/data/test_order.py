"""The order of training and the seeds of its draws."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from diffalign.data import place_of, seeded


@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_record_once_per_epoch(count):
    places = [place_of(position, count, seed=3) for position in range(4 * count)]
    assert set(Counter(places).values()) == {1}
    assert Counter(epoch for epoch, _ in places) == dict.fromkeys(range(4), count)
    assert {number for _, number in places} == set(range(count))


def test_epochs_and_seeds_shuffle_differently():
    orders = [
        [place_of(position + 20 * epoch, 20, seed)[1] for position in range(20)] for epoch in (0, 1) for seed in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_place_needs_no_history():
    walked = [place_of(position, 5, seed=1) for position in range(50)]
    assert [place_of(position, 5, seed=1) for position in reversed(range(50))] == walked[::-1]


def test_seeds_differ_in_every_part_and_repeat():
    def drawn(*parts: object) -> float:
        return torch.rand((), generator=seeded(*parts)).item()

    variants = [
        (0, 0, "a", "noise"),
        (1, 0, "a", "noise"),
        (0, 1, "a", "noise"),
        (0, 0, "b", "noise"),
        (0, 0, "a", "flip"),
    ]
    assert len({drawn(*parts) for parts in variants}) == 5
    assert drawn(0, 0, "a", "noise") == drawn(0, 0, "a", "noise")
    assert drawn(1, 10, "a", "noise") != drawn(11, 0, "a", "noise")  # no gluing of digits
