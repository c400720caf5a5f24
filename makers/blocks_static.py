"""Whether a rigid body of voxels stands on its lowest layer, and whether it is one piece."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.bool_]


def stands(grid: Grid) -> bool:
    """Whether the centre of mass, seen from above, is inside the hull of the lowest layer's voxels; empty: no."""
    return static_margin(grid) > 0


def static_margin(grid: Grid) -> float:
    """Voxels from the centre of mass, seen from above, to the nearest edge of the support; negative: outside.

    Args:
        grid: bool [x, y, z], z up.

    Returns:
        The distance to the nearest line through an edge of the convex hull; -inf of an empty grid.
    """
    cells = np.argwhere(grid)
    if len(cells) == 0:
        return -np.inf
    centre = cells[:, :2].mean(0) + 0.5
    lowest = cells[cells[:, 2] == cells[:, 2].min()][:, :2]
    hull = convex_hull(lowest)
    edges = pairwise([*hull, hull[0]])
    return min(_distance(first, second, centre) for first, second in edges)


def convex_hull(cells: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Corners of the hull of unit squares [squares, 2] (their lower corners are given), counter-clockwise."""
    corners = sorted({(int(x) + a, int(y) + b) for x, y in cells for a in (0, 1) for b in (0, 1)})
    halves = []
    for points in (corners, corners[::-1]):  # Andrew's monotone chain
        half: list[tuple[int, int]] = []
        for point in points:
            while len(half) > 1 and _turn(half[-2], half[-1], point) <= 0:
                half.pop()
            half.append(point)
        halves.append(half[:-1])
    return halves[0] + halves[1]


def in_one_piece(grid: Grid) -> bool:
    """Whether every voxel can be reached from any other through faces; empty: no."""
    if not grid.any():
        return False
    padded = np.pad(grid, 1)
    reached = np.zeros_like(padded)
    reached[tuple(np.argwhere(padded)[0])] = True
    while True:
        grown = reached.copy()
        for axis, step in ((axis, step) for axis in range(3) for step in (1, -1)):
            grown |= np.roll(reached, step, axis)
        grown &= padded
        if (grown == reached).all():
            return bool((grown == padded).all())
        reached = grown


def _turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _distance(first: tuple[int, int], second: tuple[int, int], point: NDArray[np.float64]) -> float:
    """From the line through both to a point, positive on its left."""
    along = np.subtract(second, first)
    away = point - first
    return float((along[0] * away[1] - along[1] * away[0]) / np.hypot(*along))
