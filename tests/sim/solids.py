"""Solids with known answers, made of closed parts that touch: [vertices, 3] and [faces, 3], z up, standing on z = 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from diffalign.sim import Mesh, Voxels
from diffalign.sim.solid import hull_faces

Arrays = tuple[NDArray[np.float64], NDArray[np.int64]]
_CUBE = Voxels.of(np.ones((1, 1, 1))).surface()


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Arrays:
    return _CUBE.vertices * (np.array(high) - low) + low, _CUBE.faces


def standing_box(x: float, y: float, z: float) -> Arrays:
    return box((-x / 2, -y / 2, 0), (x / 2, y / 2, z))


def joined(*parts: Arrays) -> Arrays:
    offsets = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    faces = [faces + offset for (_, faces), offset in zip(parts, offsets[:-1], strict=True)]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces)


def turned_inside_out(part: Arrays) -> Arrays:
    return part[0], part[1][:, ::-1]


def revolved(profile: list[tuple[float, float]], sides: int = 32) -> Arrays:
    """A profile of (radius, height) from the lowest to the highest, turned about z; a radius of 0 is a tip."""
    vertices: list[list[float]] = []
    rings: list[list[int]] = []
    for radius, height in profile:
        angles = 2 * math.pi * np.arange(sides) / sides if radius else np.zeros(1)
        rings.append(list(range(len(vertices), len(vertices) + len(angles))))
        vertices += [[radius * math.cos(angle), radius * math.sin(angle), height] for angle in angles]
    faces: list[list[int]] = []
    for below, above in pairwise(rings):
        for side in range(sides):
            a, b = below[side % len(below)], below[(side + 1) % sides % len(below)]
            c, d = above[(side + 1) % sides % len(above)], above[side % len(above)]
            faces += [face for face in ([a, b, c], [a, c, d]) if len(set(face)) == 3]
    for ring, way in ((rings[0], -1), (rings[-1], 1)):
        faces += [[ring[0], *ring[side : side + 2][::way]] for side in range(1, len(ring) - 1)]
    return np.array(vertices), np.array(faces)


def cone(shear: float = 0.0, radius: float = 0.3, height: float = 1.0) -> Arrays:
    vertices, faces = revolved([(radius, 0.0), (0.0, height)])
    return vertices + np.outer(vertices[:, 2], [shear, 0, 0]), faces


def capsule(radius: float = 0.2, straight: float = 0.8, rings: int = 8, sides: int = 16) -> Arrays:
    arc = [math.pi / 2 * ring / rings for ring in range(rings)]
    low = [(radius * math.sin(angle), radius - radius * math.cos(angle)) for angle in [*arc, math.pi / 2]]
    high = [(size, 2 * radius + straight - height) for size, height in low[::-1]]
    return revolved([*low, *high], sides)


def sphere(rings: int = 16, sides: int = 24) -> Arrays:
    return capsule(0.5, 0.0, rings // 2, sides)


def l_shape(arm: float) -> Arrays:
    """A column of 0.2 x 0.2 x 0.8 that bears a beam of arm x 0.2 x 0.2, flush on one side."""
    return joined(standing_box(0.2, 0.2, 0.8), box((-0.1, -0.1, 0.8), (arm - 0.1, 0.1, 1)))


def table(legs: int) -> Arrays:
    """A top of 1 x 1 x 0.1 on legs of 0.1 x 0.1 x 0.6 whose outer sides are 0.05 within its own."""
    corners = [(-0.4, -0.4), (-0.4, 0.4), (0.4, 0.4), (0.4, -0.4)][:legs]
    feet = [box((x - 0.05, y - 0.05, 0), (x + 0.05, y + 0.05, 0.6)) for x, y in corners]
    return joined(box((-0.5, -0.5, 0.6), (0.5, 0.5, 0.7)), *feet)


def tilted(part: Arrays, degrees: float) -> Arrays:
    """Turned about y and put on the ground again."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    vertices = part[0] @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return vertices - [0, 0, vertices[:, 2].min()], part[1]


