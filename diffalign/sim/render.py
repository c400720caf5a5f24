"""Pictures of shapes without a graphics card or a window: a depth buffer in NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from diffalign.sim.solid import Shape
from diffalign.sim.voxels import Voxels

_CLAY, _GROUND, _SHADOW = (214.0, 138.0, 89.0), (238.0, 238.0, 234.0), (196.0, 196.0, 190.0)
_SKY = (255.0, 255.0, 255.0)
_LIGHT = np.array([-0.45, -0.55, 0.9])
_AZIMUTH, _ELEVATION = math.radians(-60.0), math.radians(22.0)
_FINER = 2  # points along a pixel, averaged


def render(
    shape: Shape,
    *,
    size: int = 128,
    pose: NDArray[np.float64] | None = None,
    span: float | None = None,
) -> NDArray[np.uint8]:
    """A picture of a shape on the ground, seen from the front, from its right and from above, without perspective.

    Args:
        shape: a mesh or voxels, z up.
        size: pixels along a side.
        pose: [4, 4], as `Stability.pose`: where the shape is; None: as it is, put on the ground.
        span: how much of the world the picture shows, in units of the shape; None: 1.7 of its longest side.

    Returns:
        uint8 [size, size, 3].
    """
    triangles = shape.outline() if isinstance(shape, Voxels) else shape.vertices[shape.faces]
    span = 1.7 * _extent(triangles) if span is None else span
    if pose is None:
        triangles = triangles - [0, 0, triangles[..., 2].min()]
    else:
        triangles = triangles @ pose[:3, :3].T + pose[:3, 3]
    box = triangles.max((0, 1)), triangles.min((0, 1))
    middle = (box[0] + box[1])[:2] / 2
    triangles = (triangles - [*middle, 0]) / span
    fine = size * _FINER
    canvas = _Canvas(fine)
    ground = np.array([[-0.62, -0.62, 0], [0.62, -0.62, 0], [0.62, 0.62, 0], [-0.62, 0.62, 0]])
    canvas.fill(ground[[[0, 1, 2], [0, 2, 3]]], np.tile(_GROUND, (2, 1)), back=1e-3)
    closed = isinstance(shape, Voxels) or shape.closed
    lit, seen = (_facing(triangles, way) if closed else slice(None) for way in (_LIGHT, _axes()[2]))
    fallen = triangles[lit] - triangles[lit][..., 2:] / _LIGHT[2] * _LIGHT
    canvas.fill(fallen.clip([-0.6, -0.6, -1], [0.6, 0.6, 1]), np.tile(_SHADOW, (len(fallen), 1)), back=5e-4)
    canvas.fill(triangles[seen], _shaded(triangles[seen]), back=0.0)
    coarse = canvas.colours.reshape(size, _FINER, size, _FINER, 3).mean((1, 3))
    return coarse.round().astype(np.uint8)


def settling(shape: Shape, pose: NDArray[np.float64], *, size: int = 128) -> NDArray[np.uint8]:
    """The shape as it was put down, and beside it where it came to rest: uint8 [size, 2 size, 3].

    Args:
        pose: `Stability.pose` of a simulation with `settle`.
    """
    span = 1.7 * _extent(shape.outline() if isinstance(shape, Voxels) else shape.vertices[shape.faces])
    return np.concatenate([render(shape, size=size, span=span), render(shape, size=size, pose=pose, span=span)], axis=1)


def _extent(triangles: NDArray[np.float64]) -> float:
    return float((triangles.max((0, 1)) - triangles.min((0, 1))).max())


def _facing(triangles: NDArray[np.float64], way: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of a closed surface the faces that look that way: they hide the others, and throw its whole shadow."""
    facing: NDArray[np.bool_] = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]) @ way > 0
    return facing


def _shaded(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    towards = _axes()[2]
    normal *= np.where(normal @ towards < 0, -1.0, 1.0)[:, None]  # an open surface is seen from within too
    lit = (normal @ (_LIGHT / np.linalg.norm(_LIGHT))).clip(0)
    return np.array(_CLAY) * (0.45 + 0.6 * lit)[:, None].clip(0, 1.1)


def _axes() -> NDArray[np.float64]:
    """The camera's right, up and backward directions."""
    ahead = np.array(
        [math.cos(_ELEVATION) * math.cos(_AZIMUTH), math.cos(_ELEVATION) * math.sin(_AZIMUTH), math.sin(_ELEVATION)]
    )
    right = np.array([-math.sin(_AZIMUTH), math.cos(_AZIMUTH), 0.0])
    return np.stack([right, np.cross(ahead, right), ahead])


class _Canvas:
    """Pixels and how near each is."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.colours = np.tile(np.array(_SKY, dtype=np.float64), (size, size, 1))
        self._near = np.full((size, size), -np.inf)

    def fill(self, triangles: NDArray[np.float64], colours: NDArray[np.float64], back: float) -> None:
        """Draw triangles [triangles, 3, 3], put back by so much where something else is as near."""
        seen = triangles @ _axes().T
        across = (seen[..., 0] + 0.5) * self.size
        down = (0.78 - seen[..., 1]) * self.size  # the middle of the ground is low in the picture
        depth = seen[..., 2] - back
        for x, y, z, colour in zip(across, down, depth, colours, strict=True):
            self._fill_one(x, y, z, colour)

    def _fill_one(
        self, x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], colour: NDArray[np.float64]
    ) -> None:
        left, right = max(0, math.floor(x.min())), min(self.size, math.ceil(x.max()) + 1)
        top, bottom = max(0, math.floor(y.min())), min(self.size, math.ceil(y.max()) + 1)
        area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
        if left >= right or top >= bottom or abs(area) < 1e-9:
            return
        column, row = np.arange(left, right) + 0.5, np.arange(top, bottom)[:, None] + 0.5
        second = ((column - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (row - y[0])) / area
        third = ((x[1] - x[0]) * (row - y[0]) - (column - x[0]) * (y[1] - y[0])) / area
        depth = z[0] + second * (z[1] - z[0]) + third * (z[2] - z[0])
        near = self._near[top:bottom, left:right]
        shown = (second >= 0) & (third >= 0) & (second + third <= 1) & (depth > near)
        near[shown] = depth[shown]
        self.colours[top:bottom, left:right][shown] = colour
