"""Numbers recorded in float64 from the repositories' formulas, written independently of this package.

Source: the method notes on the Flow-GRPO family (section 11: flow_grpo, DanceGRPO, NVIDIA's GDPO, Flow-Factory, reward
ensembles). Six digits each.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffalign.objectives.advantages import (
    decoupled_advantage,
    ensemble_mean,
    ensemble_uncertainty_weighted,
    ensemble_worst_case,
    global_advantage,
    group_advantage,
)


def _six(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-7)


REWARD = torch.tensor([[0.2, 0.4, 0.9, 0.5], [0.1, 0.1, 0.3, 0.1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("convention", "first"),
    [
        ("flow_grpo", [-1.176235, -0.392078, 1.568314, 0.0]),
        ("dance_grpo", [-1.019049, -0.339683, 1.358732, 0.0]),
    ],
)
def test_group_advantages(convention, first):
    _six(group_advantage(REWARD, convention=convention).values[0], first)


def test_global_advantages():
    first, second = [-1.159635, -0.386545, 1.546180, 0.0], [-0.193273, -0.193273, 0.579818, -0.193273]
    _six(global_advantage(REWARD, convention="flow_grpo").values, [first, second])


TWO = torch.tensor([[[1, 0, 1, 0], [0, 0, 1, 1]], [[3, 1, 2, 2], [0, 1, 0, 3]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        (
            "gdpo",
            [[1.187597, -1.187597, 0.695664, -0.695664], [-0.979696, -0.695664, 0.411631, 1.263729]],
        ),
        (
            "flow_factory",
            [[1.269697, -1.269697, 0.743771, -0.743771], [-1.047415, -0.743771, 0.440128, 1.351058]],
        ),
    ],
)
def test_decoupled_advantages(convention, expected):
    _six(decoupled_advantage(TWO, weights=[1.0, 0.5], convention=convention).values, expected)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("gdpo", [2.023311, -2.023311, 1.185203, -1.185203]),
        ("flow_factory", [2.113557, -2.113557, 1.238093, -1.238093]),
    ],
)
def test_decoupled_advantages_beside_silent_groups(convention, expected):
    """Both repositories divide by the deviation of all samples, those of groups whose rewards are all equal too."""
    silent = torch.tensor([[[1.0] * 4, [0.0] * 4], [[2.0] * 4, [2.0] * 4]], dtype=torch.float64)
    reward = torch.cat([TWO[:, :1], silent], dim=1)
    found = decoupled_advantage(reward, weights=[1.0, 0.5], convention=convention)
    _six(found.values, [expected, [0.0] * 4, [0.0] * 4])
    assert found.silent_groups == 2
    _six(found.values, _written_out(reward, convention).tolist())


def _written_out(reward: Tensor, convention: str) -> Tensor:
    """NVIDIA's grpo_trainer.py and Flow-Factory's advantage_processor.py, the long way."""

    def over(apart: Tensor, std: Tensor) -> Tensor:
        return apart / (std + 1e-4) if convention == "gdpo" else apart / std.clamp(min=1e-6)

    ddof = 1 if convention == "gdpo" else 0
    each = [over(one - one.mean(1, keepdim=True), one.std(1, correction=ddof, keepdim=True)) for one in reward]
    summed = each[0] + 0.5 * each[1]
    return over(summed - summed.mean(), summed.std(correction=ddof))


def test_sum_then_normalise():
    """The notes say ddof 0 here, but their numbers have ddof 1, as trl's GRPO: with ddof 0 they grow by sqrt(4 / 3)."""
    summed = TWO[0] + 0.5 * TWO[1]
    expected = [[1.095325, -1.095325, 0.547663, -0.547663], [-0.925734, -0.462867, 0.0, 1.388602]]
    _six(group_advantage(summed, convention="gdpo").values, expected)
    biased = group_advantage(summed, convention="flow_grpo").values
    torch.testing.assert_close(biased, torch.tensor(expected).double() * (4 / 3) ** 0.5, rtol=1e-4, atol=0)


def test_advantages_of_the_group_losses():
    """What the notes' DGPO and CRD numbers start from."""
    reward = torch.tensor([[0.9, 0.5, 0.1, 0.6]], dtype=torch.float64)
    values = group_advantage(reward, convention="flow_grpo").values
    _six(values, [[1.310098, -0.087340, -1.484778, 0.262020]])


def test_ensembles():
    reward = torch.tensor([0.7, 0.4, 0.9, 0.6], dtype=torch.float64)[:, None, None]
    _six(ensemble_mean(reward), [[0.65]])
    _six(ensemble_worst_case(reward), [[0.40]])
    _six(ensemble_uncertainty_weighted(reward, penalty=0.5, ddof=0), [[0.633750]])
    _six(ensemble_uncertainty_weighted(reward, penalty=0.1, ddof=1), [[0.645667]])
