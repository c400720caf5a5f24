"""How much of a mesh's volume counts more than once, as its closed parts run into each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffalign.sim.mesh import Mesh
from diffalign.sim.winding import closed_parts, parts_across_edges

_SIDES = (20, 10, 5)  # upright lines stand in so many squares along x and y
_MOST_PAIRS = 5_000_000  # of lines and faces; a second or two
_MOST_PARTS = 1000  # of more it is not asked first whether boxes meet


def doubled_share(mesh: Mesh, *, seed: int = 0) -> float:
    """The share of the volume of its closed parts that counts more than once; 0 for a single part.

    Two boxes of volume 1 that share 0.2 count 2, of which 0.2 is there twice: 0.1. Along upright lines at places that the
    seed draws it is exact; between them an estimate, from 400 lines (from fewer where very many faces are large).
    """
    closed = closed_parts(len(mesh.vertices), mesh.faces)
    faces = mesh.faces[closed]
    if not len(faces):
        return 0.0
    points = (mesh.vertices - mesh.vertices.min(0)) / mesh.extent
    corners = points[faces]
    if not _boxes_meet(corners, parts_across_edges(faces)):
        return 0.0
    line, heights, turns = _crossings(corners, seed)
    if not len(line):
        return 0.0
    total = np.concatenate([[0.0], turns.cumsum()])
    within = (total[1:] - total[np.searchsorted(line, line)])[:-1]  # above each crossing
    lengths = np.where(line[1:] == line[:-1], np.diff(heights), 0.0)
    counted, twice = float((within * lengths).sum()), float((np.maximum(within - 1, 0) * lengths).sum())
    return min(1.0, twice / counted) if counted > 0 else 0.0


def _boxes_meet(corners: NDArray[np.float64], part: NDArray[np.int64]) -> bool:
    """Whether the boxes of any two parts share a volume."""
    _, part = np.unique(part, return_inverse=True)
    count = int(part.max()) + 1
    if not 1 < count <= _MOST_PARTS:
        return count > 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, part, corners.min(1))
    np.maximum.at(high, part, corners.max(1))
    meet = np.ones((count, count), dtype=bool)
    for axis in range(3):
        meet &= np.minimum.outer(high[:, axis], high[:, axis]) - np.maximum.outer(low[:, axis], low[:, axis]) > 1e-9
    return bool(np.triu(meet, 1).any())


def _crossings(
    corners: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Where upright lines meet a surface, line by line, rising: the line, the height, and 1 where it enters or -1."""
    start, end = corners.min((0, 1))[:2], corners.max((0, 1))[:2]
    for side in _SIDES:
        unit = np.maximum(end - start, 1e-300) / side
        low = np.clip((corners[..., :2].min(1) - start) // unit, 0, side - 1).astype(np.int64)
        wide, deep = (np.clip((corners[..., :2].max(1) - start) // unit, 0, side - 1).astype(np.int64) - low + 1).T
        if (wide * deep).sum() <= _MOST_PAIRS:
            break
    face = np.repeat(np.arange(len(corners)), wide * deep)
    place = np.arange(len(face)) - np.repeat(np.cumsum(wide * deep) - wide * deep, wide * deep)
    line = (low[face, 0] + place // deep[face]) * side + low[face, 1] + place % deep[face]
    squares = np.stack(np.divmod(np.arange(side * side), side), axis=1)
    places = start + (squares + np.random.default_rng(seed).random(squares.shape)) * unit
    a, b, c = (corners[face, each] for each in range(3))
    spot = places[line]
    shares = np.stack([_doubled_area(b, c, spot), _doubled_area(c, a, spot), _doubled_area(a, b, spot)], axis=1)
    area = shares.sum(1)
    met = ((shares > 0).all(1) | (shares < 0).all(1)) & (area != 0)
    heights = np.einsum("ij,ij->i", shares[met], corners[face[met]][..., 2]) / area[met]
    turns, line = np.where(area[met] < 0, 1.0, -1.0), line[met]
    order = np.lexsort((heights, line))
    return line[order], heights[order], turns[order]


def _doubled_area(
    start: NDArray[np.float64], end: NDArray[np.float64], spot: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Twice the signed area of triangles seen from above."""
    found: NDArray[np.float64] = (start[:, 0] - spot[:, 0]) * (end[:, 1] - spot[:, 1]) - (start[:, 1] - spot[:, 1]) * (
        end[:, 0] - spot[:, 0]
    )
    return found
