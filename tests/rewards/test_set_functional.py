"""Fréchet distance and Vendi score: against brute force, at their bounds, with gradients, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards.functional import (
    frechet_distance,
    frechet_infinity,
    gaussian_statistics,
    vendi_score,
    vendi_score_of,
)


def _draw(generator: np.random.Generator, count: int, width: int) -> np.ndarray:
    return generator.normal(size=(count, width)) @ generator.normal(size=(width, width))


def _brute_force(x: np.ndarray, y: np.ndarray) -> float:
    """The formula as it stands: roots of the eigenvalues of the product, which need not be real."""
    roots = np.sqrt(np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).astype(complex))
    apart = x.mean(0) - y.mean(0)
    return float((apart @ apart + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * roots.sum()).real)


def _distance(x: np.ndarray, y: np.ndarray) -> float:
    mean_x, mean_y = x.mean(0), y.mean(0)
    return frechet_distance(mean_x, np.cov(x.T), mean_y, np.cov(y.T))


def test_agrees_with_scipy():
    """Recorded: scipy 1.17.1, trace of linalg.sqrtm(cov_x @ cov_y), sets of default_rng(7)."""
    generator = np.random.default_rng(7)
    assert _distance(_draw(generator, 40, 6), _draw(generator, 50, 6)) == pytest.approx(27.4477532677765, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_brute_force(seed):
    generator = np.random.default_rng(seed)
    x, y = _draw(generator, 60, 8), _draw(generator, 30, 8)
    assert _distance(x, y) == pytest.approx(_brute_force(x, y), abs=1e-6)
    assert _distance(x, y) == pytest.approx(_distance(y, x), abs=1e-9)


@pytest.mark.parametrize(("count", "width"), [(100, 8), (10, 64), (2, 5)])
def test_equal_sets_are_at_zero(count, width):
    x = _draw(np.random.default_rng(0), count, width)
    assert 0 <= _distance(x, x) <= 1e-9
    assert _distance(x, x + 2.0) == pytest.approx(4 * width, rel=1e-9)  # equal shapes: the means alone


def test_singular_sets_without_common_directions():
    """The trace of the root is 0: the distance is what stands before it."""
    x, y = np.zeros((5, 6)), np.zeros((7, 6))
    x[:, :2], y[:, 3:] = np.random.default_rng(1).normal(size=(5, 2)), np.random.default_rng(2).normal(size=(7, 3))
    apart = x.mean(0) - y.mean(0)
    assert _distance(x, y) == pytest.approx(apart @ apart + np.cov(x.T).trace() + np.cov(y.T).trace(), rel=1e-12)


def test_many_features_and_few_samples_stay_exact():
    """Against the nuclear norm of the centred products, which needs no root of a matrix."""
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(20, 192)), generator.normal(size=(33, 192)) + 0.1
    centred = (x - x.mean(0)) @ (y - y.mean(0)).T / math.sqrt(19 * 32)
    apart = x.mean(0) - y.mean(0)
    expected = apart @ apart + np.cov(x.T).trace() + np.cov(y.T).trace() - 2 * np.linalg.svd(centred)[1].sum()
    assert _distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_what_comes_out_is_what_went_in():
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    mean, cov, size = gaussian_statistics(x)
    assert (mean.dtype, cov.dtype, size) == (torch.float64, torch.float64, 9)
    found = frechet_distance(mean, cov, mean + 1, cov)
    assert isinstance(found, torch.Tensor) and found.shape == ()
    assert isinstance(frechet_distance(mean.numpy(), cov.numpy(), mean.numpy(), cov.numpy()), float)
    assert isinstance(vendi_score(np.eye(3)), float) and isinstance(vendi_score(torch.eye(3)), torch.Tensor)
    assert float(vendi_score_of(x)) == pytest.approx(vendi_score_of(x.numpy()), abs=1e-12)


def test_statistics_merge_in_any_cut():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = gaussian_statistics(x)
    merged = gaussian_statistics(x[:3]).merged(gaussian_statistics(x[3:25])).merged(gaussian_statistics(x[25:]))
    assert merged.size == 40
    torch.testing.assert_close((merged.mean, merged.cov), (whole.mean, whole.cov))
    np.testing.assert_allclose(whole.cov, np.cov(x.numpy().T))


def test_gradient_of_the_distance():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(9, 3, generator=generator, dtype=torch.float64, requires_grad=True)

    def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return frechet_distance(*gaussian_statistics(one)[:2], *gaussian_statistics(other)[:2])

    assert torch.autograd.gradcheck(distance, (x, y))


def test_gradient_where_eigenvalues_repeat():
    """d/ds of |N(0, I) to N(0, s I)|^2 = d (1 - sqrt s)^2 -> d (1 - 1 / sqrt s)."""
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    one, mean = torch.eye(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    frechet_distance(mean, one, mean, scale * one).backward()
    assert scale.grad.item() == pytest.approx(2.5)


def test_gradient_where_a_covariance_is_zero():
    """N(0, C) to a point at m is |m|^2 + tr C; the root's own derivative is not defined there, and left out."""
    point = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    mean, cov = torch.ones(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for found in (frechet_distance(mean, point, 0 * mean, cov), frechet_distance(0 * mean, cov, mean, point)):
        assert found.item() == pytest.approx(6.0)
        (gradient,) = torch.autograd.grad(found, point)
        torch.testing.assert_close(gradient, cov)


def test_extrapolation_takes_the_bias_away():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 16, generator=generator)
    mean, cov = torch.zeros(16), torch.eye(16)
    found = frechet_infinity(x, mean, cov, generator=generator, smallest=100)
    biased = float(frechet_distance(*gaussian_statistics(x[:100])[:2], mean, cov))
    assert biased > 0.5 and abs(found.value) < 0.05
    assert found.slope > 0 and found.r_squared > 0.9
    with pytest.raises(DataError, match="needs more than 500 samples and 2 sizes or more, got 100 and 25"):
        frechet_infinity(x[:100], mean, cov, generator=generator)


