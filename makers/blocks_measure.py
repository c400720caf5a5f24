"""What generated objects are: do they stand, are they one piece, and which caption's objects are they most like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from makers.blocks_objects import Shape, captions, draw_object
from makers.blocks_static import Grid, in_one_piece, stands


@dataclass(frozen=True)
class Examples:
    """Procedural objects of every caption, to compare with: cells [objects, 4096] and the shape of each."""

    cells: NDArray[np.float32]
    shapes: list[Shape]

    @classmethod
    def draw(cls, each: int, seed: int) -> Examples:
        """So many of every caption, every other one of which stands."""
        rng = np.random.default_rng(seed)
        shapes = [shape for shape in captions().values() for _ in range(each)]
        grids = [draw_object(shape, rng, standing=number % 2 == 0) for number, shape in enumerate(shapes)]
        return cls(np.stack([grid.ravel() for grid in grids]).astype(np.float32), shapes)

    def nearest(self, grids: Sequence[Grid]) -> list[tuple[Shape, float]]:
        """Of each grid: the shape of the example with the largest intersection over union, and that."""
        cells = np.stack([grid.ravel() for grid in grids]).astype(np.float32)
        shared = cells @ self.cells.T
        overlap = shared / (cells.sum(1)[:, None] + self.cells.sum(1)[None] - shared)
        return [(self.shapes[best], float(row[best])) for row, best in zip(overlap, overlap.argmax(1), strict=True)]


def measure(grids: Sequence[Grid], shapes: Sequence[Shape], examples: Examples) -> dict[str, float]:
    """Shares of the objects, each with the shape that it was asked for.

    Returns:
        standing: by the static test. one_piece. height_standing, height_toppling: mean of the highest voxel, in voxels.
        kind, direction, words, caption: whether the most similar example is of the kind, of the direction, the share of
        attributes that are right where the kind is, and whether all is right. overlap: mean with that example.
    """
    found = examples.nearest(grids)
    upright = np.array([stands(grid) for grid in grids])
    heights = np.array([int(np.flatnonzero(grid.any((0, 1))).max(initial=-1)) + 1 for grid in grids])
    words = [
        np.mean([a == b for a, b in zip(asked.words, seen.words, strict=True)])
        for asked, (seen, _) in zip(shapes, found, strict=True)
        if asked.kind == seen.kind
    ]
    pairs = list(zip(shapes, (seen for seen, _ in found), strict=True))
    figures = {
        "standing": upright.mean(),
        "one_piece": np.mean([in_one_piece(grid) for grid in grids]),
        "height_standing": heights[upright].mean() if upright.any() else np.nan,
        "height_toppling": heights[~upright].mean() if not upright.all() else np.nan,
        "kind": np.mean([asked.kind == seen.kind for asked, seen in pairs]),
        "direction": np.mean([asked.direction == seen.direction for asked, seen in pairs]),
        "words": np.mean(words) if words else np.nan,
        "caption": np.mean([asked == seen for asked, seen in pairs]),
        "overlap": np.mean([overlap for _, overlap in found]),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def standing_by_kind(grids: Sequence[Grid], shapes: Sequence[Shape]) -> dict[str, float]:
    """The share of each kind's objects that stand."""
    seen: dict[str, list[bool]] = defaultdict(list)
    for grid, shape in zip(grids, shapes, strict=True):
        seen[shape.kind].append(stands(grid))
    return {kind: round(float(np.mean(values)), 4) for kind, values in sorted(seen.items())}


def both_ways(grids: Sequence[Grid], texts: Sequence[str]) -> float:
    """The share of captions of which some objects stand and some topple."""
    seen: dict[str, set[bool]] = defaultdict(set)
    for grid, text in zip(grids, texts, strict=True):
        seen[text].add(stands(grid))
    return round(float(np.mean([len(values) == 2 for values in seen.values()])), 4)
