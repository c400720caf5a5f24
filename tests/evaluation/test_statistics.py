"""The intervals, against cases with a known answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffalign.annotation import wilson
from diffalign.evaluation import jackknife, outcomes, paired_bootstrap, prompt_means, win_rate


def test_against_all_resamples_by_hand():
    """Three values: all 27 resamples can be listed."""
    values = np.array([-1.0, 0.5, 2.0])
    means = np.array([np.mean(pick) for pick in itertools.product(values, repeat=3)])
    seen = paired_bootstrap(values, confidence=0.8, resamples=200_000, seed=1)
    assert seen.value == pytest.approx(0.5)
    assert seen.low == pytest.approx(np.quantile(means, 0.1), abs=1e-9)
    assert seen.high == pytest.approx(np.quantile(means, 0.9), abs=1e-9)


def test_width_on_normal_data_is_the_analytic_one():
    values = np.random.default_rng(0).normal(0.3, 2.0, size=4000)
    seen = paired_bootstrap(values, confidence=0.95, resamples=5000)
    half = 1.959964 * values.std() / np.sqrt(len(values))
    assert seen.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert seen.high == pytest.approx(values.mean() + half, abs=0.05 * half)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_coverage_on_normal_data(confidence):
    rng, trials = np.random.default_rng(7), 400
    inside = 0
    for trial in range(trials):
        seen = paired_bootstrap(rng.normal(1.0, 1.0, size=50), confidence=confidence, resamples=400, seed=trial)
        inside += seen.low <= 1.0 <= seen.high
    error = np.sqrt(confidence * (1 - confidence) / trials)
    assert inside / trials == pytest.approx(confidence, abs=3.5 * error)


def test_one_value_and_equal_values_have_no_width():
    for values in ([0.25], [0.25] * 9):
        seen = paired_bootstrap(np.array(values), confidence=0.95, resamples=100)
        assert (seen.value, seen.low, seen.high) == (0.25, 0.25, 0.25)


def test_seed_decides():
    values = np.random.default_rng(0).normal(size=30)
    first, again, other = (paired_bootstrap(values, confidence=0.9, resamples=99, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.value == other.value


def test_resamples_in_chunks_are_all_made():
    values = np.random.default_rng(0).normal(size=3_000_000 // 2)
    seen = paired_bootstrap(values, confidence=0.5, resamples=5)
    assert seen.low < seen.high
    assert abs(seen.low) < 0.01


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="no prompt was scored under both models"):
        paired_bootstrap(np.array([]), confidence=0.95, resamples=10)


def test_outcomes_count_a_tie_half():
    assert outcomes(np.array([2.0, 0.0, -1e-9, 0.0, 5.0])).tolist() == [1, 0.5, 0, 0.5, 1]
    assert outcomes(np.array([1.0, -1.0, 0.0])).mean() == 0.5


def test_win_rate_is_wilsons():
    """The same as of whole counts, and of shares the interval of their mean."""
    for count, of in ((10, 20), (0, 5), (5, 5), (1, 1)):
        found, known = win_rate((np.arange(of) < count).astype(float), confidence=0.95), wilson(count / of, of)
        assert (found.value, found.low, found.high) == (count / of, *known)
    assert win_rate(np.array([0.5, 0.5]), confidence=0.95) == win_rate(np.array([1.0, 0.0]), confidence=0.95)
    with pytest.raises(ValueError, match="nothing to compare"):
        win_rate(np.array([]), confidence=0.95)


def test_win_rate_covers_where_resampling_does_not():
    """Ten prompts of which nine in ten are won: the interval must hold the truth about as often as it says."""
    rng = np.random.default_rng(0)
    drawn = rng.random((400, 10)) < 0.9
    found = [win_rate(row.astype(float), confidence=0.95) for row in drawn]
    assert np.mean([each.low <= 0.9 <= each.high for each in found]) > 0.9
    resampled = [paired_bootstrap(row.astype(float), confidence=0.95, resamples=200) for row in drawn]
    assert np.mean([each.low <= 0.9 <= each.high for each in resampled]) < 0.8


def test_prompt_means_go_together():
    means = prompt_means(np.array([1.0, 2.0, 5.0, 3.0]), ["b", "a", "a", "c"])
    assert means.tolist() == [1.0, 3.5, 3.0]
    assert prompt_means(np.array([]), []).tolist() == []


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(3).normal(0.3, 2.0, size=60)
    without = np.array([np.delete(values, place).mean() for place in range(len(values))])
    seen = jackknife(values.mean(), without, confidence=0.95)
    assert seen.high - seen.value == pytest.approx(1.959964 * values.std(ddof=1) / np.sqrt(60), rel=1e-6)
    assert seen.value - seen.low == pytest.approx(seen.high - seen.value)


def test_jackknife_covers_a_diversity():
    """Of 100 samples the number of kinds in effect, exp(entropy), against the value that 100 others have on average."""

    def kinds(counts):
        shares = counts[counts > 0] / counts.sum()
        return np.exp(-(shares * np.log(shares)).sum())

    rng = np.random.default_rng(5)
    draws = rng.multinomial(100, [0.4, 0.3, 0.2, 0.1], size=300)
    wanted = np.mean([kinds(draw) for draw in draws])
    inside = 0
    for draw in draws:
        without = np.repeat([kinds(draw - row) for row in np.eye(4, dtype=int) if (draw >= row).all()], draw[draw > 0])
        seen = jackknife(kinds(draw), without, confidence=0.9)
        inside += seen.low <= wanted <= seen.high
    assert inside / len(draws) == pytest.approx(0.9, abs=0.06)


def test_jackknife_of_one_is_refused():
    with pytest.raises(ValueError, match="2 samples or more, got 1"):
        jackknife(1.0, np.zeros(1), confidence=0.9)


def test_jackknife_of_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="finite"):
        jackknife(1.0, np.array([1.0, np.nan]), confidence=0.9)
