"""Numbers recorded in float64 from the published formulas of set rewards, written independently of this package.

Source: the method note on DRAGON (section 7): Fréchet distance as in microsoft/fadtk, Vendi score as in
vertaix/Vendi-Score, one greedy pass over pairs. Six digits each.
"""

from __future__ import annotations

import numpy as np
import pytest

from diffalign.rewards.functional import frechet_distance, gaussian_statistics, vendi_score, vendi_score_of

MEAN_1, COV_1 = np.zeros(2), np.array([[1, 0.2], [0.2, 0.5]])
MEAN_2, COV_2 = np.array([1, -0.5]), np.array([[2, -0.3], [-0.3, 1]])


def test_distance_of_two_gaussians():
    assert frechet_distance(MEAN_1, COV_1, MEAN_2, COV_2) == pytest.approx(1.624628, abs=6e-7)
    assert frechet_distance(MEAN_1, COV_1, MEAN_1, COV_2) == pytest.approx(0.374628, abs=6e-7)  # the covariances' part
    assert frechet_distance(*(np.array(one) for one in ([0.0], [[1.0]], [2.0], [[4.0]]))) == pytest.approx(5.0)


def test_distance_of_a_song():
    """Three frames in two dimensions."""
    mean, cov, _ = gaussian_statistics(np.array([[0.2, 0.1], [0.4, -0.3], [-0.1, 0.5]]))
    np.testing.assert_allclose(mean, [0.166667, 0.1], atol=6e-7)
    np.testing.assert_allclose(cov, [[0.063333, -0.1], [-0.1, 0.16]], atol=6e-7)
    assert frechet_distance(mean.numpy(), cov.numpy(), MEAN_2, COV_2) == pytest.approx(3.047195, abs=6e-7)


def test_vendi_scores():
    kernel = np.array([[1, 0.5, 0.2], [0.5, 1, 0.3], [0.2, 0.3, 1]])
    np.testing.assert_allclose(np.linalg.eigvalsh(kernel / 3), [0.162387, 0.276310, 0.561303], atol=6e-7)
    assert vendi_score(kernel) == pytest.approx(2.650454, abs=6e-7)
    assert vendi_score_of(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) == pytest.approx(1.889882, abs=6e-7)
