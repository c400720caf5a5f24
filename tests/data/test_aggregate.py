"""Several rewards as one number: scales, and what is unscored."""

from __future__ import annotations

import math

import pytest

from diffalign.data.aggregate import weighted_sum

NAN = math.nan


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
