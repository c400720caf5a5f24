"""Simulations: where solids come to rest, what must not matter, and the recipe of the authors."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from diffalign.exceptions import ConfigError, DataError, MissingExtraError
from diffalign.sim import Mesh, Voxels, simulate_stability, static_stability
from diffalign.sim.simulate import _lean_of
from tests.sim.solids import SOLIDS, blob, l_shape, solid, standing_box, two_boxes


@pytest.mark.parametrize(
    ("name", "dso", "exact", "within"),
    [
        ("cube", 0, 0, 0.01),
        ("tower", 0, 0, 0.02),
        ("L 0.6", math.degrees(math.atan(2)), 0, 0.1),  # pitfall: legacy inertia topples it
        ("L 0.9", math.degrees(math.atan(0.8 / 0.7)), math.degrees(math.atan(0.8 / 0.7)), 0.02),  # 48.81
        ("table, 2 legs", math.degrees(math.atan(0.6 / 0.85)), math.degrees(math.atan(0.6 / 0.85)), 0.02),  # 35.22
        ("cone sheared by 1.1", 0, 0, 0.2),
        ("cone sheared by 1.3", 45.0, 45.0, 0.2),
        ("cone sheared by 2.0", math.degrees(math.atan(1 / 1.7)), math.degrees(math.atan(1 / 1.7)), 0.2),  # 30.47
        ("cube at 5 degrees", 5, 5, 0.01),
        ("cube at 25 degrees", 25, 25, 0.01),
    ],
)
def test_final_angles(name, dso, exact, within):
    authors = simulate_stability(solid(name), mode="dso")
    assert authors.rotation == pytest.approx(dso, abs=within)
    assert authors.stable == (dso < 20)
    ours = simulate_stability(solid(name), settle=True, seconds=10.0)
    assert ours.tilt == pytest.approx(exact, abs=within)
    assert (ours.at_rest, ours.reason, ours.mass) == (True, None, "exact")
    early = simulate_stability(solid(name))
    assert ours.stable == early.stable == (exact < 20)


@pytest.mark.parametrize("name", ["cone on its tip", "capsule on its end", "sphere"])
def test_what_only_balances_falls_by_the_nudge(name):
    assert simulate_stability(solid(name), mode="dso").stable
    assert simulate_stability(solid(name), nudge=0.0).stable
    assert not any(simulate_stability(solid(name), seed=seed).stable for seed in range(3))


def leaning(margin: float) -> Mesh:
    """A sheared column with its centre of mass so far within the edge of its foot."""
    vertices, faces = standing_box(0.3, 0.3, 1.0)
    return Mesh.of(vertices + np.outer(vertices[:, 2], [(0.15 - margin) / 0.5, 0, 0]), faces)


@pytest.mark.parametrize("seed", range(4))
def test_near_the_edge_whatever_the_side_of_the_nudge(seed):
    """What falls slowly is not taken to be at rest, and what bears more than the nudge stays."""
    assert static_stability(leaning(0.01)).margin == pytest.approx(0.01)
    assert simulate_stability(leaning(0.01), seed=seed).stable  # bears 1.15 degrees
    assert not simulate_stability(leaning(-0.0005), seed=seed).stable


def test_the_same_again_to_the_bit_and_another_side_for_another_seed():
    first, again, other = (simulate_stability(solid("cone on its tip"), settle=True, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.pose, again.pose)
    assert first.seconds == again.seconds
    assert not np.allclose(first.pose, other.pose, atol=0.1)


@pytest.mark.parametrize("name", ["L 0.9", "table, 3 legs", "cone sheared by 1.3", "cube at 15 degrees"])
def test_unit_place_turn_and_mirror_do_not_matter(name):
    mesh = solid(name)
    there = simulate_stability(mesh, settle=True)
    cos, sin = math.cos(0.7), math.sin(0.7)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    changed = {
        "unit": mesh.vertices * 1e-3,
        "large unit": mesh.vertices * 1e6,
        "place": mesh.vertices + np.array([1000, -2000, 3000]),
        "turn": mesh.vertices @ turn.T,
        "mirror": mesh.vertices * [1, -1, 1],
    }
    for change, vertices in changed.items():
        found = simulate_stability(Mesh.of(vertices, mesh.faces), settle=True)
        assert found.stable == there.stable, change
        assert found.tilt == pytest.approx(there.tilt, abs=0.3), change


@pytest.mark.parametrize("options", [{"settle": True}, {"mode": "dso"}, {"mode": "dso", "normalise": True}], ids=str)
@pytest.mark.parametrize("name", ["cube", "L 0.9"])
def test_the_pose_puts_the_shape_on_the_ground_near_where_it_was(name, options):
    mesh = solid(name)
    mesh = Mesh.of(mesh.vertices * 2 + [5, -3, 11], mesh.faces)
    pose = simulate_stability(mesh, **options).pose
    moved = mesh.vertices @ pose[:3, :3].T + pose[:3, 3]
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
    assert moved[:, 2].min() == pytest.approx(0, abs=0.01)
    if name == "cube":
        np.testing.assert_allclose(moved - [0, 0, moved[:, 2].min()], mesh.vertices - [0, 0, 11], atol=0.01)
    else:
        np.testing.assert_allclose(moved.mean(0)[:2], [5, -3], atol=2.5)
        assert np.sort(moved[:, 2])[3] < 0.02  # it lies on the edge of its foot and of its beam


def test_settling_gives_the_label_of_the_early_end():
    """A full turn is not the way back: what toppled and rolled on is not stable for that."""
    ball = solid("sphere")
    label = [simulate_stability(ball, settle=settle, seconds=20.0).stable for settle in (True, False)]
    assert label == [False, False]


def test_the_end_comes_early():
    quick = simulate_stability(solid("cube"))
    toppled = simulate_stability(solid("table, 2 legs"))
    slow = simulate_stability(solid("sphere"), settle=True)
    assert (quick.at_rest, toppled.at_rest, slow.at_rest) == (True, False, False)
    assert quick.seconds < 1
    assert toppled.seconds < 0.5
    assert slow.seconds == 5.0


def test_the_threshold_is_the_callers():
    assert simulate_stability(solid("cube at 15 degrees"), threshold=15.1).stable  # it rocks to 16 degrees in between
    assert not simulate_stability(solid("cube at 15 degrees"), threshold=14.0).stable


def test_tilt_leaves_turns_about_the_vertical_out():
    found = simulate_stability(solid("cone sheared by 1.3"), settle=True)
    assert found.rotation >= found.tilt - 1e-6
    assert found.tilt == pytest.approx(math.degrees(math.acos(found.pose[2, 2])), abs=1e-6)


def test_an_open_mesh_is_simulated_with_its_hull_and_says_so():
    vertices, faces = standing_box(0.5, 0.5, 1)
    for fallback in ("hull", "shell"):
        found = simulate_stability(Mesh.of(vertices, faces[1:]), fallback=fallback)
        assert (found.stable, found.mass) == (True, fallback)


def test_statics_and_simulation_agree_on_flat_feet():
    generator = np.random.default_rng(5)
    labels = []
    while len(labels) < 25:
        mesh = Mesh.of(*two_boxes(generator))
        static = static_stability(mesh)
        if abs(static.critical_angle) > 1.5:  # else the side of the nudge decides
            labels.append((static.stable, simulate_stability(mesh).stable))
    assert all(first == second for first, second in labels)
    assert 5 < sum(first for first, _ in labels) < 20


@pytest.mark.parametrize("seed", range(3))
def test_the_hull_with_its_own_mass_moves_as_the_full_mesh_does(seed):
    """The contact is that of the hull whatever the mesh: nothing has to be simplified."""
    mesh = Mesh.of(*blob(3, seed))
    found = simulate_stability(mesh, seed=seed, settle=True)
    vertices = mesh.vertices / mesh.extent
    spec = mujoco.MjSpec()
    full = spec.add_mesh(name="m", uservert=vertices.ravel(), userface=mesh.faces.ravel().astype(np.int32))
    full.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_EXACT
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    body = spec.worldbody.add_body(pos=[0, 0, -vertices[:, 2].min()])
    body.add_freejoint()
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="m")
    model = spec.compile()
    data = mujoco.MjData(model)
    down = model.opt.gravity.copy()
    model.opt.gravity[:] = _lean_of(1.0, seed) * 9.81
    mujoco.mj_step(model, data, nstep=250)
    model.opt.gravity[:] = down
    mujoco.mj_step(model, data, nstep=round(found.seconds / 0.002) - 250)
    tilt = math.degrees(math.acos(data.body(1).xmat[8]))
    assert found.tilt > 3
    assert found.tilt == pytest.approx(tilt, abs=0.05)


def by_the_text(vertices: np.ndarray, faces: np.ndarray) -> float:
    """The recipe of the labels, from what the paper's repository does: a model as text, 1 ms steps for 10 s, 2 acos w."""
    numbers = " ".join(f"{value:.6f}" for value in (vertices - [0, 0, vertices[:, 2].min()]).ravel())
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><asset><mesh name="m" vertex="{numbers}" face="{" ".join(map(str, faces.ravel()))}"/></asset>'
        '<worldbody><geom type="plane" size="0 0 1"/>'
        '<body><joint type="free"/><geom type="mesh" mesh="m"/></body></worldbody></mujoco>'
    )
    model.opt.timestep = 0.001
    data = mujoco.MjData(model)
    while data.time < 10.0:
        mujoco.mj_step(model, data)
    return math.degrees(2 * math.acos(min(1.0, data.qpos[3])))


