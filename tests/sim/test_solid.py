"""Mass, centre and inertia of solids, and what they are taken from where a surface is open."""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import numpy as np
import pytest
import trimesh

from diffalign.exceptions import DataError
from diffalign.sim import Mesh, simulate_stability, solid_of
from diffalign.sim.solid import checked_shape, hull_faces
from tests.sim.solids import box, joined, l_shape, revolved, solid, standing_box, turned_inside_out


def mujoco_mass(mesh: Mesh, kind: str) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass, centre and principal moments as MuJoCo finds them, by one of its four ways."""
    spec = mujoco.MjSpec()
    found = spec.add_mesh(name="shape", uservert=mesh.vertices.ravel(), userface=mesh.faces.ravel().astype(np.int32))
    found.inertia = getattr(mujoco.mjtMeshInertia, f"mjMESH_INERTIA_{kind}")
    body = spec.worldbody.add_body()
    body.add_freejoint()
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="shape")
    model = spec.compile()
    return float(model.body_mass[1]), model.body_ipos[1].copy(), np.sort(model.body_inertia[1])


def test_a_box_by_hand():
    found = solid_of(Mesh.of(*standing_box(2, 3, 4)))
    assert (found.volume, found.mass) == (pytest.approx(24), "exact")
    np.testing.assert_allclose(found.centre, [0, 0, 2], atol=1e-12)
    np.testing.assert_allclose(found.inertia, np.diag([9 + 16, 4 + 16, 4 + 9]) * 2.0, atol=1e-9)


def test_a_cone_has_its_centre_at_a_quarter():
    found = solid_of(solid("cone sheared by 2.0"))
    np.testing.assert_allclose(found.centre, [0.5, 0, 0.25], atol=1e-12)
    assert found.volume == pytest.approx(32 / 2 * 0.09 * math.sin(2 * math.pi / 32) / 3)


@pytest.mark.parametrize("name", ["cylinder", "table, 3 legs", "cone sheared by 1.3", "capsule on its end"])
def test_moments_are_those_of_mujoco_with_exact_inertia(name):
    found, (mass, centre, moments) = solid_of(solid(name)), mujoco_mass(solid(name), "EXACT")
    assert found.volume * 1000 == pytest.approx(mass, rel=1e-6)
    np.testing.assert_allclose(found.centre, centre, atol=1e-6)
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(found.inertia * 1000)), moments, rtol=1e-5)


@pytest.mark.parametrize(("mass", "kind"), [("hull", "CONVEX"), ("shell", "SHELL")])
def test_hull_and_shell_are_those_of_mujoco(mass, kind):
    found, (_, centre, moments) = solid_of(solid("L 0.6"), mass=mass), mujoco_mass(solid("L 0.6"), kind)
    assert found.mass == mass
    np.testing.assert_allclose(found.centre, centre, atol=1e-6)
    ours = np.sort(np.linalg.eigvalsh(found.inertia))
    np.testing.assert_allclose(ours / ours.sum(), moments / moments.sum(), rtol=1e-5)


def test_the_default_of_mujoco_weighs_concave_shapes_wrongly():
    """The reason for taking the mass from the surface ourselves (google-deepmind/mujoco #2152)."""
    true, (mass, centre, _) = solid_of(solid("table, 4 legs")), mujoco_mass(solid("table, 4 legs"), "LEGACY")
    assert (true.volume, true.centre[2]) == (pytest.approx(0.124), pytest.approx(0.5823, abs=1e-4))
    assert (mass, centre[2]) == (pytest.approx(308, abs=0.5), pytest.approx(0.492, abs=5e-4))
    true, (_, centre, _) = solid_of(solid("L 0.6")), mujoco_mass(solid("L 0.6"), "LEGACY")
    assert (true.centre[0], centre[0]) == (pytest.approx(0.6 / 7), pytest.approx(0.1034, abs=5e-5))


def test_an_open_mesh_falls_back_and_says_so():
    vertices, faces = standing_box(1, 1, 1)
    lid_off = Mesh.of(vertices, faces[~(vertices[faces][..., 2] == 1).all(1)])
    hull, shell = solid_of(lid_off), solid_of(lid_off, fallback="shell")
    assert (hull.mass, hull.volume, hull.centre[2]) == ("hull", pytest.approx(1), pytest.approx(0.5))
    assert (shell.mass, shell.volume, shell.centre[2]) == ("shell", pytest.approx(5), pytest.approx(0.4))  # 4 * 0.5 / 5


LABEL = (np.array([[0.1, -0.05, 0.3], [0.1, 0.05, 0.3], [0.1, 0.0, 0.5]]), np.array([[0, 1, 2]]))


def lidless(x: float, y: float, z: float) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = standing_box(x, y, z)
    return vertices, faces[~(vertices[faces][..., 2] == z).all(1)]


@pytest.mark.parametrize("fallback", ["hull", "shell"])
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e6])
def test_a_flat_label_does_not_change_the_mass(fallback, size):
    """An L that stands; with its hull's mass it would fall."""
    vertices, faces = joined(l_shape(0.6), LABEL)
    mesh, bare = Mesh.of(vertices * size, faces), Mesh.of(l_shape(0.6)[0] * size, l_shape(0.6)[1])
    found, there = solid_of(mesh, fallback=fallback), solid_of(bare)
    assert (found.mass, found.exact, there.mass, there.exact) == ("partly", 1.0, "exact", 1.0)
    assert found.volume == pytest.approx(there.volume)
    np.testing.assert_allclose(found.centre, there.centre, atol=1e-9 * size)
    np.testing.assert_allclose(found.inertia, there.inertia, rtol=1e-9, atol=1e-12 * size**5)
    assert simulate_stability(mesh, fallback=fallback).stable
    assert not simulate_stability(mesh, mass="hull").stable


