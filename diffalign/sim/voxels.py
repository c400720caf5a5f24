"""Occupancy grids as bodies made of cubes: mass, surface and pieces are exact, with nothing smoothed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import DataError, MissingExtraError
from diffalign.sim.cubes import face_labels
from diffalign.sim.mesh import Mesh

_CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
# axis -> the corners of its upper face, counterclockwise from outside; the lower one is the same, backwards
_FACES = {
    0: np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]]),
    1: np.array([[0, 1, 0], [0, 1, 1], [1, 1, 1], [1, 1, 0]]),
    2: np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]),
}


@dataclass(frozen=True, eq=False)
class Voxels:
    """A shape of cubes, z up; the grid's longest side is 1 long.

    Attributes:
        occupied: bool [x, y, z].
    """

    occupied: NDArray[np.bool_]

    @classmethod
    def of(cls, occupancy: Any, *, allow_empty: bool = False) -> Voxels:
        """A shape from a grid.

        Args:
            occupancy: [x, y, z] or [1, x, y, z], bool, or numbers in [0, 1] of which more than 0.5 is occupied.
            allow_empty: take a grid of which nothing is occupied too: it has 0 pieces, and no mass.

        Raises:
            DataError: another number of axes, other numbers, or nothing is occupied.
        """
        grid = np.asarray(occupancy)
        grid = grid[0] if grid.ndim == 4 and grid.shape[0] == 1 else grid
        if grid.ndim != 3 or not grid.size:
            raise DataError(f"an occupancy grid must be [x, y, z], got {list(grid.shape)}")
        if grid.dtype != bool:
            if grid.dtype.kind not in "fiu" or not np.isfinite(grid).all():
                raise DataError("an occupancy grid must be of finite numbers in [0, 1]")
            if grid.min() < -1e-4 or grid.max() > 1 + 1e-4:
                raise DataError(f"an occupancy must lie in [0, 1], got {grid.min():.4g} to {grid.max():.4g}")
            grid = grid > 0.5
        if not allow_empty and not grid.any():
            raise DataError("the occupancy grid is empty")
        return cls(grid)

    @property
    def side(self) -> float:
        """Of a cube."""
        return 1.0 / max(self.occupied.shape)

    @property
    def volume(self) -> float:
        """The share of the grid that is occupied."""
        return float(self.occupied.mean())

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """For each cell the number of its piece, from 1; cubes belong together where they share a face. 0: empty."""
        return face_labels(self.occupied)

    @property
    def pieces(self) -> int:
        """How many parts share no face."""
        return int(self.labels.max())

    def filled(self) -> Voxels:
        """The shape without hollows: also occupied is what no path of empty cells, face to face, joins to the outside.

        What lies beyond the grid is outside: a shape that the grid's border cuts open stays open.

        Raises:
            MissingExtraError: SciPy is not installed.
        """
        try:
            from scipy.ndimage import binary_fill_holes
        except ImportError:
            raise MissingExtraError("the hollows of a grid need SciPy: pip install 'diffalign[sim]'") from None
        return Voxels(binary_fill_holes(self.occupied))

    def corners(self) -> NDArray[np.float64]:
        """Points [points, 3] whose hull is that of the shape: those of the lowest and the highest cube of each column."""
        x, y = np.nonzero(self.occupied.any(2))
        column = self.occupied[x, y]
        low, high = column.argmax(1), column.shape[1] - 1 - column[:, ::-1].argmax(1)
        cells = np.concatenate([np.stack([x, y, low], 1), np.stack([x, y, high], 1)])
        return np.unique((cells[:, None] + _CORNERS).reshape(-1, 3), axis=0) * self.side

    def outline(self) -> NDArray[np.float64]:
        """Its surface as few triangles [triangles, 3, 3]: faces in a row are one. For pictures; the edges do not meet."""
        padded = np.pad(self.occupied, 1)
        squares = []
        for axis, corners in _FACES.items():
            along = (axis + 1) % 3
            for shift, ordered in ((-1, corners), (1, corners[::-1] - np.eye(3, dtype=int)[axis])):
                bare = np.moveaxis(self.occupied & ~np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1], along, -1)
                steps = np.diff(np.pad(bare, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=-1)
                begin, end = np.argwhere(steps == 1), np.argwhere(steps == -1)
                cells = np.insert(begin[:, :2], along, begin[:, 2], axis=1)
                stretch = np.ones((len(cells), 3), dtype=int)
                stretch[:, along] = end[:, 2] - begin[:, 2]
                low, high = ordered.min(0), ordered - ordered.min(0)
                squares.append(cells[:, None] + low + high * stretch[:, None])
        quads = np.concatenate(squares) * self.side
        return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])

    def surface(self) -> Mesh:
        """Its faces, two triangles each."""
        padded = np.pad(self.occupied, 1)
        squares = []
        for axis, corners in _FACES.items():
            for shift, ordered in ((-1, corners), (1, corners[::-1] - np.eye(3, dtype=int)[axis])):
                bare = self.occupied & ~np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1]
                squares.append(np.argwhere(bare)[:, None] + ordered)
        points, names = np.unique(np.concatenate(squares).reshape(-1, 3), axis=0, return_inverse=True)
        quads = names.reshape(-1, 4)
        return Mesh(points * self.side, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int64))