@pytest.mark.parametrize("name", ["L 0.6", "table, 2 legs", "cone sheared by 1.3", "sphere"])
def test_the_mode_dso_is_the_authors_recipe(name):
    mesh = solid(name)
    found = simulate_stability(mesh, mode="dso")
    assert found.rotation == pytest.approx(by_the_text(mesh.vertices, mesh.faces), abs=1e-6)
    assert (found.mass, found.seconds) == ("legacy", 10.0)


def test_the_mode_dso_takes_a_face_once_whichever_way_it_runs():
    """The authors drop it by its vertices; the legacy mass would count it twice."""
    vertices, faces = l_shape(0.6)
    sheet = np.array([[0, 5, 15], [0, 15, 5]])
    found = simulate_stability(Mesh(vertices, np.concatenate([faces, sheet])), mode="dso")
    assert found.rotation == pytest.approx(by_the_text(vertices, np.concatenate([faces, sheet[:1]])), abs=1e-6)


def test_the_mode_dso_of_the_evaluation_is_centred_and_scaled():
    mesh = Mesh.of(*l_shape(0.9))
    large = Mesh.of(mesh.vertices * 40 + 7, mesh.faces)
    points = mesh.vertices - mesh.vertices.mean(0)
    found = simulate_stability(large, mode="dso", normalise=True)
    assert found.rotation == pytest.approx(by_the_text(points * 0.5 / np.abs(points).max(), mesh.faces), abs=1e-2)


