"""Likeness of shapes: by hand, against a brute search, and what does not change it."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from diffalign.sim import Mesh, Voxels, glb_of, likeness, read_mesh, shared_share, surface_points


def box(x: float, y: float, z: float) -> Mesh:
    made = trimesh.creation.box((x, y, z))
    return Mesh.of(made.vertices, made.faces)


def test_points_lie_on_the_surface_evenly_and_are_those_of_the_seed():
    points = surface_points(box(1.0, 1.0, 2.0), 20_000)
    assert np.isclose(np.abs(points) / [0.5, 0.5, 1.0], 1.0).any(1).all()
    on_top = np.isclose(np.abs(points[:, 2]), 1.0).mean()
    assert on_top == pytest.approx(2 / 10, abs=0.01)  # two of the ten units of area
    assert abs(points.mean(0)).max() < 0.02
    assert np.array_equal(points, surface_points(box(1.0, 1.0, 2.0), 20_000))
    assert not np.array_equal(points, surface_points(box(1.0, 1.0, 2.0), 20_000, seed=1))


def test_likeness_is_that_of_a_brute_search():
    one, other = box(1.0, 1.0, 2.0), box(1.0, 0.7, 2.0)
    found = likeness(one, other, count=500, seed=3)
    first, second = surface_points(one, 500, seed=3), surface_points(other, 500, seed=4)
    first, second = ((each - (each.max(0) + each.min(0)) / 2) / np.ptp(each, axis=0).max() for each in (first, second))
    apart = np.linalg.norm(first[:, None] - second, axis=-1)
    there, back = apart.min(1), apart.min(0)
    assert found.chamfer == pytest.approx((there.mean() + back.mean()) / 2)
    precision, recall = (there <= 0.05).mean(), (back <= 0.05).mean()
    assert found.f_score == pytest.approx(2 * precision * recall / (precision + recall))


def test_place_and_scale_do_not_count_and_form_does():
    one = box(1.0, 1.0, 2.0)
    moved = Mesh.of(7.0 * one.vertices + [3.0, -5.0, 100.0], one.faces)
    same = likeness(one, moved, count=2000)
    itself = likeness(one, one, count=2000)
    assert same.chamfer == pytest.approx(itself.chamfer) and same.f_score == itself.f_score > 0.99
    flat = likeness(one, box(2.0, 2.0, 0.2), count=2000)
    assert flat.chamfer > 0.1 and flat.f_score < 0.5
    back = likeness(box(2.0, 2.0, 0.2), one, count=2000)
    assert back.chamfer == pytest.approx(flat.chamfer, rel=0.02) and back.f_score == pytest.approx(
        flat.f_score, abs=0.02
    )


def test_equal_shapes_are_at_the_floor_of_two_samplings():
    """Points fall on an area A as a Poisson process: the nearest of n lies 0.5 sqrt(A / n) away, in the mean."""
    plate = box(1.0, 1.0, 0.01)
    found = likeness(plate, plate, count=10_000)
    assert found.chamfer == pytest.approx(0.5 * np.sqrt(2.04 / 10_000), rel=0.05) and found.f_score == 1.0


def test_the_share_that_two_grids_share():
    one, other = (np.zeros((4, 4, 4), dtype=bool) for _ in range(2))
    one[:2], other[1:3] = True, True
    assert shared_share(Voxels(one), Voxels(other)) == pytest.approx(16 / 48)
    assert shared_share(Voxels(one), Voxels(one)) == 1.0


def test_a_glb_holds_the_shape_upright(tmp_path):
    grid = np.zeros((6, 5, 4), dtype=bool)
    grid[:2, :3, :] = True
    grid[2:5, 0, 3] = True
    shape = Voxels(grid)
    (tmp_path / "shape.glb").write_bytes(glb_of(shape))
    again = read_mesh(tmp_path / "shape.glb")
    surface = shape.surface()
    assert again.closed and len(again.faces) == len(surface.faces)
    np.testing.assert_allclose(again.vertices.min(0), surface.vertices.min(0), atol=1e-7)
    np.testing.assert_allclose(again.vertices.max(0), surface.vertices.max(0), atol=1e-7)
    assert likeness(again, shape).f_score == 1.0


def test_the_outline_has_the_area_and_the_volume_of_the_surface():
    grid = np.random.default_rng(0).random((7, 5, 6)) > 0.6
    shape = Voxels(grid)

    def area(triangles: np.ndarray) -> float:
        return np.linalg.norm(
            np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1
        ).sum()

    def volume(triangles: np.ndarray) -> float:
        return np.einsum("ij,ij->i", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2])).sum() / 6

    outline, surface = shape.outline(), shape.surface()
    assert len(outline) < len(surface.faces)
    assert area(outline) == pytest.approx(area(surface.vertices[surface.faces]))
    assert volume(outline) == pytest.approx(grid.sum() * shape.side**3)
