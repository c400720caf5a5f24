"""Would it stay as it stands, by statics alone: is the centre of mass above the polygon that it stands on. NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffalign.sim.solid import Shape, Solid, Taken, solid_of


@dataclass(frozen=True)
class StaticStability:
    """What statics says of a pose.

    Attributes:
        margin: how far inside the support polygon the centre of mass lies, in units of the shape; negative: outside. On a
            point or an edge it is at most 0.
        height: of the centre of mass above the ground.
        mass: what the mass was taken from, as in `solid_of`.
    """

    margin: float
    height: float
    mass: Taken

    @property
    def stable(self) -> bool:
        """Whether it stays."""
        return self.margin > 0

    @property
    def critical_angle(self) -> float:
        """Degrees by which it may be tilted before it topples: atan(margin / height)."""
        return math.degrees(math.atan2(self.margin, self.height))


def static_stability(shape: Shape | Solid, *, tolerance: float = 1e-3) -> StaticStability:
    """The static test of a shape in the pose in which it is given.

    It knows only what touches the ground now: a shape on an edge is unstable for it, even if it would settle at once.

    Args:
        shape: a mesh or voxels, z up.
        tolerance: points that are no higher above the lowest one touch the ground; a share of the longest side.

    Raises:
        DataError, MissingExtraError: as `solid_of`.

    Source: the centre-of-mass test of e.g. Prévost et al. 2013, "Make It Stand".
    """
    solid = shape if isinstance(shape, Solid) else solid_of(shape)
    height = float(solid.centre[2] - solid.points[:, 2].min())
    return StaticStability(_depth(solid.centre[:2], support_polygon(solid, tolerance)), height, solid.mass)


def support_polygon(solid: Solid, tolerance: float = 1e-3) -> NDArray[np.float64]:
    """The corners [corners, 2], counterclockwise, of what a body stands on; `tolerance` as in `static_stability`."""
    ground = float(solid.points[:, 2].min())
    return convex_polygon(solid.points[solid.points[:, 2] <= ground + tolerance * solid.extent, :2])


def convex_polygon(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners of the convex hull of points [points, 2], counterclockwise; one or two where they have no area."""
    ordered = np.unique(points, axis=0)
    if len(ordered) < 3:
        return ordered

    def chain(way: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        corners: list[NDArray[np.float64]] = []
        for point in way:
            while len(corners) > 1 and _turn(corners[-2], corners[-1], point) <= 0:
                corners.pop()
            corners.append(point)
        return corners[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def _turn(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _depth(point: NDArray[np.float64], polygon: NDArray[np.float64]) -> float:
    """Distance to the polygon's border, positive inside."""
    start = polygon
    edge = np.roll(polygon, -1, axis=0) - start
    length = np.maximum((edge**2).sum(1), 1e-300)
    along = np.clip(((point - start) * edge).sum(1) / length, 0, 1)
    distance = float(np.linalg.norm(start + along[:, None] * edge - point, axis=1).min())
    inside = len(polygon) > 2 and bool(
        (edge[:, 0] * (point - start)[:, 1] - edge[:, 1] * (point - start)[:, 0] > 0).all()
    )
    return distance if inside else -distance
