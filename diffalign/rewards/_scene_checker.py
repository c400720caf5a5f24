"""The exact checker: finds out from pixels alone which coloured shapes a picture shows, and compares them with a scene.

It works at 32x32 pixels (other sizes are box-resized), where the renderer's objects are 8 to 12 pixels wide. An edge
pixel is a blend of object and background, so shapes are judged on the outline where the coverage crosses one half,
found on a four times finer grid: on whole pixels a small circle and a small square are too often the same set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from diffalign.rewards._scene_grammar import COLOURS, SHAPES, Scene
from diffalign.rewards._scene_renderer import BACKGROUND, SIZE, holds

_COVERED = 0.5  # a pixel belongs to a colour when it covers more than half of it
_OFF_PALETTE = 70.0  # RGB distance from the line background-colour beyond which a pixel has no colour
_STRAY = 60.0  # RGB distance from the background beyond which a pixel away from every object is not background
_DUST = 5  # components of fewer pixels are ignored
_SHAPE_IOU = 0.75  # below this overlap with every shape's template, a component is a fragment; renders reach 0.86
_ASPECT = 1.5  # bounding boxes longer than this are fragments
OBJECT_WIDTHS = (5.0, 17.0)  # pixels; bounding boxes outside of this are specks or backdrops, not objects
_FINER = 4
_NO_COLOUR = "other"


@dataclass(frozen=True)
class Found:
    """One connected component: its colour, the shape it looks most like (None: a fragment), its centre in pixels.

    The colour is "other", and the shape None, for stray pixels that are neither background nor a colour of the palette.
    All places are in pixels of the 32x32 picture, from its upper left corner; the centre is that of a pixel's middle.
    """

    colour: str
    shape: str | None
    overlap: dict[str, float]  # intersection over union with each shape's template, in [0, 1]
    x: float
    y: float
    pixels: int
    box: tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Verdict:
    """The checker's answer: `strict` is all or nothing, `graded` in [0, 1] says how much of the caption is there."""

    strict: bool
    graded: float
    objects: float
    arrangement: float
    clean: float


def check_scene(picture: np.ndarray, scene: Scene) -> Verdict:
    """Compare a picture with a scene.

    Args:
        picture: uint8 [height, width, 3], RGB.
        scene: what should be there.

    Returns:
        `strict`: exactly the wanted objects, of the right colour, shape, count and arrangement, and nothing else.
        `graded`: 0.5 objects + 0.3 arrangement + 0.2 clean, each in [0, 1].
    """
    found = find_objects(picture)
    wanted = [(thing.colour, thing.shape) for thing in scene.things for _ in range(thing.count)]
    matched, objects = _match(wanted, found)
    arrangement = _arrangement(scene, matched, found)
    clean = 1.0 / (1 + len(found) - sum(item is not None for item in matched))
    exact = sorted((item.colour, item.shape or "") for item in found) == sorted(wanted)
    return Verdict(
        strict=exact and arrangement == 1.0,
        graded=0.5 * objects + 0.3 * arrangement + 0.2 * clean,
        objects=objects,
        arrangement=arrangement,
        clean=clean,
    )


def find_objects(picture: np.ndarray) -> list[Found]:
    """The components of a picture (uint8 [height, width, 3]) that are not background, largest first."""
    if picture.shape[:2] != (SIZE, SIZE):
        picture = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BOX))
    above = picture.astype(np.float64) - np.array(BACKGROUND, dtype=np.float64)
    labels, covered = _colour_labels(above)
    found = [
        _describe(name, component, np.where((labels == index) | (labels < 0), covered[..., index], 0.0))
        for index, name in enumerate(COLOURS)
        for component in _components(labels == index)
        if len(component) >= _DUST
    ]
    stray = (np.linalg.norm(above, axis=-1) > _STRAY) & ~_widened(labels >= 0)
    for component in _components(stray):
        if len(component) >= _DUST:
            y, x = component.mean(0)
            (top, left), (bottom, right) = component.min(0).tolist(), (component.max(0) + 1).tolist()
            box = (float(left), float(top), float(right), float(bottom))
            found.append(Found(_NO_COLOUR, None, {}, float(x), float(y), len(component), box))
    return sorted(found, key=lambda item: -item.pixels)