# ---------------------------------------------------------------- Vendi


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 2.0, math.inf])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_vendi_lies_between_one_and_the_count(q, shape):
    x = np.random.default_rng(4).normal(size=shape)
    assert 1 <= vendi_score_of(x, q) <= min(shape) + 1e-9
    assert vendi_score_of(np.ones(shape), q) == pytest.approx(1)
    assert vendi_score(np.eye(7), q) == pytest.approx(7)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert vendi_score_of(x, q) == pytest.approx(vendi_score(unit @ unit.T, q), abs=1e-9)  # the dual form
    assert vendi_score_of(np.concatenate([x, x]), q) == pytest.approx(vendi_score_of(x, q), abs=1e-9)  # duplicates


def test_orders_fall_and_meet():
    x = np.random.default_rng(5).normal(size=(9, 4))
    scores = [vendi_score_of(x, q) for q in (0.0, 0.5, 1.0, 2.0, 20.0, math.inf)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(4)  # the rank
    assert vendi_score_of(x, 1 + 1e-7) == pytest.approx(scores[2], rel=1e-6)
    assert vendi_score_of(x, 1e4) == pytest.approx(scores[-1], rel=1e-3)


def test_by_hand():
    """k equal samples each of m kinds that are nothing alike: m; shares 3/4 and 1/4: the entropy of these."""
    kinds = np.eye(3).repeat(4, axis=0)
    assert vendi_score_of(kinds) == pytest.approx(3)
    uneven = np.eye(2)[[0, 0, 0, 1]]
    assert vendi_score_of(uneven) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert vendi_score_of(uneven, 2) == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert vendi_score_of(uneven, math.inf) == pytest.approx(4 / 3)


def test_length_of_a_row_says_nothing():
    x = np.random.default_rng(6).normal(size=(6, 4))
    assert vendi_score_of(x * np.arange(1, 7)[:, None]) == pytest.approx(vendi_score_of(x))


def test_gradient_of_vendi():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: vendi_score_of(rows), x)
    assert torch.autograd.gradcheck(lambda rows: vendi_score_of(rows, 2.0), x)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vendi_score(2 * np.eye(3)), DataError, "diagonal must be 1"),
        (lambda: vendi_score(np.ones((2, 3))), ShapeError, r"\[n, n\] with n >= 1, got \[2, 3\]"),
        (lambda: vendi_score(np.zeros((0, 0))), ShapeError, r"got \[0, 0\]"),
        (lambda: vendi_score(np.array([[1.0, 0.5], [0.2, 1.0]])), DataError, "symmetric"),
        (lambda: vendi_score(np.array([[1.0, 3.0], [3.0, 1.0]])), DataError, "negative eigenvalue, got -2"),
        (lambda: vendi_score(np.array([[1.0, np.nan], [np.nan, 1.0]])), DataError, "not finite"),
        (lambda: vendi_score(np.eye(2), q=-1.0), DataError, "q must be 0 or more, or infinity, got -1"),
        (lambda: vendi_score_of(np.array([[1.0, 0.0], [0.0, 0.0]])), DataError, "row 1 is all 0"),
        (lambda: vendi_score_of(np.zeros((0, 2))), DataError, "at least 1 sample"),
        (lambda: vendi_score_of(np.array([[1.0, 0.0], [np.nan, 0.0]])), DataError, "sample 1 are not finite"),
        (lambda: gaussian_statistics(np.ones((1, 2))), DataError, "at least 2 samples, got 1"),
        (lambda: gaussian_statistics(np.ones(3)), ShapeError, r"\[samples, features\], got \[3\]"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("mean", "cov", "error", "message"),
    [
        (np.zeros(3), np.eye(2), ShapeError, r"got \[3\] and \[2, 2\] beside mean_x \[2\]"),
        (np.array([0.0, np.inf]), np.eye(2), DataError, "mean_y is not finite"),
        (np.zeros(2), np.full((2, 2), np.nan), DataError, "covariance is not finite"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), DataError, "must be symmetric"),
        (np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), DataError, "no negative eigenvalue, got -1"),
    ],
)
def test_wrong_gaussians(mean, cov, error, message):
    with pytest.raises(error, match=message):
        frechet_distance(np.zeros(2), np.eye(2), mean, cov)