def upside_down(part: Arrays) -> Arrays:
    vertices = part[0] * [1, -1, -1]
    return vertices - [0, 0, vertices[:, 2].min()], part[1]


def two_boxes(generator: np.random.Generator) -> Arrays:
    """A T or L on a flat foot, so high that it turns by more than 20 degrees if it falls onto its beam."""
    width, depth, height = generator.uniform([0.1, 0.1, 0.5], [0.4, 0.4, 1.2])
    long, thick = generator.uniform([0.3, 0.05], [1.2, 0.3])
    out = generator.uniform(-0.4, 0.4) * long
    beam = box((out - long / 2, -depth / 2, height), (out + long / 2, depth / 2, height + thick))
    return joined(standing_box(width, depth, height), beam)


def blob(finer: int, seed: int = 0) -> Arrays:
    """A bumpy ball of 20 * 4^finer faces."""
    generator = np.random.default_rng(seed)
    golden = (1 + math.sqrt(5)) / 2
    corners = [[0, a, b * golden] for a in (-1, 1) for b in (-1, 1)]
    vertices = np.array([np.roll(corner, turn) for turn in range(3) for corner in corners])
    vertices, faces = hull_faces(vertices)
    for _ in range(finer):
        middles = [(vertices[faces[:, a]] + vertices[faces[:, b]]) / 2 for a, b in ((0, 1), (1, 2), (2, 0))]
        count, each = len(vertices), len(faces)
        ab, bc, ca = (count + each * part + np.arange(each) for part in range(3))
        a, b, c = faces.T
        finer_faces = [np.stack(three, axis=1) for three in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        mesh = Mesh.of(np.concatenate([vertices, *middles]), np.concatenate(finer_faces))
        vertices, faces = mesh.vertices, mesh.faces
    vertices = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    radius = np.ones(len(vertices))
    for _ in range(12):
        way, waves, phase = generator.normal(size=3), generator.uniform(3, 9), generator.uniform(0, 6)
        radius += 0.06 * np.sin(waves * (vertices @ (way / np.linalg.norm(way))) + phase)
    return vertices * radius[:, None] * [1, 0.8, 0.7], faces


SOLIDS: dict[str, Callable[[], Arrays]] = {
    "cube": lambda: standing_box(1, 1, 1),
    "slab": lambda: standing_box(1, 1, 0.1),
    "tower": lambda: standing_box(0.1, 0.1, 1),
    "pin of 0.05": lambda: standing_box(0.05, 0.05, 1),
    "pin of 0.03": lambda: standing_box(0.03, 0.03, 1),
    "cylinder": lambda: revolved([(0.2, 0.0), (0.2, 1.0)]),
    "L 0.3": lambda: l_shape(0.3),
    "L 0.6": lambda: l_shape(0.6),
    "L 0.9": lambda: l_shape(0.9),
    "table, 4 legs": lambda: table(4),
    "table, 3 legs": lambda: table(3),
    "table, 2 legs": lambda: table(2),
    "cone": cone,
    "cone sheared by 1.1": lambda: cone(1.1),
    "cone sheared by 1.3": lambda: cone(1.3),
    "cone sheared by 2.0": lambda: cone(2.0),
    "cone on its tip": lambda: upside_down(cone()),
    "sphere": sphere,
    "capsule on its end": capsule,
    "cube at 5 degrees": lambda: tilted(standing_box(1, 1, 1), 5),
    "cube at 15 degrees": lambda: tilted(standing_box(1, 1, 1), 15),
    "cube at 25 degrees": lambda: tilted(standing_box(1, 1, 1), 25),
    "tower at 3 degrees": lambda: tilted(standing_box(0.1, 0.1, 1), 3),
}


def solid(name: str) -> Mesh:
    return Mesh.of(*SOLIDS[name]())
