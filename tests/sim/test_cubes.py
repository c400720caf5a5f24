"""Surfaces of equal cubes are the grids that they were."""

from __future__ import annotations

import time

import numpy as np
import pytest

from diffalign.sim import Mesh, Voxels, glb_of, read_mesh
from diffalign.sim.cubes import face_labels, grid_of
from tests.sim.solids import box, joined, solid

CUBE = box((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("size", [(7, 5, 9), (15, 15, 15)])
def test_a_grid_is_found_again_with_its_pieces(share, size, tmp_path):
    """At random most cubes meet in edges and corners."""
    grid = np.random.default_rng(len(size) + int(100 * share)).random(size) < share
    shape = Voxels.of(grid)
    (tmp_path / "a.glb").write_bytes(glb_of(shape))
    mesh = read_mesh(tmp_path / "a.glb")
    assert face_labels(grid).max() == shape.pieces == mesh.pieces == shape.surface().pieces
    found = grid_of(mesh.vertices, mesh.faces)
    low, high = np.argwhere(grid).min(0), np.argwhere(grid).max(0) + 1
    whole = grid[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
    assert found is not None
    np.testing.assert_array_equal(found[tuple(map(slice, whole.shape))], whole)


@pytest.mark.parametrize(
    ("other", "pieces"),
    [(box((1, 0, 0), (2, 1, 1)), 1), (box((1, 1, 0), (2, 2, 1)), 2), (box((1, 1, 1), (2, 2, 2)), 2)],
    ids=["a face", "an edge", "a corner"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_cubes_belong_together_where_they_share_a_face(other, pieces, scale):
    vertices, faces = joined(CUBE, other)
    assert Mesh.of(vertices * scale + 7 * scale, faces).pieces == pieces


@pytest.mark.parametrize(
    "part",
    [
        joined(CUBE, box((1, 1, 0.3), (2, 2, 1.3))),
        joined(CUBE, box((1, 1, 1), (3, 3, 3))),
        joined(CUBE, CUBE),
        joined(CUBE, box((0, 0, 0.5), (1, 1, 1.5))),
    ],
    ids=["shifted by a part of a cube", "cubes of two sizes", "twice", "overlapping"],
)
def test_others_are_judged_by_what_is_near(part):
    assert Mesh.of(*part).pieces == 1


def test_other_meshes_are_no_cubes():
    for name in ("L 0.6", "cylinder", "table, 4 legs"):
        mesh = solid(name)
        assert grid_of(mesh.vertices, mesh.faces) is None


def test_it_takes_no_time():
    grid = np.random.default_rng(0).random((64, 64, 64)) < 0.3
    surface = Voxels.of(grid).surface()
    before = time.process_time()
    assert surface.pieces == Voxels.of(grid).pieces
    assert time.process_time() - before < 5
