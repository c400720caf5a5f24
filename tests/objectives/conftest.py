"""What the tests of objectives share."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Annotations are checked in tests only: this shows what a user sees who gets a type wrong."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of policy and reference and rewards [3 groups, 4 members], double."""
    policy, reference, reward = torch.rand(3, 3, 4, generator=generator, dtype=torch.float64)
    return policy, reference, reward
