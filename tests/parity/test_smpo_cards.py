"""Numbers recorded in float64 from the paper's formulas, written independently of this package.

Source: the method notes on SmPO-Diffusion (section 9: scores, preferences and losses; the authors' train.py). Its
inversion's numbers are the sampler's. Six digits each.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffalign.objectives import smoothed_preference, smpo
from diffalign.objectives.smpo import PICKSCORE_RANGE
from tests.parity.test_dpo_cards import POLICY, REFERENCE

SCORES = torch.tensor([[0.2231, 0.2104], [0.2187, 0.2179], [0.2410, 0.1985], [0.2050, 0.2049]], dtype=torch.float64)
LOW, HIGH = PICKSCORE_RANGE


def _six(found: Tensor, expected: list[float] | float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


def test_preferences_and_factors():
    preference = smoothed_preference(SCORES, low=LOW, high=HIGH)
    _six(preference, [0.519051, 0.501201, 0.563439, 0.500150])
    factor = 10 * (2 * preference - 1)
    _six(factor, [0.381013, 0.024012, 1.268785, 0.003002])
    gap = (SCORES[:, 0] - SCORES[:, 1]) / (HIGH - LOW)
    torch.testing.assert_close(factor, 10 * torch.tanh(gap / 2))


def test_a_gap_of_a_hundredth():
    preference = smoothed_preference(torch.tensor([[0.21, 0.20]], dtype=torch.float64), low=LOW, high=HIGH)
    _six(preference, [0.515003])
    _six(10 * (2 * preference - 1), [0.300065])


def test_largest_factor():
    preference = smoothed_preference(torch.tensor([[HIGH, LOW]], dtype=torch.float64), low=LOW, high=HIGH)
    assert (10 * (2 * preference - 1)).item() == pytest.approx(4.6212, abs=6e-5)


def test_losses():
    preference = smoothed_preference(SCORES, low=LOW, high=HIGH)
    output = smpo(POLICY, reference=REFERENCE, preference=preference, beta=5000.0, scale=10.0)
    _six(output.loss, [0.414334, 0.702192, 2.042151, 0.691273])
    _six(output.loss.mean(), 0.962488)


def test_losses_of_the_authors_code():
    """It multiplies every pair of the batch by the first pair's factor."""
    first = smoothed_preference(SCORES, low=LOW, high=HIGH)[:1].expand(4)
    output = smpo(POLICY, reference=REFERENCE, preference=first, beta=5000.0, scale=10.0)
    _six(output.loss.mean(), 0.690707)
