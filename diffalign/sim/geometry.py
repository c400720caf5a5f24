"""How like two shapes are: points on their surfaces, Chamfer distance and F-score; of grids the share that they share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import MissingExtraError
from diffalign.sim.solid import Shape
from diffalign.sim.voxels import Voxels


class Likeness(NamedTuple):
    """How like two shapes are.

    Attributes:
        chamfer: mean of the two mean distances from a point of one to the nearest of the other. Equal shapes are not at 0
            but at what two samplings of one surface are apart, `likeness(one, one)`: with 10,000 points about 0.01.
        f_score: harmonic mean of the two shares of points that have one of the other within `tau`; 1 for equal ones, where
            points lie closer than that.
    """

    chamfer: float
    f_score: float


def surface_points(shape: Shape, count: int = 10_000, *, seed: int = 0) -> NDArray[np.float64]:
    """Points [count, 3], spread evenly at random over the surface."""
    mesh = shape.surface() if isinstance(shape, Voxels) else shape
    draws = np.random.default_rng(seed)
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = draws.choice(len(corners), count, p=area / area.sum())
    along = np.sqrt(draws.random((count, 1)))
    across = draws.random((count, 1))
    first, second, third = (corners[face, corner] for corner in range(3))
    points: NDArray[np.float64] = (1 - along) * first + along * (1 - across) * second + along * across * third
    return points


def likeness(one: Shape, other: Shape, *, tau: float = 0.05, count: int = 10_000, seed: int = 0) -> Likeness:
    """How like two shapes are, each centred and scaled to a longest side of 1.

    Each gets a draw of points of its own: with one draw for both, shapes that are nearly equal would get nearly equal
    points, and seem nearer than two samplings of one surface.

    Args:
        tau: of the F-score.
        count: points of each.
        seed: of the points of `one`; those of `other` are of the next one.

    Raises:
        MissingExtraError: SciPy is not installed.

    Source: Li et al. 2025, "DSO", the authors' evaluate_geometry.py, without its alignment by ICP.
    """
    try:
        from scipy.spatial import cKDTree
    except ImportError:
        raise MissingExtraError("distances between shapes need SciPy: pip install 'diffalign[sim]'") from None
    first, second = (
        _centred(surface_points(shape, count, seed=seed + place)) for place, shape in enumerate((one, other))
    )
    there, back = cKDTree(second).query(first)[0], cKDTree(first).query(second)[0]
    precision, recall = float((there <= tau).mean()), float((back <= tau).mean())
    both = precision + recall
    return Likeness(float(there.mean() + back.mean()) / 2, 2 * precision * recall / both if both else 0.0)


def shared_share(one: Voxels, other: Voxels) -> float:
    """Cells that both occupy over those that one of them does (IoU), in [0, 1]; the grids have one size."""
    return float((one.occupied & other.occupied).sum() / (one.occupied | other.occupied).sum())


def _centred(points: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = points.min(0), points.max(0)
    centred: NDArray[np.float64] = (points - (low + high) / 2) / (high - low).max()
    return centred
