"""Accuracy with and without ties, and calibration: by hand, against a plain search, and on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from diffalign.rewards.pair_metrics import accuracy_with_ties, accuracy_without_ties, calibrate, verdicts


def judged(*values: int) -> np.ndarray:
    return np.array(values)


def shares(verdict: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (verdict > 0).astype(float), (verdict < 0).astype(float)


def by_search(difference: np.ndarray, verdict: np.ndarray) -> float:
    """Every threshold that can matter, one after the other."""
    thresholds = [-1.0, *np.abs(difference)]
    said = [np.where(np.abs(difference) <= each, 0, np.sign(difference)) for each in thresholds]
    return max(float(((each == verdict) & ((each != 0) | (np.abs(difference) <= threshold))).mean())
               for each, threshold in zip(said, thresholds, strict=True))  # fmt: skip


def test_verdict_is_what_most_say():
    first = np.array([1.0, 0.2, 0.5, 0.3, 0.0, 0.4])
    second = np.array([0.0, 0.7, 0.5, 0.2, 0.0, 0.3])
    assert verdicts(first, second).tolist() == [1, -1, 0, 0, 0, 1]  # the fourth: half of them say tie


def test_example_of_the_authors_code():
    """`python calc_accuracy.py` of KwaiVGI/VideoAlign at 219ab9d prints 0.6666666666666666 and 0.8333333333333334 of it."""
    verdict = judged(1, -1, 0, 1, -1, 0, 1, -1, 0)
    a = np.array([0.9, -0.7, 0.1, 0.8, -0.6, 0.2, 0.7, -0.5, 0.3])
    b = np.array([0.1, -0.8, 0.5, 0.5, -0.3, 0.3, 0.4, -0.4, 0.4])
    assert accuracy_with_ties(a - b, verdict)[0] == pytest.approx(0.6666666666666666)
    accuracy, count = accuracy_without_ties(a - b, verdict)
    assert (accuracy, count) == (pytest.approx(0.8333333333333334), 6)


def test_by_hand():
    difference, verdict = np.array([3.0, -2.0, 0.1, -0.2, 1.0]), judged(1, -1, 0, 0, -1)
    assert accuracy_without_ties(difference, verdict) == (pytest.approx(2 / 3), 3)
    accuracy, threshold = accuracy_with_ties(difference, verdict)
    assert (accuracy, threshold) == (pytest.approx(4 / 5), 0.2)


def test_equal_rewards_prefer_nothing():
    difference, verdict = np.zeros(4), judged(1, -1, 1, 0)
    assert accuracy_without_ties(difference, verdict) == (0.0, 3)
    assert accuracy_with_ties(difference, verdict) == (0.25, 0.0)
    assert accuracy_with_ties(difference[:3], verdict[:3]) == (0.0, -1.0)


def test_threshold_does_not_cut_between_equal_gaps():
    difference, verdict = np.array([0.5, 0.5, -0.5]), judged(0, 1, -1)
    assert accuracy_with_ties(difference, verdict) == (pytest.approx(2 / 3), -1.0)


@pytest.mark.parametrize("seed", range(6))
def test_best_threshold_is_that_of_a_plain_search(seed):
    rng = np.random.default_rng(seed)
    difference = rng.normal(size=40).round(1 if seed % 2 else 6)  # rounded: many equal gaps
    verdict = rng.integers(-1, 2, size=40)
    assert accuracy_with_ties(difference, verdict)[0] == pytest.approx(by_search(difference, verdict))


def test_swapping_pictures_changes_nothing():
    rng = np.random.default_rng(0)
    difference, verdict = rng.normal(size=30), rng.integers(-1, 2, size=30)
    flip = rng.choice([-1, 1], size=30)
    assert accuracy_without_ties(difference, verdict) == accuracy_without_ties(difference * flip, verdict * flip)
    assert accuracy_with_ties(difference, verdict) == accuracy_with_ties(difference * flip, verdict * flip)
    before = calibrate(difference, *shares(verdict), temperature=0.7)
    after = calibrate(difference * flip, *shares(verdict * flip), temperature=0.7)
    assert after.error == pytest.approx(before.error) and after.loss == pytest.approx(before.loss)


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_swapping_changes_nothing_where_the_reward_ties(temperature):
    """Rewards of few values tie often, and the chosen picture stands first in most data."""
    rng = np.random.default_rng(3)
    difference = rng.integers(-1, 2, size=60).astype(float)
    chosen, other, flip = np.ones(60), np.zeros(60), rng.choice([-1, 1], size=60)
    before = calibrate(difference, chosen, other, temperature=temperature)
    swapped = (np.where(flip > 0, chosen, other), np.where(flip > 0, other, chosen))
    after = calibrate(difference * flip, *swapped, temperature=temperature)
    assert (difference == 0).sum() > 10
    assert after.temperature == pytest.approx(before.temperature) and after.error == pytest.approx(before.error)
    assert [each.observed for each in after.bins] == pytest.approx([each.observed for each in before.bins])


@pytest.mark.parametrize("chosen", [np.ones(8), np.zeros(8), np.arange(8) % 2.0, np.full(8, 0.7)])
def test_a_constant_reward_says_that_it_does_not_know_and_is_right(chosen):
    found = calibrate(np.zeros(8), chosen, 1.0 - chosen)
    (only,) = found.bins
    assert (only.predicted, only.observed, only.count) == (0.5, 0.5, 8)
    assert found.error == 0.0 and found.loss == pytest.approx(np.log(2))


@pytest.mark.parametrize("temperature", [0.2, 1.0, 25.0])
def test_temperature_of_drawn_judges_is_found(temperature):
    rng = np.random.default_rng(1)
    difference = temperature * rng.normal(size=20_000) * 2
    won = rng.random(20_000) < 1 / (1 + np.exp(-difference / temperature))
    found = calibrate(difference, won.astype(float), 1.0 - won)
    assert found.fitted
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.error < 0.015
    assert sum(each.count for each in found.bins) == 20_000
    too_sure = calibrate(difference, won.astype(float), 1.0 - won, temperature=temperature / 5)
    assert too_sure.error > 0.1 and too_sure.loss > found.loss


def test_fitted_temperature_has_the_least_loss():
    rng = np.random.default_rng(2)
    difference, verdict = rng.normal(size=300), rng.integers(-1, 2, size=300)
    first, second = shares(np.where(rng.random(300) < 0.4, np.sign(difference), verdict))
    best = calibrate(difference, first, second)
    near = [calibrate(difference, first, second, temperature=best.temperature * each).loss for each in (0.9, 1.1)]
    assert best.loss < min(near)


def test_calibration_by_hand():
    """Two comparisons at sigmoid(ln 3) = 0.75: one judge agrees, one does not; and one tie that counts half."""
    found = calibrate(np.log([3.0, 3.0]), np.array([1.0, 0.0]), np.array([0.0, 0.0]), temperature=1.0)
    (only,) = found.bins
    assert (only.predicted, only.observed, only.count) == (pytest.approx(0.75), pytest.approx(0.75), 2)
    assert found.error == pytest.approx(0.0)
    assert found.loss == pytest.approx(0.5 * -np.log(0.75) + 0.5 * -0.5 * (np.log(0.75) + np.log(0.25)))


def test_all_ties():
    assert accuracy_without_ties(np.array([0.3, -0.1]), judged(0, 0))[1] == 0
    assert accuracy_with_ties(np.array([0.3, -0.1]), judged(0, 0)) == (1.0, 0.3)
