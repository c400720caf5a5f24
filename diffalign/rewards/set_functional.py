"""Formulas of whole sets: the Fréchet distance of two Gaussians, and the Vendi score. In float64, on the device given.

All take numpy arrays or torch tensors of features, one row a sample. Numpy in gives a float; tensors give a tensor of no
axes, with gradient where an input has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from diffalign.exceptions import DataError, ShapeError

Array = TypeVar("Array", np.ndarray, Tensor)
_ASYMMETRY = 1e-5  # of the largest entry: what float32 leaves between a matrix and its transpose
_NO_SHARE = 1e-12  # of eigenvalues that sum to 1: the Vendi authors' bound for zero


class Gaussian(NamedTuple):
    """Mean and covariance of a set of features.

    Attributes:
        mean: [features], float64.
        cov: [features, features], divided by size - 1.
        size: samples that they were taken from.
    """

    mean: Tensor
    cov: Tensor
    size: int

    def merged(self, other: Gaussian) -> Gaussian:
        """The statistics of both sets together, as if from all their samples at once."""
        size = self.size + other.size
        apart = other.mean - self.mean
        scatter = (self.size - 1) * self.cov + (other.size - 1) * other.cov
        scatter = scatter + self.size * other.size / size * torch.outer(apart, apart)
        return Gaussian(self.mean + apart * (other.size / size), scatter / (size - 1), size)


def gaussian_statistics(features: Array) -> Gaussian:
    """Mean and covariance (n - 1) of features [n, d], as float64 tensors.

    The first two entries are what `frechet_distance` takes: `frechet_distance(*gaussian_statistics(x)[:2], mean, cov)`.

    Raises:
        ShapeError: not [n, d].
        DataError: fewer than 2 rows, or a value that is not finite.
    """
    rows = _rows(features)
    if len(rows) < 2:
        raise DataError(f"a covariance needs at least 2 samples, got {len(rows)}")
    mean = rows.mean(0)
    apart = rows - mean
    return Gaussian(mean, apart.T @ apart / (len(rows) - 1), len(rows))


def frechet_distance(mean_x: Array, cov_x: Array, mean_y: Array, cov_y: Array) -> float | Tensor:
    """Squared Fréchet distance of two Gaussians: FID of pictures, FAD of sounds, by what the features are of.

        |mean_x - mean_y|^2 + tr(cov_x) + tr(cov_y) - 2 tr((cov_x cov_y)^(1/2))

    The last trace is the sum of the singular values of A^T B with cov_x = A A^T and cov_y = B B^T. Their squares are
    the eigenvalues of S cov_y S, S = cov_x^(1/2), so nothing can be negative or complex, and a singular covariance
    (fewer samples than features) does no harm.

    Args:
        mean_x, mean_y: [d].
        cov_x, cov_y: [d, d], symmetric, divided by n - 1.

    Returns:
        0 or more, in squared units of the features; not rooted. A set of few samples is far from any reference by
        its size alone: compare sets of one size only, or see `frechet_infinity`.

    Raises:
        ShapeError: the four do not fit together.
        DataError: a value that is not finite, a covariance that is not symmetric or has negative eigenvalues.

    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium";
    Kilgour et al. 2019, "Fréchet Audio Distance". microsoft/fadtk's fad.py takes roots of the eigenvalues of
    cov_x cov_y instead, which numerical noise makes complex.
    """
    means, covs = (_double(mean_x), _double(mean_y)), (_double(cov_x), _double(cov_y))
    for name, mean, cov in zip("xy", means, covs):
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or len(mean) != len(means[0]):
            raise ShapeError(
                f"mean_{name} must be [d] and cov_{name} [d, d] with one d for x and y, got {list(mean.shape)} and "
                f"{list(cov.shape)}" + (f" beside mean_x {list(means[0].shape)}" if name == "y" else "")
            )
        if not bool(mean.isfinite().all()):
            raise DataError(f"mean_{name} is not finite")
    distance = (means[0] - means[1]).square().sum() + covs[0].trace() + covs[1].trace()
    return _as_given((distance - 2 * _trace_of_root(*covs)).clamp(min=0), mean_x)


def covariance_factor(cov: Tensor) -> Tensor:
    """A [d, rank] with cov = A A^T, no gradient; eigenvalues that are rounding noise are left out.

    Raises:
        DataError: not finite, not symmetric, or with negative eigenvalues.
    """
    cov = cov.detach()
    if not bool(cov.isfinite().all()):
        raise DataError("a covariance is not finite")
    largest = float(cov.abs().max()) if cov.numel() else 0.0
    if float((cov - cov.T).abs().max()) > _ASYMMETRY * largest:
        raise DataError("a covariance must be symmetric")
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    if float(values[0]) < -_ASYMMETRY * largest:
        raise DataError(f"a covariance must have no negative eigenvalue, got {float(values[0]):.4g}")
    kept = values > len(cov) * torch.finfo(cov.dtype).eps * values[-1].clamp(min=0)
    return vectors[:, kept] * values[kept].sqrt()


def _trace_of_root(cov_x: Tensor, cov_y: Tensor) -> Tensor:
    """tr((cov_x cov_y)^(1/2)), with gradient: that of the eigenvectors' form is not defined where eigenvalues repeat."""
    x, y = covariance_factor(cov_x), covariance_factor(cov_y)
    left, singular, right = torch.linalg.svd(x.T @ y, full_matrices=False)
    root = singular.sum()
    if not len(singular) or not (cov_x.requires_grad or cov_y.requires_grad):  # none: one covariance is 0
        return root
    inverse = torch.where(singular > 1e-12 * singular.max(), 1 / singular, 0.0)
    to_x, to_y = y @ right.T, x @ left
    for cov, to in ((cov_x, to_x), (cov_y, to_y)):
        root = root + ((to * inverse) @ to.T / 2 * (cov - cov.detach())).sum()  # adds 0, and its derivative
    return root


