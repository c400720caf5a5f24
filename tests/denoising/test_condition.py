"""Conditions: rows follow their group, and the empty prompt's rows beside them."""

from __future__ import annotations

import pytest
import torch

from diffalign.denoising import denoising_errors, draw_noise, uniform_time
from diffalign.types import Condition
from tests.denoising.toys import PROCESSES, Fixed, Prediction


def _condition():
    return Condition(
        {"text": torch.arange(3.0)[:, None], "ids": torch.arange(6.0).reshape(3, 2, 1)},
        null={"text": -torch.ones(3, 1), "ids": torch.zeros(3, 2, 1)},
        per_member=frozenset({"ids"}),
    )


def test_expand_repeats_groups_member_by_member():
    rows = _condition().expand(2)
    assert rows.leaves["text"].flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert rows.leaves["ids"].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert rows.null["text"].shape == rows.null["ids"].shape == (6, 1)
    assert len(rows) == 6 and not rows.per_member


def test_rows_can_be_taken_and_joined():
    condition = _condition()
    part = condition[1:]
    assert len(part) == 2 and len(part.null["text"]) == 2 and part.per_member == {"ids"}
    assert condition[torch.tensor([2, 0])].leaves["text"].flatten().tolist() == [2, 0]
    joined = condition.unconditional().join(condition)
    assert joined.leaves["text"].flatten().tolist() == [-1, -1, -1, 0, 1, 2]
    assert joined.null is None


def test_map_and_to_reach_every_leaf():
    doubled = _condition().map(lambda leaf: 2 * leaf).to("cpu")
    assert doubled.leaves["text"].max() == 4 and doubled.null["text"].max() == -2


def test_unconditional_needs_the_empty_prompt():
    with pytest.raises(ValueError, match="no empty-prompt leaves"):
        Condition({"text": torch.zeros(1, 1)}).unconditional()


def test_a_model_may_have_no_condition_at_all(generator):
    nothing = Condition({})
    assert len(nothing) == 0
    x0 = torch.randn(2, 2, 3, generator=generator)
    draw = draw_noise(x0, uniform_time, generator=generator)
    errors = denoising_errors(Fixed(PROCESSES["vp"], Prediction.SAMPLE, x0), None, x0, nothing, draw)
    assert not errors.policy.any()
