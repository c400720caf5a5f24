"""Pictures of voxel objects, seen from above the front right corner; toppling ones are drawn in red."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from makers.blocks_static import Grid, stands

_STANDING, _TOPPLING = np.array([110, 150, 210]), np.array([215, 100, 90])
_TOP, _FRONT, _RIGHT = 1.15, 0.9, 0.65  # brightness


def picture(grid: Grid, cell: int = 8) -> Image.Image:
    """An isometric drawing of a grid [x, y, z], with the floor's outline."""
    side = max(grid.shape)
    across, down = cell * np.cos(np.pi / 6), cell * np.sin(np.pi / 6)
    width, height = int(2 * side * across) + 4, int(2 * side * down + side * cell) + 4
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)

    def place(x: float, y: float, z: float) -> tuple[float, float]:
        """On the sheet: x runs to the right and down, y to the right and up."""
        return 2 + (x + y) * across, 2 + (x + side - y) * down + (side - z) * cell

    floor = [place(0, 0, 0), place(side, 0, 0), place(side, side, 0), place(0, side, 0)]
    pen.polygon(floor, outline=(200, 200, 200))
    colour = _STANDING if stands(grid) else _TOPPLING
    padded = np.pad(grid, 1)
    cells = np.argwhere(grid)
    for x, y, z in cells[np.lexsort((cells[:, 2], cells[:, 0], -cells[:, 1]))].tolist():
        if not padded[x + 1, y + 1, z + 2]:
            _face(pen, colour * _TOP, [place(x + a, y + b, z + 1) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))])
        if not padded[x + 1, y, z + 1]:
            _face(pen, colour * _FRONT, [place(x + a, y, z + b) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))])
        if not padded[x + 2, y + 1, z + 1]:
            _face(pen, colour * _RIGHT, [place(x + 1, y + a, z + b) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))])
    return sheet


def _face(pen: ImageDraw.ImageDraw, colour: np.ndarray, corners: list[tuple[float, float]]) -> None:
    fill = tuple(int(value) for value in np.clip(colour, 0, 255))
    pen.polygon(corners, fill=fill, outline=tuple(int(value * 0.8) for value in fill))


def sheet(grids: Sequence[Grid], columns: int = 8, cell: int = 8) -> Image.Image:
    """Row by row."""
    pictures = [picture(grid, cell) for grid in grids]
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * width, rows * height), "white")
    for number, each in enumerate(pictures):
        whole.paste(each, (number % columns * width, number // columns * height))
    return whole
