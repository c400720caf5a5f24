"""Procedural objects of voxels and their captions: what `blocks-volume` is trained on.

A caption says what an object is; its proportions and offsets are drawn anew each time, so that of every caption there are
objects that stand and objects that topple. Grids are bool [16, 16, 16], axes x (left to right), y (front to back), z (up).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from makers.blocks_static import in_one_piece, stands

Grid = NDArray[np.bool_]
SIDE = 16
DIRECTIONS = ("right", "back", "left", "front")  # quarter turns from +x
HELD_OUT_SHARE = 4  # one caption in so many
_TRIES = 400


@dataclass(frozen=True)
class Shape:
    """What a caption says, apart from the direction that the object reaches in.

    Attributes:
        kind: a key of `KINDS`.
        words: one of the words of each of its attributes.
        direction: one of `DIRECTIONS`.
    """

    kind: str
    words: tuple[str, ...]
    direction: str

    @property
    def caption(self) -> str:
        place = {"right": "to the right", "left": "to the left", "front": "to the front", "back": "to the back"}
        return " ".join(["a", KINDS[self.kind].text.format(*self.words), place[self.direction]])


@dataclass(frozen=True)
class Kind:
    """A kind of object: the template of its captions, the words of its attributes, and how one is built towards +x."""

    text: str
    attributes: tuple[tuple[str, ...], ...]
    build: Callable[..., Grid]


def captions() -> dict[str, Shape]:
    """All captions, in a fixed order."""
    shapes = (
        Shape(name, words, direction)
        for name, kind in KINDS.items()
        for *words_, direction in product(*kind.attributes, DIRECTIONS)
        for words in (tuple(words_),)
    )
    return {shape.caption: shape for shape in shapes}


def is_held_out(caption: str) -> bool:
    """Whether a caption is kept out of training; the same at every call."""
    return int(hashlib.sha256(f"blocks {caption}".encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def held_out_captions() -> list[str]:
    """In an order that mixes the kinds."""
    held = [caption for caption in captions() if is_held_out(caption)]
    return sorted(held, key=lambda caption: hashlib.sha256(caption.encode()).hexdigest())


def draw_object(shape: Shape, rng: np.random.Generator, *, standing: bool | None = None) -> Grid:
    """An object of that shape.

    Args:
        standing: draw until it stands (by the static test), or does not; None: whichever comes.

    Raises:
        RuntimeError: there is none in many tries.
    """
    for _ in range(_TRIES):
        grid = _undercut(KINDS[shape.kind].build(rng, *shape.words), rng)
        grid = np.rot90(grid, DIRECTIONS.index(shape.direction), axes=(0, 1))
        if standing is None or stands(grid) == standing:
            return np.ascontiguousarray(grid)
    raise RuntimeError(f"no object of {shape.caption!r} with standing={standing} in {_TRIES} tries")


def _undercut(grid: Grid, rng: np.random.Generator) -> Grid:
    """Half of the objects lose part of their lowest layers where they reach to: shorter legs, a smaller foot."""
    if rng.random() < 0.5:
        return grid
    places = np.flatnonzero(grid[:, :, 0].any(1))
    first, last = places[0], places[-1]
    kept = _between(rng, 1, max(1, last - first))
    cut = grid.copy()
    cut[first + kept :, :, : _between(rng, 1, 2)] = False
    return cut if in_one_piece(cut) else grid


# ------------------------------------------------------------ building, towards +x


class _Space:
    """A grid that boxes are put into, and that is centred at the end."""

    def __init__(self) -> None:
        self._cells = np.zeros((3 * SIDE, 3 * SIDE, SIDE), bool)

    def box(self, x: int, y: int, z: int, size: Sequence[int]) -> None:
        """Fill from the corner (x, y, z)."""
        x, y = x + SIDE, y + SIDE
        self._cells[x : x + size[0], y : y + size[1], z : z + size[2]] = True

    def centred(self) -> Grid:
        """The middle of what is filled, along x and y, in the middle of the grid; cut where it is too large."""
        starts = []
        for axis in (0, 1):
            filled = np.flatnonzero(self._cells.any(axis=(1 - axis, 2)))
            starts.append((filled[0] + filled[-1] + 1) // 2 - SIDE // 2)
        x, y = starts
        return self._cells[x : x + SIDE, y : y + SIDE].copy()


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _table(rng: np.random.Generator, height: str, width: str, legs: str, thickness: str) -> Grid:
    space, draw = _Space(), lambda low, high: _between(rng, low, high)
    tall = draw(10, 14) if height == "tall" else draw(5, 8)
    long, deep = (draw(11, 14), draw(9, 11)) if width == "wide" else (draw(7, 9), draw(6, 8))
    leg = draw(1, 2) if thickness == "thin" else draw(3, 4) if legs == "one" else 3
    top = draw(1, 3)
    space.box(0, 0, tall - top, (long, deep, top))
    if legs == "one":
        x, y, below = draw(0, long - leg), (deep - leg) // 2, tall - top
        space.box(x, y, 0, (leg, leg, below))
        foot = draw(leg, min(deep, leg + 5))
        space.box(x + (leg - foot) // 2, y + (leg - foot) // 2, 0, (foot, foot, 1))
        return space.centred()
    first, span = draw(0, 1), draw(2 * leg, long - 1)
    last = first + span - leg
    sides = (0, deep - leg)
    places = [(first, side) for side in sides]
    places += [(last, side) for side in sides] if legs == "four" else [(last, (deep - leg) // 2)]
    for x, y in places:
        space.box(x, y, 0, (leg, leg, tall - top))
    return space.centred()


def _chair(rng: np.random.Generator, height: str, width: str, back: str, legs: str) -> Grid:
    space, draw = _Space(), lambda low, high: _between(rng, low, high)
    seat_at = draw(6, 8) if height == "tall" else draw(3, 4)
    deep = draw(9, 12) if width == "wide" else draw(5, 7)
    long, thick = draw(6, 9), draw(1, 2)
    raised = draw(5, 7) if back == "high" else draw(2, 3)
    space.box(0, 0, seat_at, (long, deep, thick))
    wall = draw(1, 3)
    space.box(long - wall, 0, seat_at + thick, (wall, deep, raised))
    leg = draw(1, 2) if legs == "thin" else 3
    last = draw(leg, long - leg) if legs == "thick" else draw(2, long - leg)  # where the legs under the back are
    for x, y in product((0, last), (0, max(deep - leg, 0))):
        space.box(x, y, 0, (leg, leg, seat_at))
    return space.centred()


def _lamp(rng: np.random.Generator, height: str, shade: str, foot: str, thickness: str) -> Grid:
    space, draw = _Space(), lambda low, high: _between(rng, low, high)
    tall = draw(13, 16) if height == "tall" else draw(8, 11)
    across = draw(8, 10) if shade == "wide" else draw(4, 6)
    base = draw(6, 9) if foot == "large" else draw(3, 5)
    pole, hood, plate = 1 if thickness == "thin" else draw(2, 3), draw(3, 4), draw(1, 2)
    space.box(-(base // 2), -(base // 2), 0, (base, base, plate))
    middle = -(pole // 2)
    space.box(middle, middle, 0, (pole, pole, tall - hood))
    reach = draw(1, 15 - base // 2 - across)
    space.box(middle, middle, tall - hood - 1, (max(reach, 1) + pole, pole, 1))
    low = reach + middle - (across - pole) // 2
    for layer in range(hood):  # narrower towards the top
        inset = min(layer * across // (3 * hood), (across - 2) // 2)
        width = across - 2 * inset
        space.box(low + inset, -(across // 2) + inset, tall - hood + layer, (width, width, 1))
    return space.centred()


def _hook(rng: np.random.Generator, height: str, thickness: str, arm: str) -> Grid:
    space, draw = _Space(), lambda low, high: _between(rng, low, high)
    tall = draw(11, 15) if height == "tall" else draw(6, 9)
    thick = draw(2, 3) if thickness == "thin" else draw(4, 6)
    reach = draw(7, 9) if arm == "long" else draw(3, 5)
    bar, deep = draw(1, 2) if thickness == "thin" else draw(2, 4), thick + draw(0, 2)
    space.box(0, 0, 0, (thick, deep, tall))
    space.box(thick, 0, tall - bar, (reach, deep, bar))
    heel, toe = draw(0, 1), draw(0, 3)  # a low foot
    space.box(-heel, 0, 0, (thick + heel + toe, deep, draw(1, 2)))
    return space.centred()


def _tee(rng: np.random.Generator, height: str, thickness: str, arm: str) -> Grid:
    space, draw = _Space(), lambda low, high: _between(rng, low, high)
    tall = draw(11, 15) if height == "tall" else draw(6, 9)
    thick = draw(2, 3) if thickness == "thin" else draw(4, 5)
    reach, other = (draw(6, 8), draw(2, 4)) if arm == "long" else (draw(4, 5), draw(1, 3))
    bar, deep = draw(1, 2) if thickness == "thin" else draw(2, 4), thick + draw(0, 2)
    space.box(0, 0, 0, (thick, deep, tall))
    space.box(-other, 0, tall - bar, (other + thick + reach, deep, bar))
    if rng.random() < 0.5:
        toe = draw(1, 2)
        space.box(-1, 0, 0, (thick + 1 + toe, deep, draw(1, 2)))
    return space.centred()


_COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}


def _stack(rng: np.random.Generator, count: str, size: str, thickness: str) -> Grid:
    space, draw = _Space(), lambda low, high: _between(rng, low, high)
    blocks = _COUNTS[count]
    across = draw(6, 8) if size == "large" else draw(4, 5)
    thick = 2 if thickness == "flat" else 3
    room = 15 - across  # for all steps together
    x, deep = 0, across + draw(-1, 1)
    for block in range(blocks):
        space.box(x, 0, block * thick, (across, deep, thick))
        most = min(across - 2, room)
        step = draw(min(1, most), most) if blocks == 2 else draw(0 if block else min(1, most), min(most, across // 2))
        x, room = x + step, room - step
    return space.centred()


def _tower(rng: np.random.Generator, height: str, width: str, block: str, place: str) -> Grid:
    space, draw = _Space(), lambda low, high: _between(rng, low, high)
    tall = draw(12, 16) if height == "tall" else draw(8, 10)
    across = draw(5, 6) if width == "wide" else draw(3, 4)
    size = draw(5, 7) if block == "large" else draw(3, 4)
    foot, low = draw(2, across + 1), draw(2, 4)  # it may stand on less, or a little more, than its own width
    start, side = draw(0, 1) if foot < across else 0, (across - foot) // 2
    space.box(start, side, 0, (foot, foot, low))
    space.box(0, 0, low, (across, across, tall - low))
    at = tall - size + draw(0, 1) if place == "top" else (tall - size) // 2
    at, reach = min(max(low, at), SIDE - size), draw(size // 2 + 1, size)
    space.box(across + reach - size, (across - size) // 2, at, (size, size, size))
    return space.centred()


_SIZES = ("tall", "low"), ("wide", "narrow")
KINDS = {
    "table": Kind(
        "{0} {1} table on {2} {3} legs reaching",
        (*_SIZES, ("one", "three", "four"), ("thin", "thick")),
        _table,
    ),
    "chair": Kind(
        "{0} {1} chair on {3} legs with a {2} rest",
        (*_SIZES, ("high", "short"), ("thin", "thick")),
        _chair,
    ),
    "lamp": Kind(
        "{0} lamp with a {1} shade on a {2} foot and a {3} pole leaning",
        (("tall", "low"), ("wide", "narrow"), ("small", "large"), ("thin", "thick")),
        _lamp,
    ),
    "hook": Kind(
        "{0} {1} L shape with a {2} arm",
        (("tall", "low"), ("thin", "thick"), ("short", "long")),
        _hook,
    ),
    "tee": Kind(
        "{0} {1} T shape with a {2} arm",
        (("tall", "low"), ("thin", "thick"), ("short", "long")),
        _tee,
    ),
    "stack": Kind(
        "stack of {0} {1} {2} blocks leaning",
        (tuple(_COUNTS), ("small", "large"), ("flat", "thick")),
        _stack,
    ),
    "tower": Kind(
        "{0} {1} tower with a {2} block at its {3}",
        (*_SIZES, ("small", "large"), ("top", "middle")),
        _tower,
    ),
}