def test_voxels_are_shapes_too():
    grid = np.zeros((8, 8, 8), dtype=bool)
    grid[3:5, 3:5] = True
    grid[:5, 3:5, 7] = True
    assert simulate_stability(Voxels.of(grid)).stable
    grid[:, :, 7] = False
    grid[3:, 3:5, 3:] = True
    assert not simulate_stability(Voxels.of(grid)).stable
    assert simulate_stability(Voxels.of(grid), mode="dso").mass == "legacy"


@pytest.mark.parametrize("options", [{"normalise": False}, {"mode": "dso"}], ids=str)
@pytest.mark.parametrize(
    ("size", "told"), [(1e-20, "too small"), (1e-6, r"too thin"), (1e50, "too large")], ids=["tiny", "small", "large"]
)
def test_without_a_scale_the_reason_says_what_is_too_small_or_large(size, told, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"the shape is {told}.* to be simulated \(MuJoCo: "):
        simulate_stability(Mesh.of(*standing_box(size, size, size)), **options)
    assert not list(Path().iterdir())  # MuJoCo's log file


@pytest.mark.parametrize("mode", ["exact", "dso"])
def test_what_is_too_thin_has_that_for_a_reason(mode):
    needle = Mesh.of(*standing_box(1e-4, 1e-5 if mode == "dso" else 3e-5, 1))
    with pytest.raises(DataError, match=r"^the shape is too thin or too small to be simulated \(MuJoCo: .*inertia"):
        simulate_stability(needle, mode=mode)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mode": "DSO"}, "mode: must be one of exact, dso, got 'DSO'"),
        ({"mass": "solid"}, "mass: must be one of exact, hull, shell, got 'solid'"),
        ({"fallback": "none"}, "fallback: must be one of hull, shell, got 'none'"),
    ],
)
def test_settings_that_are_not_known(options, told):
    with pytest.raises(ConfigError, match=told):
        simulate_stability(solid("cube"), **options)


def test_all_solids_are_known_to_both_tests():
    """Every solid of the table has a number from both; the table itself is that of benchmarks/stability.py."""
    for name in SOLIDS:
        static, found = static_stability(solid(name)), simulate_stability(solid(name))
        assert math.isfinite(static.margin)
        assert 0 <= found.tilt <= 180
        assert static.mass == found.mass == "exact"


def test_a_folder_that_an_uninstalled_simulator_left_is_no_simulator(monkeypatch, tmp_path):
    (tmp_path / "mujoco").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mujoco")
    with pytest.raises(MissingExtraError, match=r"diffalign\[sim\]"):
        simulate_stability(solid("cube"))
