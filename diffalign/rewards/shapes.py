"""Shapes as samples: meshes, and occupancy grids as a volume model draws them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from diffalign.exceptions import DataError
from diffalign.sim import Mesh, Voxels
from diffalign.sim.solid import how_to_make_one

_HOW = "a diffalign.sim.Mesh or Voxels, something with vertices and faces (trimesh), or a grid [x, y, z] in [0, 1]"


def as_shape(media: Any) -> Mesh | Voxels:
    """The shape itself; an array or a tensor [x, y, z] or [1, x, y, z] is an occupancy grid, z up.

    A grid without a filled cell is a shape too, for a model that draws nothing must not go unjudged: what it is worth is
    the reward's to say.

    Raises:
        DataError: it is something else, or no shape.
    """
    if isinstance(media, Mesh | Voxels):
        return media
    if isinstance(media, Tensor):
        return Voxels.of(media.detach().float().cpu().numpy(), allow_empty=True)
    if isinstance(media, np.ndarray):
        return Voxels.of(media, allow_empty=True)
    if hasattr(media, "vertices") and hasattr(media, "faces"):
        return Mesh.of(media.vertices, media.faces)
    raise DataError(f"a shape must be {_HOW}, got {how_to_make_one(media)}")


def split_shapes(media: Any) -> list[Any]:
    """A batch, as people hand it over, as a list: grids [batch, 1, x, y, z], a list of shapes, or one of them.

    Raises:
        DataError: it is something else.
    """
    if isinstance(media, list | tuple):
        return list(media)
    if isinstance(media, Tensor | np.ndarray):
        return list(media) if media.ndim == 5 else [media]
    as_shape(media)
    return [media]
