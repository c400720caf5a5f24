"""Where a body comes to rest that moves without speed: it rolls over its hull as long as its centre of mass sinks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffalign.sim import Solid
from diffalign.sim.solid import hull_faces
from diffalign.sim.static import convex_polygon

_SAME = 1e-6  # of the longest side: points that touch the ground together, and a centre of mass above a point of it


@dataclass(frozen=True, eq=False)
class Roll:
    """What became of a body.

    Attributes:
        tilt: degrees between its upward direction before and after, 0 to 180.
        rotation: [3, 3], the whole of it.
        steps: from one contact to the next.
        balances: whether it rests with its centre of mass above a point or an edge of what it stands on.
    """

    tilt: float
    rotation: NDArray[np.float64]
    steps: int
    balances: bool

    def stable(self, threshold: float = 20.0) -> bool:
        """Whether it is tilted by less than so many degrees in the end."""
        return self.tilt < threshold


def quasi_static_roll(solid: Solid, *, most: int = 10_000) -> Roll:
    """Roll a body to where it rests.

    It stands on the convex hull of the points that touch the ground. Where its centre of mass is outside of that, it turns
    about the nearest edge of it, or about the nearest corner straight towards the centre of mass, until the next point of
    its own hull touches. Each turn lowers the centre of mass, so that this ends: with the centre inside, or exactly above
    the border, where nothing pushes it. It has no speed, so it never rocks, slides, or rolls on beyond the first rest.

    Args:
        solid: as `solid_of` makes it.
        most: turns after which it is left as it lies; a body of n hull points needs about n at most.
    """
    corners, _ = hull_faces((solid.points - solid.centre) / solid.extent)
    whole = np.eye(3)
    for steps in range(most + 1):
        points = corners @ whole.T
        height = points[:, 2] - points[:, 2].min()
        nearest, inside = _nearest(convex_polygon(points[height <= _SAME, :2]))
        away = float(np.linalg.norm(nearest))
        if inside or away <= _SAME or steps == most:
            break
        towards = -nearest / away  # the centre of mass is above the origin
        beyond = (points[:, :2] - nearest) @ towards
        free = (height > _SAME) | (beyond > _SAME)
        angle = float(np.arctan2(height[free], beyond[free]).min())
        whole = _turn(towards, angle) @ whole
    tilt = math.degrees(math.acos(min(1.0, max(-1.0, float(whole[2, 2])))))
    return Roll(tilt, whole, steps, not inside)


def _nearest(polygon: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Of a polygon [corners, 2], counterclockwise, the point of its border nearest to the origin; is the origin inside?"""
    edge = np.roll(polygon, -1, axis=0) - polygon
    along = np.clip(-(polygon * edge).sum(1) / np.maximum((edge**2).sum(1), 1e-300), 0, 1)
    points = polygon + along[:, None] * edge
    inside = len(polygon) > 2 and bool((edge[:, 1] * polygon[:, 0] - edge[:, 0] * polygon[:, 1] > 0).all())
    return points[np.linalg.norm(points, axis=1).argmin()], inside


def _turn(towards: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """The rotation that lowers what lies in a horizontal direction [2]: up goes towards it."""
    x, y = towards
    cross = np.array([[0.0, 0, x], [0, 0, y], [-x, -y, 0]])  # of the axis (-y, x, 0)
    rotation: NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return rotation
