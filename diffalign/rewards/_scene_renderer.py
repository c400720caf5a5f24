"""Draws scenes: antialiased coloured shapes on a dark background, nowhere nearer than their relation allows."""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image, ImageDraw

from diffalign.rewards._scene_grammar import COLOURS, Scene

SIZE = 32  # pixels; the checker's working resolution
BACKGROUND = (24, 24, 36)


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


def _place(scene: Scene, rng: np.random.Generator) -> list[tuple[tuple[str, str], tuple[float, float], float]]:
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
    """Whether `first` lies `relation` `second`; both are (x, y), y down.

    It must lie there by more than `margin`, and sideways by less than `slant` times as far.
    """
    dx, dy = (float(value) for value in np.asarray(first) - np.asarray(second))
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    return along > margin and abs(across) < slant * along
