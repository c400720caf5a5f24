"""Whether a rigid body of voxels stands by statics, and whether it is one piece; an empty grid is neither."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffalign.sim import Voxels, static_stability

Grid = NDArray[np.bool_]


def stands(grid: Grid) -> bool:
    """Whether the centre of mass, seen from above, is inside the hull of the lowest layer's voxels."""
    return bool(grid.any()) and static_stability(Voxels(grid)).stable


def in_one_piece(grid: Grid) -> bool:
    """Whether every voxel can be reached from any other through faces."""
    return bool(grid.any()) and Voxels(grid).pieces == 1