class Extrapolation(NamedTuple):
    """A line through distances at several set sizes, over 1 / size.

    Attributes:
        value: where the line meets infinitely many samples.
        slope: per 1 / size.
        r_squared: share of the variance that the line explains; low where the sizes are too alike.
    """

    value: float
    slope: float
    r_squared: float


def frechet_infinity(
    features: Array, mean: Array, cov: Array, *, generator: torch.Generator, smallest: int = 500, sizes: int = 25
) -> Extrapolation:
    """The Fréchet distance to a reference that infinitely many samples would have: free of the bias of small sets.

    Args:
        features: [n, d] with n > smallest; `sizes` sets of `smallest` to n rows are drawn from it, with replacement.
        mean, cov: of the reference.
        generator: of the draws, on the CPU.
        smallest, sizes: fadtk's numbers.

    Returns:
        The intercept may be negative where the fit is poor.

    Source: Chong and Forsyth 2020, "Effectively Unbiased FID and Inception Score and where to find them";
    microsoft/fadtk, score_inf.
    """
    reference = _double(mean).detach(), _double(cov).detach()

    def distance(rows: Tensor) -> float:
        return float(frechet_distance(*gaussian_statistics(rows)[:2], *reference))

    return extrapolate(_rows(features).detach(), distance, generator=generator, smallest=smallest, sizes=sizes)


def extrapolate(
    rows: Tensor, distance: Callable[[Tensor], float], *, generator: torch.Generator, smallest: int, sizes: int
) -> Extrapolation:
    """What a distance of rows [n, d] would be of infinitely many; see `frechet_infinity`."""
    if not 2 <= smallest < len(rows) or sizes < 2:
        raise DataError(f"needs more than {smallest} samples and 2 sizes or more, got {len(rows)} and {sizes}")
    counts = torch.linspace(smallest, len(rows), sizes, dtype=torch.float64).long()
    drawn = (torch.randint(len(rows), (count,), generator=generator).to(rows.device) for count in counts.tolist())
    shares, seen = 1 / counts.double().numpy(), np.array([distance(rows[places]) for places in drawn])
    slope, value = np.polyfit(shares, seen, 1)
    spread = ((seen - seen.mean()) ** 2).sum()
    left = ((seen - value - slope * shares) ** 2).sum()
    return Extrapolation(float(value), float(slope), float(1 - left / spread) if spread else 1.0)


