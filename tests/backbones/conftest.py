"""One loaded model per family, shared by the tests that leave it as it is."""

from __future__ import annotations

import pytest

from diffalign.backbones import Backbone
from tests.backbones.models import ALL_FAMILIES, load, perturb


@pytest.fixture(params=ALL_FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session", params=ALL_FAMILIES)
def trained(request) -> Backbone:
    """Its policy differs from its reference. Read only."""
    backbone = load(request.param)
    perturb(backbone)
    return backbone
