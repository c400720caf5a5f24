"""Pieces of a mesh: which of its parts touch, lie in each other's solid, or are apart."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from diffalign.sim import Mesh, Voxels
from diffalign.sim.touching import FINEST
from tests.sim.solids import SOLIDS, Arrays, blob, box, joined, solid, table, turned_inside_out

CUBE = box((0, 0, 0), (1, 1, 1))
HOLLOW = turned_inside_out(box((0.25, 0.25, 0.25), (0.75, 0.75, 0.75)))
CORE = box((0.4, 0.4, 0.4), (0.6, 0.6, 0.6))
SEED = box((0.45, 0.45, 0.45), (0.55, 0.55, 0.55))
TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
ITS_FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])


def tetrahedra(count: int, within: float, seed: int = 0) -> Arrays:
    places = np.random.default_rng(seed).uniform(0, within, (count, 1, 3))
    return (TETRAHEDRON + places).reshape(-1, 3), (ITS_FACES + 4 * np.arange(count)[:, None, None]).reshape(-1, 3)


@pytest.mark.parametrize(
    ("parts", "pieces"),
    [
        ([CUBE, box((1, 0, 0), (2, 1, 1))], 1),
        ([CUBE, box((1, 0.31, 0.27), (2, 1.31, 1.27))], 1),
        ([CUBE, box((1, 0.31, 0.27), (1.1, 0.41, 0.37))], 1),
        ([CUBE, box((1, 1, 0.3), (2, 2, 1.3))], 1),
        ([CUBE, box((0.9, 0.31, 0.27), (1.1, 0.41, 0.37))], 1),
        ([box((0, 0.4, 0.4), (1, 0.6, 0.6)), box((0.4, 0, 0.4), (0.6, 1, 0.6))], 1),
        ([CUBE, box((1.2, 0, 0), (2, 1, 1))], 2),
        ([CUBE, box((1.2, 0, 0), (2, 1, 1)), box((0.9, 0.5, 0.5), (1.3, 0.6, 0.6))], 1),
        ([table(4), box((-0.1, -0.1, 0.8), (0.1, 0.1, 1))], 2),
        ([box((0, 0, 0.5), (1, 1, 0.6)), box((0.52, 0.47, 0), (0.57, 0.52, 0.5))], 1),
        ([box((0, 0, 0.5), (1, 1, 0.6)), box((0.52, 0.47, 0), (0.57, 0.52, 0.4))], 2),
        ([CUBE, HOLLOW], 1),
        ([CUBE, HOLLOW, CORE], 2),
        ([CUBE, HOLLOW, CORE, SEED], 2),
        ([CUBE, HOLLOW, box((0.4, 0.4, 0.25), (0.6, 0.6, 0.5))], 1),
        ([CUBE, CORE], 1),
        ([(CUBE[0], CUBE[1][1:]), CORE], 1),
    ],
    ids=[
        "one face", "part of a face", "small on large", "along an edge", "overlapping", "crossing", "a gap of 10 %",
        "a gap bridged", "above a table", "a leg in the middle of a plate", "a leg too short", "a hollow",
        "afloat in a hollow", "within what is afloat", "on the floor of a hollow", "within a solid", "within an open box",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1.0, 1e-9, 1e9])
def test_what_is_one_piece(parts, pieces, size):
    vertices, faces = joined(*parts)
    assert Mesh.of(vertices * size + 3 * size, faces).pieces == pieces


def test_the_solids_are_of_one_piece():
    assert {name for name in SOLIDS if solid(name).pieces != 1} == set()


@pytest.mark.parametrize("turn", range(4))
def test_how_near_is_near(turn):
    """Surely below a third of a cell; never at two cells, along an axis."""
    slide = np.random.default_rng(turn).uniform(0, 0.01, 3)
    for gap, pieces in ((0.3, 1), (2.01, 2)):
        top, base = box((0.1, 0.2, 0.3 + gap * FINEST), (0.2, 0.3, 1)), box((0, 0, 0), (0.9, 0.9, 0.3))
        assert Mesh.of(*joined((top[0] + [*slide[:2], 0], top[1]), base)).pieces == pieces


def test_a_free_layer_between_cells_of_a_fine_grid_is_a_gap():
    grid = np.zeros((64, 64, 64), dtype=bool)
    grid[20:40, 20:40, :30] = True
    grid[25:35, 25:35, 31:] = True
    assert Voxels.of(grid).pieces == Voxels.of(grid).surface().pieces == 2


@pytest.mark.parametrize("seed", range(3))
def test_turned_and_in_another_order_it_is_the_same(seed):
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    for parts, pieces in (([table(4)], 1), ([CUBE, box((1.2, 0, 0), (2, 1, 1))], 2)):
        vertices, faces = joined(*parts)
        assert Mesh.of(vertices @ turn, generator.permutation(faces)).pieces == pieces


def test_a_soup_of_triangles_has_the_pieces_of_a_search_among_many_points():
    """Triangles with points nearer than a third of a cell are one, and none that are farther than two cells across."""
    generator = np.random.default_rng(3)
    count, each = 60, 1500
    corners = generator.uniform(0, 1, (count, 1, 3)) + generator.normal(0, 0.12, (count, 3, 3))
    mesh = Mesh.of(corners.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3))
    along, across = np.sqrt(generator.random((each, 1))), generator.random((each, 1))
    a, b, c = np.moveaxis(corners[:, None], 2, 0)
    tree = cKDTree(((1 - along) * a + along * (1 - across) * b + along * across * c).reshape(-1, 3))
    counts = []
    for reach in (FINEST / 3, 2 * 3**0.5 * FINEST):
        near = tree.query_pairs(reach * mesh.extent, output_type="ndarray") // each
        links = coo_array((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(count, count))
        counts.append(connected_components(links, directed=False)[0])
    assert 5 < counts[1] <= mesh.pieces <= counts[0] < count - 5


@pytest.mark.parametrize(
    ("made", "pieces"),
    [
        (lambda: tetrahedra(10_000, 300), (9000, 10_000)),
        (lambda: tetrahedra(10_000, 0.5), (1, 1)),
        (lambda: (np.random.default_rng(0).random((30_000, 3)), np.arange(30_000).reshape(-1, 3)), (1, 1)),
        (lambda: joined(box((0, 0, 0), (1, 1, 0.49)), box((0, 0, 0.51), (1, 1, 1))), (2, 2)),
        (
            lambda: joined(*(box((edge,) * 3, (2 - edge,) * 3) for edge in np.arange(0, 1, 0.025)), CUBE),
            (1, 1),
        ),
        (
            lambda: joined(
                box((0, 0, 0), (31, 31, 31)),
                turned_inside_out(box((0.5,) * 3, (30.5,) * 3)),
                *(
                    box((x, y, z), (x + 0.4, y + 0.4, z + 0.4))
                    for x in range(2, 29, 3)
                    for y in range(2, 29, 3)
                    for z in range(2, 29, 3)
                ),
            ),
            (730, 730),
        ),
        (lambda: joined(*(box((0, 0, z / 100), (1, 1, (z + 0.1) / 100)) for z in range(100))), (1, 100)),
    ],
    ids=[
        "scattered",
        "all in one place",
        "triangles across",
        "a slit",
        "shells in shells",
        "many in a hollow",
        "many slits",
    ],
)
def test_many_parts_and_long_slits_take_seconds_at_most(made, pieces):
    mesh = Mesh.of(*made())
    before = time.process_time()
    assert pieces[0] <= mesh.pieces <= pieces[1]
    assert time.process_time() - before < 10


def test_ordinary_meshes_take_no_time():
    vertices, faces = blob(5)
    mesh = Mesh.of(
        *joined((vertices, faces), (vertices * 0.3 + [1.0, 0, 0], faces), (vertices * 0.3 + [9, 0, 0], faces))
    )
    before = time.process_time()
    assert (len(mesh.faces), mesh.pieces) == (61440, 2)
    assert time.process_time() - before < 2
