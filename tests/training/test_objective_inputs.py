"""What the records say to an objective: labels, and who takes part."""

from __future__ import annotations

import math

import pytest
import torch

from diffalign.config.objectives import GDROParams
from diffalign.denoising import DenoisingErrors
from diffalign.objectives import get_objective
from diffalign.training.objective_inputs import labels_of, objective_inputs
from diffalign.types import Condition, GroupBatch
from tests.training.tiny import tiny

NAN = math.nan


def batch_of(reward: list[list[float]], *, label: list[list[float]] | None = None) -> GroupBatch:
    rewards = torch.tensor(reward)
    groups, members = rewards.shape
    return GroupBatch(
        torch.zeros(groups, members, 1),
        Condition({}),
        torch.ones(groups, members, dtype=torch.bool),
        tuple(f"r{number}" for number in range(groups)),
        reward=rewards,
        label=None if label is None else torch.tensor(label),
    )


def test_labels_of_groups_are_the_sides_of_their_mean():
    batch = batch_of([[3.0, 2.0, 1.0, 0.0], [5.0, 1.0, NAN, NAN], [2.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert labels_of(batch).tolist() == [[1, 1, -1, -1], [1, -1, 0, 0], [1, 0, -1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("members", [3, 5, 6, 7, 8])
def test_labels_of_tied_groups_are_not_rounding_noise(members):
    for value in (0.9, 21.37, 0.1, -3.3):
        assert labels_of(batch_of([[value] * members])).tolist() == [[0] * members]
    assert labels_of(batch_of([[0.9, 0.6, 0.3]])).tolist() == [[1, 0, -1]]


def test_labels_of_pairs_and_of_records_that_have_their_own():
    assert labels_of(batch_of([[2.0, 1.0], [1.0, 1.0]])).tolist() == [[1, -1], [1, -1]]
    assert labels_of(batch_of([[2.0, 1.0, 0.0]], label=[[-1.0, -1.0, 1.0]])).tolist() == [[-1, -1, 1]]


def test_unscored_members_take_no_part(home):
    config = tiny(home, objective=GDROParams().model_dump(), data={"kind": "groups"})
    batch = batch_of([[2.0, NAN, 1.0]])
    errors = DenoisingErrors(torch.rand(1, 3), torch.rand(1, 3), torch.rand(1, 3), {}, None)
    _, inputs = objective_inputs(config, get_objective("gdro"), errors, batch, None)
    assert inputs["valid"].tolist() == [[True, False, True]]
