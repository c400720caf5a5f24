"""Statics: margins and critical angles by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffalign.sim import Mesh, Voxels, static_stability
from diffalign.sim.static import convex_polygon
from tests.sim.solids import solid, standing_box


@pytest.mark.parametrize(
    ("name", "margin", "angle"),
    [
        ("cube", 0.5, 45.0),
        ("tower", 0.05, 5.7106),
        ("slab", 0.5, math.degrees(math.atan(10))),
        ("L 0.6", 0.1 - 0.6 / 7, None),
        ("table, 4 legs", 0.45, math.degrees(math.atan(0.45 / 0.0722 * 0.124))),
        ("cone sheared by 1.1", 0.0249, None),
        ("cone sheared by 1.3", -0.0250, None),
        ("cone on its tip", 0.0, 0.0),
        ("cube at 5 degrees", -math.sin(math.radians(40)) / math.sqrt(2), -40.0),
    ],
)
def test_margins_and_angles(name, margin, angle):
    found = static_stability(solid(name))
    assert found.margin == pytest.approx(margin, abs=5e-5)
    assert found.stable == (margin > 0)
    if angle is not None:
        assert found.critical_angle == pytest.approx(angle, abs=1e-3)


def test_the_margin_has_the_unit_of_the_shape_and_the_angle_none():
    small, large = (static_stability(Mesh.of(*standing_box(0.3 * size, 0.5 * size, size))) for size in (1.0, 1000.0))
    assert large.margin == pytest.approx(1000 * small.margin)
    assert large.height == pytest.approx(1000 * small.height)
    assert large.critical_angle == pytest.approx(small.critical_angle)


@pytest.mark.parametrize("yaw", [10.0, 45.0, 133.0])
@pytest.mark.parametrize("name", ["L 0.6", "table, 3 legs", "cone sheared by 1.3"])
def test_turns_and_mirrors_change_nothing(name, yaw):
    mesh = solid(name)
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    there = static_stability(mesh)
    for vertices in (mesh.vertices @ turn.T, mesh.vertices * [-1, 1, 1], mesh.vertices + np.array([7, -5, 3])):
        found = static_stability(Mesh.of(vertices, mesh.faces))
        assert found.margin == pytest.approx(there.margin, abs=1e-9)
        assert found.height == pytest.approx(there.height, abs=1e-9)


def test_an_open_mesh_says_what_its_mass_was_taken_from():
    vertices, faces = standing_box(1, 1, 1)
    assert static_stability(Mesh.of(vertices, faces[1:])).mass == "hull"


def test_voxels_need_numpy_alone():
    column = np.zeros((4, 4, 8), dtype=bool)
    column[1:3, 1:3] = True
    column[:, 1:3, 7] = True
    assert static_stability(Voxels.of(column)).margin == pytest.approx(1 / 8)


def test_feet_within_the_tolerance_touch():
    mesh = solid("table, 4 legs")
    vertices = mesh.vertices.copy()
    foot = (vertices[:, 2] == 0) & (vertices[:, 0] > 0) & (vertices[:, 1] > 0)
    vertices[foot, 2] = 5e-4
    assert static_stability(Mesh.of(vertices, mesh.faces)).margin == pytest.approx(0.45, abs=1e-3)
    vertices[foot, 2] = 5e-3
    assert static_stability(Mesh.of(vertices, mesh.faces)).margin < 0.2  # three legs, with this pose's centre


def test_the_polygon_is_that_of_the_outermost_points():
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    assert convex_polygon(grid).tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    assert convex_polygon(np.array([[0.0, 0], [1, 1], [2, 2], [1, 1]])).tolist() == [[0, 0], [2, 2]]
    assert convex_polygon(np.zeros((3, 2))).tolist() == [[0, 0]]
