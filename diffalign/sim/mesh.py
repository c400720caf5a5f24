"""Triangle meshes as a rigid body needs them: z up by a rotation, vertices merged, and closed or known not to be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import ConfigError, DataError
from diffalign.sim.cubes import face_labels, grid_of
from diffalign.sim.touching import bodies
from diffalign.sim.winding import bounds_a_volume, turned_outwards

Up = Literal["x", "y", "z"]
MOST_FACES = 5_000_000  # more would take minutes and gigabytes
_TO_Z: dict[str, tuple[tuple[int, int], ...]] = {  # new axis -> (old axis, sign); determinant +1, never a reflection
    "x": ((1, 1), (2, 1), (0, 1)),
    "y": ((0, 1), (2, -1), (1, 1)),  # (x, y, z) -> (x, -z, y)
    "z": ((0, 1), (1, 1), (2, 1)),
}
_SMALLEST, _LARGEST = 1e-60, 1e60  # the inertia goes by the fifth power, and must be a number
_SAME = 1e-9  # of the longest side: vertices nearer than this are one


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface, z up.

    Attributes:
        vertices: float64 [vertices, 3].
        faces: int64 [faces, 3], counterclockwise from outside.
        up: the axis that pointed up before it was turned.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    up: Up = "z"

    @classmethod
    def of(cls, vertices: Any, faces: Any, *, up: Up = "z") -> Mesh:
        """A mesh from arrays; a part that is inside out is turned, and faces without area go.

        Args:
            vertices: [vertices, 3] of any unit; those that no face uses do not count.
            faces: [faces, 3] of places in `vertices`.
            up: which axis points up; it is turned into z by a rotation.

        Raises:
            DataError: wrong shapes or places, values that are not finite, no faces with area, or no extent.
            ConfigError: no such axis.
        """
        if up not in _TO_Z:
            raise ConfigError(f"up: must be x, y or z, got {up!r}")
        points, triangles = _checked(vertices, faces)
        points = _to_z(points, up)
        used = np.unique(triangles)
        points, triangles = points[used], np.searchsorted(used, triangles)
        with np.errstate(over="ignore"):
            extent = float(np.ptp(points, axis=0).max())
        if not _SMALLEST < extent < _LARGEST:
            raise DataError(
                f"the mesh has no extent that can be worked with: its longest side is {extent:g}, and must lie between "
                f"{_SMALLEST:g} and {_LARGEST:g}"
            )
        points, triangles = _merged(points, triangles, extent)
        whole = (triangles != np.roll(triangles, 1, axis=1)).all(1)
        triangles = triangles[whole]
        triangles = triangles[_distinct(triangles)]
        if not len(triangles):
            raise DataError("the mesh has no face with an area")
        return cls(points, turned_outwards((points - points.min(0)) / extent, triangles), up)

    def turned(self, up: Up) -> Mesh:
        """The same surface with another axis of its own coordinates taken for the one that points up."""
        own = np.empty_like(self.vertices)
        for new, (old, sign) in enumerate(_TO_Z[self.up]):
            own[:, old] = sign * self.vertices[:, new]
        return Mesh(_to_z(own, up), self.faces, up)

    @property
    def extent(self) -> float:
        """The longest side of its box."""
        return float(np.ptp(self.vertices, axis=0).max())

    @cached_property
    def closed(self) -> bool:
        """Whether it bounds a volume: along every edge as many faces run one way as the other."""
        return bounds_a_volume(self.faces)

    @cached_property
    def pieces(self) -> int:
        """How many bodies it is made of: parts that touch, or lie less than about 1/256 of its longest side apart, are one.

        So are parts that share a vertex, whose surfaces cross, or of which one lies in the solid of the other: a hollow is
        no piece of its own, and what floats in it is. `diffalign.sim.touching.bodies` says how near is near. Of the
        surface of equal cubes the pieces are those of their grid: cubes that meet in an edge or a corner alone are
        apart.
        """
        cubes = grid_of(self.vertices, self.faces) if self.closed else None
        if cubes is not None:
            return int(face_labels(cubes).max())
        points = self.vertices - self.vertices.min(0)
        return int(bodies(points / max(self.extent, 1e-300), self.faces).max()) + 1


def _to_z(points: NDArray[np.float64], up: Up) -> NDArray[np.float64]:
    return np.stack([sign * points[:, axis] for axis, sign in _TO_Z[up]], axis=1)


def _checked(vertices: Any, faces: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        points, triangles = np.asarray(vertices), np.asarray(faces)
    except ValueError:  # rows of several lengths
        raise DataError("vertices and faces must be tables with three columns") from None
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise DataError(f"vertices must be numbers [vertices, 3], got {points.dtype} {list(points.shape)}")
    if not len(points):
        raise DataError("the mesh has no vertices")
    if not triangles.size:
        raise DataError("the mesh has no faces")
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise DataError(f"faces must be integers [faces, 3], got {triangles.dtype} {list(triangles.shape)}")
    if len(triangles) > MOST_FACES:
        raise DataError(f"the mesh has {len(triangles)} faces, more than {MOST_FACES}; simplify it first")
    if triangles.min() < 0 or triangles.max() >= len(points):
        raise DataError(
            f"faces name vertices 0 to {len(points) - 1}, and these name {triangles.min()} to {triangles.max()}"
        )
    wrong = int((~np.isfinite(points).all(1)).sum())
    if wrong:
        raise DataError(f"{wrong} of {len(points)} vertices are not finite")
    return points.astype(np.float64), triangles.astype(np.int64)


def _merged(
    points: NDArray[np.float64], triangles: NDArray[np.int64], extent: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices at one place are one: STL has each once a face, GLB once a normal."""
    places = np.round((points - points.min(0)) / (extent * _SAME)).astype(np.int64)
    first, names = _distinct_rows(places)
    return points[first], names[triangles]


def _distinct(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of faces that are there twice, the same way round, the first."""
    turned = np.take_along_axis(faces, (faces.argmin(1)[:, None] + np.arange(3)) % 3, axis=1)
    return np.sort(_distinct_rows(turned)[0])


def _distinct_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each row [rows, 3] of numbers from 0 to 2^30 is first, and for each which it is; faster than np.unique."""
    names = rows[:, 0]
    for column in (rows[:, 1], rows[:, 2]):
        _, first, names = np.unique(names * (1 << 31) + column, return_index=True, return_inverse=True)
    return first, names.reshape(-1)