def _colour_labels(above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the colour that covers each pixel (-1: none), and how much of it each colour would cover, in [0, 1].

    An edge pixel is a blend background + a (colour - background): `a` is how much of it the colour covers, and what
    is left beside that line says whether the colour explains the pixel at all. `above` is the picture minus background.
    """
    rays = np.array(list(COLOURS.values()), dtype=np.float64) - np.array(BACKGROUND, dtype=np.float64)
    covered = np.clip(above @ rays.T / (rays**2).sum(1), 0.0, 1.0)
    beside = np.linalg.norm(above[..., None, :] - covered[..., None] * rays, axis=-1)
    best = beside.argmin(-1)
    take = np.take_along_axis
    sure = (take(covered, best[..., None], -1) > _COVERED) & (take(beside, best[..., None], -1) < _OFF_PALETTE)
    return np.where(sure[..., 0], best, -1), np.where(beside < _OFF_PALETTE, covered, 0.0)


def _widened(mask: np.ndarray) -> np.ndarray:
    """The mask and its eight neighbours."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    return np.logical_or.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """4-connected components, each an int array [pixels, 2] of (row, column)."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    components = []
    while left:
        stack = [left.pop()]
        component = []
        while stack:
            row, column = stack.pop()
            component.append((row, column))
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if near in left:
                    left.remove(near)
                    stack.append(near)
        components.append(np.array(component))
    return components


def _describe(colour: str, component: np.ndarray, covered: np.ndarray) -> Found:
    mask, (left, top) = _outline(component, covered)
    height, width = mask.shape
    overlap = {}
    for shape in SHAPES:
        template = _template(shape, height, width)
        overlap[shape] = float((mask & template).sum() / (mask | template).sum())
    best = max(overlap, key=lambda shape: overlap[shape])
    short, long = sorted((height, width))
    sized = long <= _ASPECT * short and OBJECT_WIDTHS[0] * _FINER <= short and long <= OBJECT_WIDTHS[1] * _FINER
    y, x = component.mean(0)
    whole = sized and overlap[best] >= _SHAPE_IOU
    box = (left, top, left + width / _FINER, top + height / _FINER)
    return Found(colour, best if whole else None, overlap, float(x), float(y), len(component), box)


def _outline(component: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Where interpolated coverage of the component is above one half, on the finer grid, cut to the bounding box.

    And where the upper left corner of that is: x and y, in pixels.
    """
    inside = np.zeros(covered.shape, dtype=bool)
    inside[tuple(component.T)] = True
    rim = _widened(inside) & (covered <= _COVERED)  # its blended edge, not the pixels of another component
    (top, left), (bottom, right) = (
        component.min(0),
        component.max(0) + 3,
    )  # one pixel more on every side of the padded map
    crop = np.pad(np.where(inside | rim, covered, 0.0), 1)[top:bottom, left:right]
    size = (crop.shape[1] * _FINER, crop.shape[0] * _FINER)
    mask = np.asarray(Image.fromarray(crop.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)) > _COVERED
    if not mask.any():  # a faint line of one pixel
        mask = np.kron(crop > _COVERED, np.ones((_FINER, _FINER), dtype=bool))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    corner = (float(left) - 1 + float(columns[0]) / _FINER, float(top) - 1 + float(rows[0]) / _FINER)
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], corner


def _template(shape: str, height: int, width: int) -> np.ndarray:
    """The shape filling a bounding box, at pixel centres in [-1, 1]."""
    y = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None]
    x = ((np.arange(width) + 0.5) / width * 2 - 1)[None, :]
    if shape == "circle":
        return x**2 + y**2 <= 1.02
    if shape == "square":
        return np.ones((height, width), dtype=bool)
    if shape == "triangle":
        return np.abs(x) <= (y + 1) / 2 + 0.06
    return (np.abs(x) <= 0.36) | (np.abs(y) <= 0.36)


def _match(wanted: list[tuple[str, str]], found: list[Found]) -> tuple[list[Found | None], float]:
    """Pair each wanted object with the best unused component of its colour; also the mean quality in [0, 1]."""
    free = list(found)
    matched: list[Found | None] = []
    quality = 0.0
    for colour, shape in wanted:
        same = [item for item in free if item.colour == colour]
        if not same:
            matched.append(None)
            continue
        best = max(same, key=lambda item: _likeness(item, shape))
        free.remove(best)
        matched.append(best)
        quality += _likeness(best, shape)
    return matched, quality / len(wanted)


def _likeness(item: Found, shape: str) -> float:
    """0.4 for the colour, up to 0.3 for the overlap with the shape, 0.3 when it is that shape."""
    return 0.4 + 0.3 * item.overlap[shape] + 0.3 * (item.shape == shape)


def _arrangement(scene: Scene, matched: list[Found | None], found: list[Found]) -> float:
    """1 when the relation (or the count) holds, 0 when it does not."""
    if scene.relation is None:
        return float(len(found) == len(matched))
    first, second = matched
    if first is None or second is None:
        return 0.0
    near, far = np.array([first.x, first.y]), np.array([second.x, second.y])
    return float(holds(scene.relation, near, far, margin=0.15 * SIZE, slant=1.0))
