"""Occupancy grids that a volume model draws, as pictures for people and as files for viewers."""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from diffalign.exceptions import DataError, MissingExtraError
from diffalign.sim import Voxels, glb_of, render, settling, simulate_stability

log = logging.getLogger(__name__)


def is_grid(media: Float[Tensor, "*sample"]) -> bool:
    """Whether one sample is an occupancy grid [1, x, y, z], and not a picture [3, height, width]."""
    return media.ndim == 4


def grid_picture(grid: Float[Tensor, "1 x y z"], size: int) -> NDArray[np.uint8]:
    """A picture of it, uint8 [size, size, 3]; white where it is empty."""
    try:
        return render(Voxels.of(grid.numpy()), size=size)
    except DataError:
        return np.full((size, size, 3), 255, dtype=np.uint8)


def settled_picture(grid: Float[Tensor, "1 x y z"], size: int) -> NDArray[np.uint8]:
    """As it was put down, and beside it where it came to rest: uint8 [size, 2 size, 3].

    Without the simulator (extra `sim`), or where the grid is none that can stand, the second half is white.
    """
    try:
        shape = Voxels.of(grid.numpy())
        return settling(shape, simulate_stability(shape, settle=True).pose, size=size)
    except (DataError, MissingExtraError):
        return np.concatenate([grid_picture(grid, size), np.full((size, size, 3), 255, dtype=np.uint8)], axis=1)


def as_pictures(media: Float[Tensor, "batch *sample"], size: int = 96) -> Float[Tensor, "batch 3 height width"]:
    """Pictures as they are; of occupancy grids pictures of `size` pixels."""
    if not is_grid(media[0]):
        return media
    drawn = np.stack([grid_picture(grid, size) for grid in media])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255


def glb_of_grid(grid: Float[Tensor, "1 x y z"]) -> bytes:
    """A GLB file of it.

    Raises:
        DataError: it is empty.
        MissingExtraError: trimesh is not installed.
    """
    return glb_of(Voxels.of(grid.numpy()))
