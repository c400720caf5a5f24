"""Which parts of a surface make one body: those that touch, and those that lie within the solid of another one."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from diffalign.sim.winding import components, winding_number

FINEST = 1 / 256  # of the longest side: cells in which surfaces meet
_COARSEST = 1 / 8
_MOST_TRIANGLES = 1_000_000  # beside those of the mesh; a second and some hundred megabytes
_MOST_BODIES = 1000  # of more it is not asked which lies within which: it takes the square of their number
_MOST_ANGLES = 20_000_000  # faces times points, a few seconds
_A_CALL = 1000  # faces that take as long as asking does
_ROW = 1 << 10  # more than there are cells in a row, with one around them
_AROUND = [(x * _ROW + y) * _ROW + z for x, y, z in product((-1, 0, 1), repeat=3)]


def bodies(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each face the number of its body, from 0.

    Faces that share a vertex hang together. Such parts are one body where their surfaces touch: surely where the gap
    between them is below a third of a cell of 1/256 of the longest side, and never where it is two cells or more along one
    axis. So are a part and the one that it lies in, where there is solid around it: a hollow, or a bolt in a block, but
    not what floats in a hollow (the winding number says which).

    Surfaces are halved into small triangles only where cells of other parts are near. If that takes more than a million
    triangles, what is near each other by then is taken to touch; of more than 1000 bodies, or beyond a few seconds, it is
    not asked what lies within what.

    Args:
        points: [points, 3] with a longest side of 1.
        faces: [faces, 3].
    """
    part = _numbered(components(len(points), faces)[faces[:, 0]])
    if part.max():
        corners = points[faces] - points.min(0)
        part = _numbered(_touching(corners, part)[part])
        part = _numbered(_within(corners, part)[part])
    return part


def _numbered(names: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(names, return_inverse=True)[1].reshape(-1)


def _touching(triangles: NDArray[np.float64], part: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each part the least one that it hangs together with over surfaces [triangles, 3, 3] that touch."""
    body = np.arange(int(part.max()) + 1)
    most = len(triangles) + _MOST_TRIANGLES
    near, cell = np.ones(len(triangles), dtype=bool), 1.0
    size = _COARSEST
    while size >= FINEST and near.any():
        triangles, part = _halved(triangles[near], part[near], size / 2, most)
        if len(triangles) > most:
            return components(len(body), np.concatenate([_links(triangles.mean(1), part, cell), _pairs(body)]))
        cell = size
        centres = triangles.mean(1)
        body = components(len(body), np.concatenate([_links(centres, part, FINEST), _pairs(body)]))
        near = _near_another(centres, body[part], cell)
        size /= 2
    return body


def _pairs(body: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([np.arange(len(body)), body], axis=1)


def _halved(
    triangles: NDArray[np.float64], part: NDArray[np.int64], longest: float, most: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The same surface in triangles none of whose edges is longer; or no further than to more than `most` of them."""
    small: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
    count = 0
    while len(triangles):
        edges = np.linalg.norm(np.roll(triangles, -1, axis=1) - triangles, axis=2)
        large = (edges.max(1) > longest) & (count + len(triangles) <= most)
        small.append((triangles[~large], part[~large]))
        count += len(small[-1][0])
        first = edges[large].argmax(1)[:, None] + np.arange(3)
        a, b, c = np.moveaxis(np.take_along_axis(triangles[large], (first % 3)[..., None], axis=1), 1, 0)
        middle = (a + b) / 2
        triangles = np.concatenate([np.stack([a, middle, c], axis=1), np.stack([middle, b, c], axis=1)])
        part = np.tile(part[large], 2)
    return np.concatenate([each for each, _ in small]), np.concatenate([each for _, each in small])


def _cells(centres: NDArray[np.float64], size: float) -> NDArray[np.int64]:
    """For each point the number of its cell; neighbours differ by one of `_AROUND`."""
    x, y, z = (np.floor(centres / size).astype(np.int64) + 1).T
    return (x * _ROW + y) * _ROW + z


def _links(centres: NDArray[np.float64], part: NDArray[np.int64], size: float) -> NDArray[np.int64]:
    """Pairs of parts [links, 2] that have points in one cell or in neighbouring ones."""
    cells = _cells(centres, size)
    order = np.argsort(cells, kind="stable")
    cells, part = cells[order], part[order]
    links = [np.stack([part[:-1], part[1:]], axis=1)[cells[:-1] == cells[1:]]]
    first = _firsts(cells)
    known = cells[first]
    for step in _AROUND[len(_AROUND) // 2 + 1 :]:
        here, there = _met(known, step)
        links.append(np.stack([part[first[here]], part[first[there]]], axis=1))
    pairs = np.concatenate([each[each[:, 0] != each[:, 1]] for each in links])
    count = int(part.max()) + 1
    names = np.sort(pairs[:, 0] * count + pairs[:, 1])
    return np.stack(np.divmod(names[_firsts(names)], count), axis=1)


def _firsts(rising: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each number of a rising list stands first; np.unique takes ten times as long."""
    return np.flatnonzero(np.diff(rising, prepend=rising[:1] - 1))


def _near_another(centres: NDArray[np.float64], body: NDArray[np.int64], size: float) -> NDArray[np.bool_]:
    """Whether another body has a point in the cell of each, or in one beside it."""
    known, which = np.unique(_cells(centres, size), return_inverse=True)
    which = which.reshape(-1)
    low, high = np.full(len(known), np.iinfo(np.int64).max), np.full(len(known), -1)
    np.minimum.at(low, which, body)
    np.maximum.at(high, which, body)
    least, most = low.copy(), high.copy()
    for step in _AROUND:
        here, there = _met(known, step)
        least[here] = np.minimum(least[here], low[there])
        most[here] = np.maximum(most[here], high[there])
    return (least < most)[which]


def _met(known: NDArray[np.int64], step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in a rising list of the numbers that have a neighbour in it, so far away, and the places of those."""
    there = np.minimum(np.searchsorted(known, known + step), len(known) - 1)
    here = np.flatnonzero(known[there] == known + step)
    return here, there[here]


def _within(triangles: NDArray[np.float64], part: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each body the least one that it hangs together with, as it lies in its solid; no two of them touch."""
    count = int(part.max()) + 1
    own = np.arange(count)
    if not 1 < count <= _MOST_BODIES:
        return own
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, part, triangles.min(1))
    np.maximum.at(high, part, triangles.max(1))
    size = np.prod(high - low, axis=1)
    ordered = triangles[np.argsort(part, kind="stable")]
    faces = np.bincount(part)
    first = np.cumsum(faces) - faces
    links, left = [np.zeros((0, 2), dtype=np.int64)], _MOST_ANGLES
    for inner in own:
        around = np.flatnonzero((low <= low[inner]).all(1) & (high >= high[inner]).all(1) & (own != inner))
        left -= int(faces[around].sum()) + _A_CALL * len(around)
        if not len(around) or left < 0:
            continue
        point = ordered[first[inner], :1]
        turns = [winding_number(point, ordered[first[each] : first[each] + faces[each]])[0] for each in around]
        if abs(sum(turns)) > 0.5:
            holders = around[np.abs(turns) > 0.5]
            links.append(np.array([[inner, each] for each in holders[np.argsort(size[holders])][:1]]).reshape(-1, 2))
    return components(count, np.concatenate(links))
