"""Which way faces look: closed surfaces, their parts, and parts that are inside out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_Edges = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
_MOST_PARTS = 1000  # with more parts of both signs hollows are not looked for: it takes the square of their number
_MOST_ANGLES = 50_000_000  # faces times points, about ten seconds; beyond it a part is inside where its box is


def components(count: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `count` things the least thing that it hangs together with.

    Args:
        links: [links, any number] of things that belong together.
    """
    label = np.arange(count)
    while len(links):
        roots = label[links]
        least = roots.min(axis=1)
        if (roots == least[:, None]).all():
            break
        np.minimum.at(label, roots, least[:, None])
        while not np.array_equal(shorter := label[label], label):
            label = shorter
    return label


def bounds_a_volume(faces: NDArray[np.int64]) -> bool:
    """Whether along every edge as many faces run one way as the other."""
    _, which, way = _edges(faces)
    return not np.bincount(which, weights=way).any()


def parts_across_edges(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each face the least one that it hangs together with across edges which no third face shares."""
    return components(len(faces), _across(_edges(faces)))


def closed_parts(count: int, faces: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each face whether its part bounds a volume by itself, as a box does beside an open sheet, or with a fin on it.

    Parts hang together across edges that two faces share; of what is open then, across points.

    Args:
        count: of points.
        faces: [faces, 3].
    """
    edges = _edges(faces)
    if not np.bincount(edges[1], weights=edges[2]).any():
        return np.ones(len(faces), dtype=bool)
    found = _is_closed(components(len(faces), _across(edges)), edges)
    rest = np.flatnonzero(~found)
    if len(rest):
        found[rest] = _is_closed(components(count, faces[rest])[faces[rest, 0]], _edges(faces[rest]))
    return found


def turned_outwards(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """The faces of a surface, with closed parts that are inside out turned; open ones are left as they are.

    A part within another one is turned with it: a hollow runs the other way than what is around it, and goes on doing so.

    Args:
        points: [points, 3], of about unit size.
        faces: [faces, 3].
    """
    closed = closed_parts(len(points), faces)
    if closed.all():
        return _turned(points, faces)
    turned = faces.copy()
    if closed.any():
        turned[closed] = _turned(points, faces[closed])
    return turned


def _turned(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same of a surface that is closed."""
    edges = _edges(faces)
    part = _parts(len(points), faces, edges)
    count = int(part.max()) + 1
    corners = points[faces] - points.mean(0)
    volumes = np.bincount(part, np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])), count)
    outside_in = volumes < 0
    if not outside_in.any():
        return faces
    if not outside_in.all() and count <= _MOST_PARTS:
        around = _outermost(points[faces], part, np.abs(volumes))
        outside_in = outside_in[around]
    turned = faces.copy()
    reversed_faces = outside_in[part]
    turned[reversed_faces] = turned[reversed_faces][:, ::-1]
    return turned


def winding_number(points: NDArray[np.float64], triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often a surface [triangles, 3, 3] goes around each of points [points, 3]: 1 inside of it, 0 outside.

    Source: the solid angle of a triangle, Van Oosterom and Strackee 1983, "The solid angle of a plane triangle".
    """
    found = np.zeros(len(points))
    for number, point in enumerate(points):
        a, b, c = np.moveaxis(triangles - point, 1, 0)
        along, beside, behind = (np.linalg.norm(each, axis=1) for each in (a, b, c))
        high = np.einsum("ij,ij->i", a, np.cross(b, c))
        low = (
            along * beside * behind
            + np.einsum("ij,ij->i", a, b) * behind
            + np.einsum("ij,ij->i", b, c) * along
            + np.einsum("ij,ij->i", c, a) * beside
        )
        found[number] = np.arctan2(high, low).sum() / (2 * math.pi)
    return found


def _edges(faces: NDArray[np.int64]) -> _Edges:
    """Of the edges, face by face: the face, the number of the edge, and the way that the face runs along it, 1 or -1."""
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    keys = np.minimum(start, end) * (int(faces.max()) + 1) + np.maximum(start, end)
    _, which = np.unique(keys, return_inverse=True)
    return np.repeat(np.arange(len(faces)), 3), which.reshape(-1), np.where(start < end, 1.0, -1.0)


def _parts(count: int, faces: NDArray[np.int64], edges: _Edges) -> NDArray[np.int64]:
    """For each face the number of its part: faces hang together across edges that two of them share.

    Parts that touch in points or edges stay apart; where that leaves open ones, those that share a point are one.
    """
    part = np.unique(components(len(faces), _across(edges)), return_inverse=True)[1].reshape(-1)
    if not _is_closed(part, edges).all():
        part = np.unique(components(count, faces)[faces[:, 0]], return_inverse=True)[1].reshape(-1)
    return part


def _across(edges: _Edges) -> NDArray[np.int64]:
    """Pairs of faces [pairs, 2] that share an edge which is of no third one."""
    face, which, _ = edges
    order = np.argsort(which, kind="stable")
    first = np.searchsorted(which[order], np.flatnonzero(np.bincount(which) == 2))
    return np.stack([face[order][first], face[order][first + 1]], axis=1)


def _is_closed(part: NDArray[np.int64], edges: _Edges) -> NDArray[np.bool_]:
    """For each face whether along every edge of its part as many faces of it run one way as the other."""
    face, which, way = edges
    _, own = np.unique(part[face] * (int(which.max()) + 1) + which, return_inverse=True)
    own = own.reshape(-1)
    bad = np.bincount(own, weights=way)[own] != 0
    return ~np.isin(part, part[face[bad]])


def _outermost(
    triangles: NDArray[np.float64], part: NDArray[np.int64], volumes: NDArray[np.float64]
) -> NDArray[np.int64]:
    """For each part the largest one that it lies within, or itself."""
    count = len(volumes)
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, part, triangles.min(1))
    np.maximum.at(high, part, triangles.max(1))
    sizes = np.bincount(part, minlength=count)
    a_point = triangles[np.unique(part, return_index=True)[1], 0]
    around, left = np.arange(count), _MOST_ANGLES
    for outer in np.argsort(-volumes, kind="stable"):
        if around[outer] != outer:
            continue  # what is around it has what it holds
        held = (low[outer] <= low).all(1) & (high <= high[outer]).all(1) & (around == np.arange(count))
        held &= volumes < volumes[outer]
        inner = np.flatnonzero(held)
        left -= len(inner) * int(sizes[outer])
        if len(inner) and left > 0:
            inner = inner[np.abs(winding_number(a_point[inner], triangles[part == outer])) > 0.5]
        around[inner] = outer
    return around
