"""The quasi-static roll of the benchmark: where it ends, by hand and beside the simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.quasi_static_roll import quasi_static_roll
from diffalign.sim import Mesh, simulate_stability, solid_of, static_stability
from tests.sim.solids import blob, solid, tilted, two_boxes

ATAN = {"L 0.9": 0.8 / 0.7, "table, 2 legs": 0.6 / 0.85, "cone sheared by 1.3": 1.0, "cone sheared by 2.0": 1 / 1.7}


@pytest.mark.parametrize("name", ATAN)
def test_it_turns_about_the_edge_that_it_falls_over(name):
    found = quasi_static_roll(solid_of(solid(name)))
    assert found.tilt == pytest.approx(math.degrees(math.atan(ATAN[name])), abs=0.01)  # 48.81, 35.22, 45.00, 30.47
    assert found.steps == 1


@pytest.mark.parametrize("degrees", [5, 25, 44, 46, 80])
def test_a_cube_on_its_edge_comes_down_on_the_nearer_side(degrees):
    found = quasi_static_roll(solid_of(Mesh.of(*tilted((solid("cube").vertices, solid("cube").faces), degrees))))
    assert found.tilt == pytest.approx(min(degrees, 90 - degrees), abs=1e-6)
    assert not found.balances


@pytest.mark.parametrize("name", ["cone on its tip", "sphere", "capsule on its end"])
def test_what_balances_stays(name):
    found = quasi_static_roll(solid_of(solid(name)))
    assert (found.tilt, found.steps, found.balances) == (0.0, 0, True)


@pytest.mark.parametrize("seed", range(6))
def test_it_ends_on_a_face_on_which_it_stands(seed):
    """Turned as it says, it is at rest for statics and for the simulation; its centre of mass is lower than before."""
    generator = np.random.default_rng(seed)
    turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    vertices, faces = blob(2, seed) if seed % 2 else two_boxes(generator)
    before = Mesh.of(vertices @ turn * np.sign(np.linalg.det(turn)), faces)
    found = quasi_static_roll(solid_of(before))
    after = Mesh.of(before.vertices @ found.rotation.T, before.faces)
    assert np.allclose(found.rotation @ found.rotation.T, np.eye(3)) and np.linalg.det(found.rotation) > 0
    assert found.steps > 1 and not found.balances
    assert found.tilt == pytest.approx(math.degrees(math.acos(found.rotation[2, 2])))
    first, last = (static_stability(mesh, tolerance=1e-6) for mesh in (before, after))
    assert not first.stable and last.stable and last.height < first.height
    assert simulate_stability(after, nudge=0.0).tilt < 0.5
