"""Scenes of coloured shapes: the caption grammar, the renderer and the exact checker.

The zoo's image models draw captions such as "a red circle left of a blue square". This file owns what such a
caption means: `parse_caption` reads it, `render_scene` draws it, and `check_scene` finds out from pixels alone
whether a picture shows it. The checker works on 32x32 pixels (other sizes are box-resized), where an object is
8 to 12 pixels wide.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

SIZE = 32  # pixels; the checker's working resolution
BACKGROUND = (24, 24, 36)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 48, 48),
    "green": (48, 180, 72),
    "blue": (48, 104, 240),
    "yellow": (248, 214, 48),
    "purple": (190, 60, 210),
    "white": (244, 244, 244),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLURALS = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross"}
NUMBERS = {"two": 2, "three": 3}
RELATIONS = ("left of", "right of", "above", "below")
Kind = Literal["single", "count", "both", "relation"]

_COVERED = 0.5  # a pixel belongs to a colour when it covers more than half of it
_OFF_PALETTE = 70.0  # RGB distance from the line background-colour beyond which a pixel has no colour
_DUST = 5  # components of fewer pixels are ignored
_SHAPE_IOU = 0.68  # below this overlap with every shape's template, a component is a fragment
_ASPECT = 1.5  # bounding boxes longer than this are fragments


@dataclass(frozen=True)
class Thing:
    """`count` objects of one colour and shape."""

    colour: str
    shape: str
    count: int = 1


@dataclass(frozen=True)
class Scene:
    """What a caption asks for; `relation` says where the first thing is, seen from the second."""

    things: tuple[Thing, ...]
    relation: str | None = None

    @property
    def kind(self) -> Kind:
        if self.relation:
            return "relation"
        if len(self.things) == 2:
            return "both"
        return "count" if self.things[0].count > 1 else "single"


@dataclass(frozen=True)
class Found:
    """One connected component: its colour, the shape it looks most like (None: a fragment), its centre in pixels."""

    colour: str
    shape: str | None
    overlap: dict[str, float]  # intersection over union with each shape's template, in [0, 1]
    x: float
    y: float
    pixels: int


@dataclass(frozen=True)
class Verdict:
    """The checker's answer: `strict` is all or nothing, `graded` in [0, 1] says how much of the caption is there."""

    strict: bool
    graded: float
    objects: float
    arrangement: float
    clean: float


# ---------------------------------------------------------------- grammar