def test_a_fin_on_an_edge_and_a_part_that_is_inside_out_are_no_matter():
    vertices, faces = joined(standing_box(0.2, 0.2, 0.8), turned_inside_out(box((-0.1, -0.1, 0.8), (0.5, 0.1, 1))))
    fin = np.array([[faces[0, 0], faces[0, 1], len(vertices)]])
    found = solid_of(Mesh.of(np.concatenate([vertices, [[0.05, 0.3, 0.4]]]), np.concatenate([faces, fin])))
    assert (found.mass, found.exact, found.volume) == ("partly", 1.0, pytest.approx(solid_of(solid("L 0.6")).volume))


def test_open_parts_have_the_hulls_of_their_bodies_beside_closed_ones():
    """A closed column, and two open boxes apart from each other: the hull of all would be a block of 3 x 1 x 1."""
    column, left, right = standing_box(1, 1, 1), lidless(1, 1, 0.5), lidless(1, 1, 0.5)
    mesh = Mesh.of(*joined(column, (left[0] - [2, 0, 0], left[1]), (right[0] + [2, 0, 0], right[1])))
    found = solid_of(mesh)
    assert (found.mass, found.volume, found.exact) == ("partly", pytest.approx(2), pytest.approx(0.5))
    assert found.centre[2] == pytest.approx((1 * 0.5 + 2 * 0.5 * 0.25) / 2)
    shell = solid_of(mesh, fallback="shell")
    assert (shell.mass, shell.exact) == ("shell", 0.0)


def test_sides_that_share_no_edges_are_one_open_body():
    """As where a side is cut otherwise than its neighbours: each side by itself is flat, and none is left out."""
    vertices, faces = standing_box(1, 1, 1)
    loose = vertices[faces].reshape(-1, 3) + 1e-4 * np.repeat(np.arange(12), 3)[:, None] / 12
    knob = box((-0.1, -0.1, 1.2), (0.1, 0.1, 1.4))
    found = solid_of(Mesh.of(*joined((loose, np.arange(36).reshape(-1, 3)), knob)))
    assert (found.mass, found.volume) == ("partly", pytest.approx(1.008, abs=1e-3))
    assert found.exact == pytest.approx(0.008 / 1.008, rel=1e-2)


def test_where_nothing_is_closed_the_whole_has_a_hull():
    mesh = Mesh.of(*joined(lidless(1, 1, 1), (lidless(1, 1, 1)[0] + [2, 0, 0], lidless(1, 1, 1)[1])))
    found = solid_of(mesh)
    assert (found.mass, found.volume, found.exact) == ("hull", pytest.approx(3), 0.0)


def test_many_open_bodies_take_the_hull_of_all():
    label, places = LABEL[0], np.random.default_rng(0).uniform(2, 40, (1500, 1, 3))
    sheets = (label + places).reshape(-1, 3), np.arange(4500).reshape(-1, 3)
    assert solid_of(Mesh.of(*joined(standing_box(1, 1, 1), sheets))).mass == "hull"


def test_a_scaled_solid_is_the_solid_of_the_scaled_mesh():
    mesh = solid("L 0.6")
    for mass in ("exact", "hull", "shell"):
        found = solid_of(mesh, mass=mass).scaled(3.0)
        there = solid_of(Mesh.of(mesh.vertices * 3, mesh.faces), mass=mass)
        assert (found.volume, found.extent) == (pytest.approx(there.volume), pytest.approx(3.0))
        np.testing.assert_allclose(found.centre, there.centre, atol=1e-12)
        np.testing.assert_allclose(found.inertia, there.inertia, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_precision_does_not_go_by_the_place(offset):
    mesh = solid("L 0.6")
    found = solid_of(Mesh.of(mesh.vertices + offset, mesh.faces))
    there = solid_of(mesh)
    np.testing.assert_allclose(found.centre - offset, there.centre, atol=1e-8)
    np.testing.assert_allclose(found.inertia, there.inertia, atol=1e-9)


def test_the_hull_is_closed_and_looks_outwards():
    mesh = Mesh(*hull_faces(solid("table, 4 legs").vertices))
    assert mesh.closed
    assert solid_of(mesh).volume == pytest.approx(solid_of(solid("table, 4 legs"), mass="hull").volume)


@pytest.mark.parametrize(
    "part",
    [
        (standing_box(1, 1, 1)[0] * [1, 1, 0], standing_box(1, 1, 1)[1]),
        (standing_box(1, 1, 1)[0], standing_box(1, 1, 1)[1][:1]),
        joined(revolved([(1, 0), (0, 0)])),
    ],
    ids=["pressed flat", "one face", "two discs"],
)
def test_what_is_flat_has_no_mass(part):
    with pytest.raises(DataError, match="flat"):
        solid_of(Mesh.of(*part))


def test_what_is_no_shape_is_told_how_to_make_one():
    made = trimesh.creation.box((1, 1, 1))
    for other, remedy in (
        ("t/table.glb", r"got the path 't/table.glb'; .*read_mesh\(path\)"),
        (Path("table.glb"), r"read_mesh\(path\)"),
        (made, r"got a Trimesh; .*Mesh.of\(mesh.vertices, mesh.faces\), with up='y'"),
        (trimesh.Scene([made]), r"got a Scene; mesh = scene.to_geometry\(\)"),
        (np.ones((2, 2, 2)), r"got ndarray; .*Voxels.of\(grid\)"),
    ):
        with pytest.raises(DataError, match=remedy):
            checked_shape(other)
