"""Occupancy grids: mass, surface and pieces of bodies made of cubes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from diffalign.exceptions import DataError
from diffalign.sim import Mesh, Voxels, simulate_stability, solid_of, static_stability
from tests.sim.solids import standing_box

RANDOM = np.random.default_rng(0).random((5, 6, 7)) < 0.4


def test_a_full_grid_is_a_box():
    grid = Voxels.of(np.ones((2, 3, 4)))
    found, there = solid_of(grid), solid_of(Mesh.of(*standing_box(0.5, 0.75, 1.0)))
    assert (grid.side, grid.volume, grid.pieces) == (0.25, 1.0, 1)
    assert found.volume == pytest.approx(0.375)
    np.testing.assert_allclose(found.centre, [0.25, 0.375, 0.5])
    np.testing.assert_allclose(found.inertia, there.inertia, atol=1e-12)


def test_the_cubes_and_their_surface_are_the_same_body():
    """Also where cubes touch in edges and corners alone, as they do in a random grid."""
    grid = Voxels.of(RANDOM)
    surface = grid.surface()
    assert surface.closed
    cubes, mesh = solid_of(grid), solid_of(surface)
    assert cubes.volume == pytest.approx(RANDOM.sum() / 7**3)
    assert mesh.volume == pytest.approx(cubes.volume)
    np.testing.assert_allclose(mesh.centre, cubes.centre)
    np.testing.assert_allclose(mesh.inertia, cubes.inertia, atol=1e-12)
    np.testing.assert_allclose(surface.vertices.min(0), grid.corners().min(0))


def test_its_corners_have_the_hull_of_its_surface():
    grid = Voxels.of(RANDOM)
    hulls = [simulate_stability(grid), simulate_stability(grid.surface())]
    assert hulls[0].tilt == pytest.approx(hulls[1].tilt, abs=0.05)
    assert static_stability(grid).margin == pytest.approx(static_stability(grid.surface()).margin)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_pieces_are_those_of_scipy(share):
    grid = np.random.default_rng(1).random((8, 9, 10)) < share
    labels, count = label(grid)
    found = Voxels.of(grid)
    assert found.pieces == count
    assert len(np.unique(np.stack([found.labels[grid], labels[grid]]), axis=1).T) == count
    assert not found.labels[~grid].any()


def test_hollows_are_filled_and_what_is_open_stays_open():
    shell = np.ones((5, 6, 7), dtype=bool)
    shell[1:-1, 1:-1, 1:-1] = False
    assert Voxels(shell).filled().occupied.all() and Voxels(shell).pieces == 1
    for hole, closed in (((0, 2, 2), False), ((0, 0, 2), True), ((0, 0, 0), True)):  # a face; an edge and a corner
        opened = shell.copy()
        opened[hole] = False
        whole = np.ones_like(shell)
        whole[hole] = False
        assert np.array_equal(Voxels(opened).filled().occupied, whole if closed else opened)
    cut = shell[1:]  # the grid's border cuts it open
    assert np.array_equal(Voxels(cut).filled().occupied, cut)
    apart = shell.copy()
    apart[2, 3, 3] = True  # something that floats in the hollow is part of the solid
    assert (Voxels(apart).pieces, Voxels(apart).filled().pieces) == (2, 1)


def test_an_empty_grid_is_taken_where_it_is_asked_for():
    grid = Voxels.of(np.zeros((2, 3, 4)), allow_empty=True)
    assert (grid.volume, grid.pieces) == (0.0, 0) and not grid.labels.any()
    with pytest.raises(DataError, match="must be"):
        Voxels.of(np.zeros((2, 3)), allow_empty=True)


def test_more_than_a_half_is_occupied():
    grid = np.array([[[0.5, 0.51, 1.0, 0.0]]])
    assert Voxels.of(grid).occupied.ravel().tolist() == [False, True, True, False]
    assert Voxels.of(grid[None]).occupied.shape == (1, 1, 4)


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (np.ones((2, 2)), r"must be \[x, y, z\], got \[2, 2\]"),
        (np.ones((2, 2, 2, 2)), r"got \[2, 2, 2, 2\]"),
        (np.ones((0, 2, 2)), r"got \[0, 2, 2\]"),
        (np.full((2, 2, 2), np.nan), "finite"),
        (np.full((2, 2, 2), 3.0), r"must lie in \[0, 1\], got 3 to 3"),
        (np.zeros((2, 2, 2)), "empty"),
        (np.array([[["a"]]]), "finite numbers"),
    ],
)
def test_what_is_no_grid(grid, told):
    with pytest.raises(DataError, match=told):
        Voxels.of(grid)