_THING = re.compile(rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
_COUNT = re.compile(rf"({'|'.join(NUMBERS)}) ({'|'.join(COLOURS)}) ({'|'.join(PLURALS)})")
_PAIR = re.compile(rf"{_THING.pattern} (and|{'|'.join(RELATIONS)}) {_THING.pattern}")


def parse_caption(caption: str) -> Scene | None:
    """Read a caption; None when it is not of the grammar."""
    text = " ".join(caption.lower().split()).rstrip(".")
    if match := _THING.fullmatch(text):
        return Scene((Thing(*match.groups()),))
    if match := _COUNT.fullmatch(text):
        number, colour, shapes = match.groups()
        return Scene((Thing(colour, PLURALS[shapes], NUMBERS[number]),))
    if match := _PAIR.fullmatch(text):
        colour, shape, between, other_colour, other_shape = match.groups()
        relation = None if between == "and" else between
        if (colour, shape) == (other_colour, other_shape):
            return Scene((Thing(colour, shape, 2),)) if relation is None else None
        return Scene((Thing(colour, shape), Thing(other_colour, other_shape)), relation)
    return None


def captions(kind: Kind) -> list[str]:
    """All captions of one kind, in a fixed order: 24 single, 48 count, 552 both, 2,208 relation."""
    singles = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    if kind == "single":
        return singles
    if kind == "count":
        return [f"{number} {colour} {plural}" for number in NUMBERS for colour in COLOURS for plural in PLURALS]
    between = ("and",) if kind == "both" else RELATIONS
    return [f"{a} {word} {b}" for a, b in itertools.permutations(singles, 2) for word in between]


def is_held_out(caption: str) -> bool:
    """One caption in five of the two-object kinds is kept from every training; singles and counts never are."""
    scene = parse_caption(caption)
    if scene is None or scene.kind not in ("both", "relation"):
        return False
    return hashlib.sha256(caption.encode()).digest()[0] < 52


def training_captions() -> list[str]:
    """Every caption that models and alignment may be trained on."""
    return [text for kind in ("single", "count", "both", "relation") for text in captions(kind) if not is_held_out(text)]


def held_out_captions() -> list[str]:
    """Every held-out caption, in an order that is fixed but mixed, so that any head of the list is a fair sample."""
    held = [text for kind in ("both", "relation") for text in captions(kind) if is_held_out(text)]
    return sorted(held, key=lambda text: hashlib.sha256(b"order" + text.encode()).digest())


# ---------------------------------------------------------------- renderer


def render_scene(scene: Scene, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """Draw a scene; places and sizes are drawn from `rng`, so that one caption has many pictures.

    Returns an RGB picture of `size` x `size` pixels, antialiased by fourfold supersampling.
    """
    placed = _place(scene, rng)
    scale = size * 4
    canvas = Image.new("RGB", (scale, scale), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for (colour, shape), (x, y), radius in placed:
        _draw(draw, shape, COLOURS[colour], x * scale, y * scale, radius * scale)
    return canvas.reduce(4)


def _place(
    scene: Scene, rng: np.random.Generator
) -> list[tuple[tuple[str, str], tuple[float, float], float]]:
    names = [(thing.colour, thing.shape) for thing in scene.things for _ in range(thing.count)]
    while True:  # rejection sampling; a few tries on average
        radii = rng.uniform(0.14, 0.185, len(names))
        places = rng.uniform(0.2, 0.8, (len(names), 2))
        distances = [np.linalg.norm(places[i] - places[j]) for i, j in itertools.combinations(range(len(names)), 2)]
        if distances and min(distances) < 0.42:
            continue
        if scene.relation and not holds(scene.relation, places[0], places[1], margin=0.3, slant=0.8):
            continue
        return [(name, (float(x), float(y)), float(r)) for name, (x, y), r in zip(names, places, radii, strict=True)]


def _draw(
    draw: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], x: float, y: float, radius: float
) -> None:
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape == "square":
        side = radius * 0.9
        draw.rectangle((x - side, y - side, x + side, y + side), fill=colour)
    elif shape == "triangle":
        draw.polygon([(x - radius, y + radius * 0.9), (x + radius, y + radius * 0.9), (x, y - radius)], fill=colour)
    else:
        arm = radius * 0.34
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)


def holds(relation: str, first: np.ndarray, second: np.ndarray, margin: float, slant: float) -> bool:
    """Whether `first` lies `relation` `second` (both (x, y), y down): by more than `margin`, and sideways by less than
    `slant` times that."""
    dx, dy = (float(value) for value in np.asarray(first) - np.asarray(second))
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    return along > margin and abs(across) < slant * along


# ---------------------------------------------------------------- checker


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
    """The coloured components of a picture (uint8 [height, width, 3]), largest first."""
    if picture.shape[:2] != (SIZE, SIZE):
        picture = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BOX))
    labels = _colour_labels(picture.astype(np.float64))
    found = [
        _describe(name, component)
        for index, name in enumerate(COLOURS)
        for component in _components(labels == index)
        if len(component) >= _DUST
    ]
    return sorted(found, key=lambda item: -item.pixels)


def _colour_labels(picture: np.ndarray) -> np.ndarray:
    """Index of the colour that covers each pixel, -1 for none.

    An edge pixel is a blend background + a (colour - background): `a` is how much of it the colour covers, and what
    is left beside that line says whether the colour explains the pixel at all.
    """
    above = picture - np.array(BACKGROUND, dtype=np.float64)
    rays = np.array(list(COLOURS.values()), dtype=np.float64) - np.array(BACKGROUND, dtype=np.float64)
    covered = np.clip(above @ rays.T / (rays**2).sum(1), 0.0, 1.0)
    beside = np.linalg.norm(above[..., None, :] - covered[..., None] * rays, axis=-1)
    best = beside.argmin(-1)
    take = np.take_along_axis
    sure = (take(covered, best[..., None], -1) > _COVERED) & (take(beside, best[..., None], -1) < _OFF_PALETTE)
    return np.where(sure[..., 0], best, -1)


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


def _describe(colour: str, component: np.ndarray) -> Found:
    low, high = component.min(0), component.max(0)
    height, width = high - low + 1
    mask = np.zeros((height, width), dtype=bool)
    mask[tuple((component - low).T)] = True
    overlap = {}
    for shape in SHAPES:
        template = _template(shape, height, width)
        overlap[shape] = float((mask & template).sum() / (mask | template).sum())
    best = max(overlap, key=lambda shape: overlap[shape])
    straight = max(height, width) <= _ASPECT * min(height, width)
    y, x = component.mean(0)
    whole = straight and overlap[best] >= _SHAPE_IOU
    return Found(colour, best if whole else None, overlap, float(x), float(y), len(component))


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
    return (np.abs(x) <= 0.4) | (np.abs(y) <= 0.4)


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
