"""What the tests of objectives share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


@pytest.fixture
def batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of policy and reference and rewards [3 groups, 4 members], double."""
    policy, reference, reward = torch.rand(3, 3, 4, generator=generator, dtype=torch.float64)
    return policy, reference, reward
