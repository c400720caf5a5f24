"""Grids of equal cubes: their pieces, and the grid that a surface in a file was made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffalign.sim.winding import components

_EXACT = 1e-2  # of a cube's side; GLB has single precision
_MOST_CELLS = 1 << 26


def grid_of(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Which cells of a grid [x, y, z] a closed surface encloses, if it is made of halves of the cells' faces; else None.

    Args:
        points: [points, 3].
        faces: [faces, 3].
    """
    corners = points[faces]
    low = corners.min(1)
    sides = corners.max(1) - low
    side = float(sides.max())
    flat = sides.argmin(1)
    if not side > 0 or not np.allclose(np.sort(sides, axis=1), [0, side, side], rtol=0, atol=_EXACT * side):
        return None
    places = (points - points.min(0)) / side
    cells = np.round(places).astype(np.int64)
    size = cells.max(0) + 1
    if np.abs(places - cells).max() > _EXACT or float(np.prod(size.astype(float))) > _MOST_CELLS:
        return None
    level = flat == 2
    where = cells[faces[level]].min(1)
    first, second, third = np.moveaxis(corners[level], 1, 0)
    upwards = np.cross(second - first, third - first)[:, 2] > 0
    turns = np.zeros(size, dtype=np.int64)
    np.add.at(turns, tuple(where.T), np.where(upwards, -1, 1))  # each of two triangles of a square
    turns = turns.cumsum(2)
    return turns == 2 if np.isin(turns, (0, 2)).all() else None


def face_labels(occupied: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each cell of a grid the number of its piece, from 1; cubes belong together where they share a face. 0: empty."""
    cells = np.arange(occupied.size).reshape(occupied.shape)
    links = [np.zeros((0, 2), dtype=np.int64)]
    for axis in range(3):
        low, high = (np.moveaxis(each, axis, 0) for each in (cells, occupied))
        both = high[:-1] & high[1:]
        links.append(np.stack([low[:-1][both], low[1:][both]], axis=1))
    label = components(cells.size, np.concatenate(links)).reshape(cells.shape)
    numbers = np.unique(label[occupied])
    return np.where(occupied, np.searchsorted(numbers, label) + 1, 0)
