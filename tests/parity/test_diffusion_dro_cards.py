"""Numbers recorded in float64 from the paper's formulas, written independently of this package.

Source: the method notes on Diffusion-DRO (section 9; the loss block of the authors' train.py). Six digits each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffalign.objectives import diffusion_dro

POLICY = torch.tensor([[0.1210, 0.0874, 0.2050, 0.0433], [0.0002, 0, 0.0011, 0.0004]], dtype=torch.float64).T
REFERENCE = torch.tensor([[0.1214, 0.0872, 0.2068, 0.0436], [0.0005, 0.0003, 0.0008, 0.0024]], dtype=torch.float64).T


def _six(found: Tensor, expected: list[float] | float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


def test_values():
    output = diffusion_dro(POLICY, reference=REFERENCE, margin=0.001)
    _six(output.loss, [0.0009, 0.0015, 0, 0.0027])
    _six(output.loss.mean(), 0.001275)
    _six(output.metrics["active"], 0.75)
    _six(output.metrics["margin"], -sum([-0.0001, 0.0005, -0.0021, 0.0017]) / 4)


def test_each_difference():
    for group, difference in enumerate([-0.0001, 0.0005, -0.0021, 0.0017]):
        rows = slice(group, group + 1)
        _six(diffusion_dro(POLICY[rows], reference=REFERENCE[rows], margin=0.001).metrics["margin"], -difference)


def test_active_groups_have_a_gradient():
    policy = POLICY.clone().requires_grad_()
    diffusion_dro(policy, reference=REFERENCE, margin=0.001).loss.sum().backward()
    _six(policy.grad, [[1, -1], [1, -1], [0, 0], [1, -1]])


def test_paper_form():
    """Algorithm 1's max(-0.001, difference) is the code's loss minus 0.001, with the same gradient."""
    loss = diffusion_dro(POLICY, reference=REFERENCE, margin=0.001).loss
    gain = POLICY - REFERENCE
    paper = (gain[:, 0] - gain[:, 1]).clamp(min=-0.001)
    _six(paper.mean(), 0.000275)
    torch.testing.assert_close(loss - 0.001, paper)