def vendi_score(kernel: Array, q: float | int = 1.0) -> float | Tensor:
    """How many different samples a set holds in effect: 1 where all are equal, n where no two are alike.

        p = eigenvalues of kernel / n;   q = 1: exp(-sum p ln p);   else exp(ln(sum p^q) / (1 - q));   inf: 1 / max p

    Args:
        kernel: likeness of every two samples [n, n], symmetric, positive semi-definite, 1 on the diagonal.
        q: order, 0 or more, or infinity. 0 counts the eigenvalues that are not 0; larger orders see only what is common.

    Raises:
        ShapeError: not square, or empty.
        DataError: not finite, not symmetric, another diagonal, negative eigenvalues, or q < 0.

    Source: Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", and
    Pasarkar and Dieng 2023 for the orders; vertaix/Vendi-Score, whose `score_X` passes over its q.
    """
    likeness = _double(kernel)
    if likeness.ndim != 2 or likeness.shape[0] != likeness.shape[1] or not len(likeness):
        raise ShapeError(f"a kernel must be [n, n] with n >= 1, got {list(likeness.shape)}")
    if not bool(likeness.isfinite().all()):
        raise DataError("the kernel is not finite")
    if float((likeness.diagonal() - 1).detach().abs().max()) > 1e-4:
        raise DataError("the kernel's diagonal must be 1: divide by the roots of its diagonal, row by row and column")
    if float((likeness - likeness.T).detach().abs().max()) > _ASYMMETRY:
        raise DataError("the kernel must be symmetric")
    values = torch.linalg.eigvalsh((likeness + likeness.T) / (2 * len(likeness)))
    if float(values[0].detach()) < -1e-4:
        raise DataError(f"the kernel must have no negative eigenvalue, got {float(values[0]) * len(likeness):.4g}")
    return _as_given(vendi_of_eigenvalues(values, q), kernel)


def vendi_score_of(features: Array, q: float | int = 1.0) -> float | Tensor:
    """`vendi_score` of the cosines between features [n, d]: rows are brought to length 1 first.

    The eigenvalues are those of X X^T / n or of X^T X / n, whichever is smaller.

    Raises:
        ShapeError: not [n, d].
        DataError: no rows, a value that is not finite, a row of zeros, or q < 0.
    """
    rows = unit_rows(_rows(features))
    gram = rows.T @ rows if rows.shape[1] < len(rows) else rows @ rows.T
    return _as_given(vendi_of_eigenvalues(torch.linalg.eigvalsh(gram / len(rows)), q), features)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows at length 1.

    Raises:
        DataError: no rows, or one of zeros: it has no direction.
    """
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not len(rows):
        raise DataError("a set needs at least 1 sample, got none")
    if bool((lengths == 0).any()):
        raise DataError(f"row {int((lengths == 0).flatten().nonzero()[0])} is all 0: it has no direction to compare")
    return rows / lengths


def vendi_of_eigenvalues(values: Tensor, q: float | int) -> Tensor:
    """The score of order q from the eigenvalues of kernel / n, which sum to 1; those that are 0 are passed over.

    Raises:
        DataError: q < 0.
    """
    if not q >= 0:
        raise DataError(f"q must be 0 or more, or infinity, got {q:g}")
    shares = values[values > _NO_SHARE]
    shares = shares / shares.sum()
    if math.isinf(q):
        return 1 / shares.max()
    if q == 1:
        return (-(shares * shares.log()).sum()).exp()
    return ((q * shares.log()).logsumexp(0) / (1 - q)).exp()  # a power alone underflows at large q


def _double(values: Array) -> Tensor:
    return torch.as_tensor(values).to(torch.float64)


def _rows(features: Array) -> Tensor:
    rows = _double(features)
    if rows.ndim != 2:
        raise ShapeError(f"features must be [samples, features], got {list(rows.shape)}")
    if not bool(rows.isfinite().all()):
        bad = int((~rows.isfinite()).any(1).nonzero()[0])
        raise DataError(f"features of sample {bad} are not finite; leave it out")
    return rows


def _as_given(value: Tensor, given: Array) -> float | Tensor:
    return value if isinstance(given, Tensor) else float(value)
