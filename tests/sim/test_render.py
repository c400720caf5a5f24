"""Pictures: where what is in them."""

from __future__ import annotations

import numpy as np
import pytest

from diffalign.sim import Mesh, Voxels, render, settling, simulate_stability
from tests.sim.solids import box, joined, solid, standing_box


def clay(picture: np.ndarray) -> np.ndarray:
    """Where the shape is: its colour is redder than ground, shadow and sky."""
    return picture[..., 0].astype(int) - picture[..., 2] > 30


@pytest.mark.parametrize("shape", [solid("table, 4 legs"), Voxels.of(np.ones((3, 3, 4)))], ids=["mesh", "voxels"])
def test_a_shape_is_seen_in_the_middle(shape):
    picture = render(shape, size=64)
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    rows, columns = np.nonzero(clay(picture))
    assert 0.05 < len(rows) / 64**2 < 0.6
    assert abs(columns.mean() - 32) < 3


def test_unit_and_place_do_not_show():
    first = render(Mesh.of(*standing_box(1, 2, 3)), size=48)
    vertices, faces = standing_box(1, 2, 3)
    second = render(Mesh.of(vertices * 1000 + [3e4, -2e4, 1e4], faces), size=48)
    assert np.abs(first.astype(int) - second).mean() < 0.5


def test_what_is_near_hides_what_is_far_in_whatever_order():
    pillar, wall = box((-0.1, -0.7, 0), (0.1, -0.5, 1)), box((-1, 0, 0), (1, 0.05, 1))
    first, second = (render(Mesh.of(*joined(*parts)), size=64) for parts in ((pillar, wall), (wall, pillar)))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first[clay(first)], axis=0)) >= 3  # sides of their own brightness


def test_up_is_up():
    shape = Mesh.of(*joined(standing_box(0.1, 0.1, 0.8), box((-0.4, -0.4, 0.8), (0.4, 0.4, 1))))
    widths = clay(render(shape, size=64)).sum(1)
    seen = np.flatnonzero(widths)
    assert widths[seen[0] : seen[0] + 12].max() > 3 * widths[seen[-1] - 4]


def test_before_and_after_are_side_by_side():
    shape = solid("L 0.9")
    found = simulate_stability(shape, settle=True)
    picture = settling(shape, found.pose, size=64)
    assert picture.shape == (64, 128, 3)
    tall, lying = (np.ptp(np.nonzero(clay(half))[0]) for half in (picture[:, :64], picture[:, 64:]))
    assert lying < 0.9 * tall
    still = settling(solid("cube"), simulate_stability(solid("cube"), settle=True).pose, size=64)
    assert np.abs(still[:, :64].astype(int) - still[:, 64:]).mean() < 1
