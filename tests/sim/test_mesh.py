"""Meshes: turned by rotations, merged, closed or not, and no part inside out."""

from __future__ import annotations

import numpy as np
import pytest

from diffalign.exceptions import ConfigError, DataError
from diffalign.sim import Mesh, Voxels, solid_of
from tests.sim.solids import SOLIDS, box, joined, solid, standing_box, turned_inside_out


def volume(*parts) -> float:
    mesh = Mesh.of(*joined(*parts))
    assert mesh.closed
    return round(solid_of(mesh).volume, 9)


@pytest.mark.parametrize(("up", "place"), [("x", (2, 3, 1)), ("y", (1, -3, 2)), ("z", (1, 2, 3))])
def test_the_upward_axis_comes_by_a_rotation(up, place):
    """A mirror image would have its faces the other way round: its signed volume, and its chirality, would show."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], dtype=float)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    mesh = Mesh.of(corners, faces, up=up)
    turned = Mesh.of(np.array([[1.0, 2, 3], [0, 0, 0], [1, 0, 0], [0, 1, 0]]), faces, up=up).vertices
    assert np.abs(turned - place).sum(1).min() == 0
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(1.0)
    assert mesh.closed


def test_vertices_at_one_place_are_one():
    vertices, faces = standing_box(1, 2, 3)
    apart = Mesh.of(vertices[faces].reshape(-1, 3), np.arange(36).reshape(-1, 3))  # as STL has them
    assert (len(apart.vertices), apart.closed, apart.pieces) == (8, True, 1)


def test_vertices_without_faces_do_not_count():
    vertices, faces = standing_box(1, 1, 1)
    mesh = Mesh.of(np.concatenate([[[9, 9, -9]], vertices]), faces + 1)
    assert (len(mesh.vertices), mesh.extent) == (8, 1)


def test_faces_that_are_there_twice_or_have_no_area_go():
    vertices, faces = standing_box(1, 1, 1)
    doubled = Mesh.of(vertices, np.concatenate([faces, np.roll(faces, 1, axis=1), faces[:, [0, 1, 0]]]))
    assert (len(doubled.faces), doubled.closed) == (12, True)


def test_an_open_mesh_is_known_to_be_open():
    vertices, faces = standing_box(1, 1, 1)
    assert not Mesh.of(vertices, faces[1:]).closed
    assert not Mesh.of(vertices, np.concatenate([faces[:1, ::-1], faces[1:]])).closed


OUTER, HOLLOW = box((0, 0, 0), (2, 2, 2)), turned_inside_out(box((0.5, 0.5, 0.5), (1.5, 1.5, 1.5)))
BY_CORNER, BY_EDGE, APART = box((2, 2, 2), (3, 3, 3)), box((2, 0, 2), (3, 2, 3)), box((5, 0, 0), (6, 1, 1))
CORE = box((0.9, 0.9, 0.9), (1.1, 1.1, 1.1))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([OUTER], 8),
        ([turned_inside_out(OUTER)], 8),
        ([OUTER, turned_inside_out(APART)], 9),
        ([OUTER, turned_inside_out(BY_CORNER)], 9),
        ([turned_inside_out(OUTER), BY_CORNER], 9),
        ([OUTER, turned_inside_out(BY_EDGE)], 10),
        ([OUTER, HOLLOW], 7),
        ([turned_inside_out(OUTER), turned_inside_out(HOLLOW)], 7),
        ([OUTER, HOLLOW, CORE], 7.008),
        ([turned_inside_out(part) for part in (OUTER, HOLLOW, CORE)], 7.008),
        ([OUTER, HOLLOW, turned_inside_out(APART)], 8),
    ],
    ids=lambda value: str(value) if not isinstance(value, list) else "",
)
def test_parts_are_turned_outwards_and_hollows_stay_hollow(parts, expected):
    assert volume(*parts) == expected


def test_what_is_in_the_bay_of_a_part_is_not_within_it():
    """Its box lies within that of the U, which goes around it and not about it."""
    u_shape = Voxels.of([[[1, 1, 1], [1, 0, 0], [1, 1, 1]]]).surface()
    inside_out = turned_inside_out(box((0.2, 1.2, 1.2), (0.8, 1.8, 2.2)))
    assert volume((u_shape.vertices * 3, u_shape.faces), inside_out) == 7.36


def test_parts_that_share_a_whole_side_are_one_solid():
    assert volume(standing_box(1, 1, 1), box((-0.5, -0.5, 1), (0.5, 0.5, 2))) == 2


def test_many_parts_of_both_signs_take_no_time():
    generator = np.random.default_rng(0)
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    count = 3000
    vertices = (corners + generator.uniform(0, 100, (count, 1, 3))).reshape(-1, 3)
    way = np.where(generator.random((count, 1, 1)) < 0.5, faces, faces[:, ::-1])
    mesh = Mesh.of(vertices, (way + 4 * np.arange(count)[:, None, None]).reshape(-1, 3))
    assert solid_of(mesh).volume == pytest.approx(count / 6)


def test_the_solids_are_closed():
    assert all(solid(name).closed for name in SOLIDS)


@pytest.mark.parametrize(
    ("vertices", "faces", "told"),
    [
        (np.zeros((4, 2)), [[0, 1, 2]], r"vertices must be numbers \[vertices, 3\], got float64 \[4, 2\]"),
        (np.zeros((4, 3), dtype=str), [[0, 1, 2]], "vertices must be numbers"),
        ([[0, 0], [1, 2, 3]], [[0, 1, 2]], "tables with three columns"),
        (np.zeros((0, 3)), [[0, 1, 2]], "no vertices"),
        (np.eye(3), np.zeros((0, 3), dtype=int), "no faces"),
        (np.eye(3), [[0, 1, 2, 0]], r"faces must be integers \[faces, 3\], got int64 \[1, 4\]"),
        (np.eye(3), [[0.0, 1.0, 2.0]], "faces must be integers"),
        (np.eye(3), [[0, 1, 3]], "faces name vertices 0 to 2, and these name 0 to 3"),
        (np.eye(3), [[0, 1, -1]], "these name -1 to 1"),
        ([[0, 0, np.nan], [1, 0, np.inf], [0, 1, 0]], [[0, 1, 2]], "2 of 3 vertices are not finite"),
        (np.ones((3, 3)), [[0, 1, 2]], "no extent"),
        (np.eye(3) * 1e61, [[0, 1, 2]], "no extent"),
        (np.eye(3) * 1e-61, [[0, 1, 2]], "no extent"),
        ([[-1e308, 0, 0], [1e308, 0, 0], [0, 1, 0]], [[0, 1, 2]], "no extent"),
        (np.eye(3), [[0, 1, 1]], "no face with an area"),
    ],
)
def test_what_is_no_mesh(vertices, faces, told):
    with pytest.raises(DataError, match=told):
        Mesh.of(vertices, faces)


@pytest.mark.usefixtures("unchecked_types")
def test_no_such_axis():
    with pytest.raises(ConfigError, match="up: must be x, y or z, got 'w'"):
        Mesh.of(*standing_box(1, 1, 1), up="w")
