"""The share of a mesh's volume that counts more than once."""

from __future__ import annotations

import time

import numpy as np
import pytest

from diffalign.rewards import Sample, StabilityReward
from diffalign.sim import Mesh, solid_of
from diffalign.sim.overlap import doubled_share
from tests.sim.solids import SOLIDS, blob, box, joined, l_shape, solid, turned_inside_out

COLUMN = box((0, 0, 0), (0.2, 0.2, 1))
CUBE = box((0, 0, 0), (1, 1, 1))


def test_an_arm_that_runs_into_a_column():
    """They share 0.2 x 0.2 x 0.4 of 0.04 + 0.6 x 0.08."""
    mesh = Mesh.of(*joined(COLUMN, box((0, 0, 0.6), (0.6, 0.2, 1))))
    assert solid_of(mesh).mass == "exact"
    assert doubled_share(mesh) == pytest.approx(0.016 / 0.088, rel=0.1)
    assert doubled_share(Mesh.of(*joined(COLUMN, box((0.2, 0, 0.6), (0.6, 0.2, 1))))) == 0


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_two_cubes(size):
    vertices, faces = joined(CUBE, box((0.5, 0.5, 0.5), (1.5, 1.5, 1.5)))
    assert doubled_share(Mesh.of(vertices * size, faces)) == pytest.approx(0.125 / 2, rel=0.15)


def test_a_hollow_is_not_there_twice_and_a_core_in_solid_is():
    inner = box((0.25, 0.25, 0.25), (0.75, 0.75, 0.75))
    assert doubled_share(Mesh.of(*joined(CUBE, turned_inside_out(inner)))) == 0
    assert doubled_share(Mesh.of(*joined(CUBE, inner))) == pytest.approx(0.125 / 1.125, rel=0.1)


def test_solids_whose_parts_only_touch_have_none():
    assert {name for name in SOLIDS if doubled_share(solid(name)) > 0} == set()


def test_open_parts_do_not_count():
    vertices, faces = joined(CUBE, (CUBE[0] + 0.5, CUBE[1][1:]))
    assert doubled_share(Mesh.of(vertices, faces)) == 0


def test_the_reward_says_it():
    vertices, faces = joined(COLUMN, box((0, 0, 0.6), (0.6, 0.2, 1)))
    parts = StabilityReward(form="margin").score([Sample(Mesh.of(vertices, faces)), Sample(Mesh.of(*l_shape(0.6)))])
    assert parts.components["overlap"].tolist() == pytest.approx([0.016 / 0.088, 0], rel=0.1)


def test_large_meshes_take_no_longer():
    vertices, faces = blob(6)
    mesh = Mesh.of(*joined((vertices, faces), (vertices + np.array([0.4, 0.1, 0.2]), faces)))
    before = time.process_time()
    assert 0.1 < doubled_share(mesh) < 0.5
    assert len(mesh.faces) == 163_840 and time.process_time() - before < 3


def test_the_estimate_goes_by_the_seed_alone():
    mesh = Mesh.of(*joined(CUBE, box((0.5, 0.5, 0.5), (1.5, 1.5, 1.5))))
    found = [doubled_share(mesh, seed=seed) for seed in (0, 0, *range(1, 20))]
    assert found[0] == found[1] and len(set(found)) > 10
    assert np.mean(found) == pytest.approx(0.0625, rel=0.03)
