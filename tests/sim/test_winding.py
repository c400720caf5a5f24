"""What hangs together, and what goes around a point."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from diffalign.sim.winding import components, winding_number
from tests.sim.solids import sphere, standing_box


@pytest.mark.parametrize("links", [0, 10, 60, 400])
def test_components_are_those_of_scipy(links):
    generator = np.random.default_rng(links)
    pairs = generator.integers(0, 200, (links, 2))
    found = components(200, pairs)
    graph = coo_matrix((np.ones(links), (pairs[:, 0], pairs[:, 1])), shape=(200, 200))
    count, there = connected_components(graph, directed=False)
    assert len(np.unique(found)) == count
    assert len(np.unique(np.stack([found, there]), axis=1).T) == count
    assert (found <= np.arange(200)).all()


def test_a_long_chain_in_any_order_is_quick():
    order = np.random.default_rng(0).permutation(100_000)
    assert not components(100_000, np.stack([order[:-1], order[1:]], axis=1)).any()


def test_the_winding_number_is_one_within_and_nought_without():
    vertices, faces = standing_box(1, 1, 1)
    points = np.array([[0, 0, 0.5], [0.4, -0.4, 0.99], [0, 0, 1.5], [9, 9, 9]])
    np.testing.assert_allclose(winding_number(points, vertices[faces]), [1, 1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(winding_number(points, vertices[faces[:, ::-1]]), [-1, -1, 0, 0], atol=1e-12)
    vertices, faces = sphere()
    np.testing.assert_allclose(winding_number(points, vertices[faces]), [1, 0, 0, 0], atol=1e-12)
