"""Several rewards as one number or an order: the cards' numbers, ties, and what is unscored."""

from __future__ import annotations

import math

import pytest

from diffalign.data.aggregate import dominates, rivals_beaten, weighted_sum

NAN = math.nan


def test_share_of_rivals_beaten_is_the_card_s():
    """RankDPO, Algorithm 1: rows HPS, Pick, IR, VQA, MPS; columns images 1 to 4."""
    rewards = [
        [0.28, 0.30, 0.26, 0.25],
        [21.5, 21.1, 22.0, 20.9],
        [0.8, 0.9, 0.1, -0.2],
        [0.71, 0.66, 0.68, 0.60],
        [12.1, 11.0, 11.5, 10.2],
    ]
    phi = rivals_beaten(list(zip(*rewards, strict=True)))
    assert phi == pytest.approx([0.8, 0.6, 0.6, 0.0])


def test_ties_score_nobody():
    assert rivals_beaten([[1.0], [1.0], [0.0]]) == [0.5, 0.5, 0.0]
    assert rivals_beaten([[1.0, 2.0], [1.0, 2.0]]) == [0.0, 0.0]


def test_unscored_picture_takes_no_part():
    assert rivals_beaten([[2.0, 1.0], [NAN, 9.0], [1.0, 0.0]]) == pytest.approx([1.0, NAN, 0.0], nan_ok=True)
    assert all(map(math.isnan, rivals_beaten([[2.0], [NAN]])))  # nobody to beat


def test_dominance_is_d3po_s():
    assert dominates([1.0, 2.0], [1.0, 1.0])
    assert not dominates([1.0, 1.0], [1.0, 1.0])
    assert not dominates([2.0, 0.0], [1.0, 1.0])
    assert not dominates([NAN, 2.0], [1.0, 1.0])


def test_one_reward_is_taken_as_it_is():
    assert weighted_sum([[3.0], [NAN], [5.0]], [-2.0]) == pytest.approx([-6.0, NAN, -10.0], nan_ok=True)


def test_several_are_standardised_whatever_their_unit():
    scores = [[1.0, 100.0], [3.0, 300.0], [5.0, 200.0], [7.0, NAN]]
    # over the first three: means 3 and 200, deviations sqrt(8/3) and sqrt(20000/3)
    unit = math.sqrt(1.5)
    assert weighted_sum(scores, [1.0, 0.5]) == pytest.approx([-1.5 * unit, 0.5 * unit, unit, NAN], nan_ok=True)
    scaled = [[first, 1000 * second] for first, second in scores]
    assert weighted_sum(scaled, [1.0, 0.5]) == pytest.approx(weighted_sum(scores, [1.0, 0.5]), nan_ok=True)


def test_reward_that_is_the_same_everywhere_says_nothing():
    assert weighted_sum([[1.0, 7.0], [3.0, 7.0]], [1.0, 1.0]) == [-1.0, 1.0]
