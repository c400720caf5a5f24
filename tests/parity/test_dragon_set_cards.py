"""Numbers recorded in float64 from the published formulas of set rewards, written independently of this package.

Source: the method note on DRAGON (section 7): Fréchet distance as in microsoft/fadtk, Vendi score as in
vertaix/Vendi-Score, one greedy pass over pairs. Six digits each.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffalign.data import greedy_swap
from diffalign.rewards import FrechetReward, load_encoder
from diffalign.rewards.functional import Gaussian, frechet_distance, gaussian_statistics, vendi_score, vendi_score_of

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


FIRST, SECOND = [0.2, 1.5, -0.3, 2.0], [1.0, -0.8, 0.9, 0.1]


def test_one_greedy_pass():
    """The distance to N(0, 1) in one dimension: D+ starts as D2, and the first exchange alone is kept."""
    standard = Gaussian(torch.zeros(1), torch.eye(1), 1000)
    reward = FrechetReward(standard, encoder=load_encoder("latents"))
    x = torch.tensor([FIRST, SECOND], dtype=torch.float64).T[..., None]
    found = greedy_swap(reward, x)
    assert (found.first_reward, found.second_reward) == pytest.approx((-0.728675, -0.116680), abs=6e-7)
    assert found.swaps == 1
    pairs = found.contrast.pick(x)[..., 0]
    assert pairs[:, 0].tolist() == [0.2, -0.8, 0.9, 0.1] and pairs[:, 1].tolist() == [1.0, 1.5, -0.3, 2.0]
    assert (found.positive_reward, found.negative_reward) == pytest.approx((-0.101437, -1.102638), abs=6e-7)


def test_the_best_of_all_splits():
    best = np.array([1.0, -0.8, -0.3, 0.1])[:, None]
    mean, cov, _ = gaussian_statistics(best)
    one = frechet_distance(mean.numpy(), cov.numpy(), np.zeros(1), np.eye(1))
    assert one == pytest.approx(0.056845, abs=6e-7)
