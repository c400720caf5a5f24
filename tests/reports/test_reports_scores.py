"""The histogram of scores in the terminal: what is a bar, and what its label says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from rich.console import Console

from diffalign.reports import score_histogram, unscored_lines


def bars(values: list[float]) -> list[tuple[str, int]]:
    """Labels and counts, of lines as `label ███ count`."""
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(score_histogram("scene", "1", values))
    lines = [re.fullmatch(r"\s*(.+?)\s+[█-▏]*\s*(\d+)\s*", line) for line in capture.get().splitlines()[1:]]
    return [(line[1], int(line[2])) for line in lines if line]


def test_values_that_come_again_have_a_bar_each():
    assert bars([0.0, 1.0, 1.0]) == [("0", 1), ("1", 2)]
    assert bars([0.25] * 3 + [0.5] * 4 + [1.0]) == [("0.25", 3), ("0.5", 4), ("1", 1)]


def test_a_few_values_of_their_own_are_put_together():
    found = bars([-0.683, -0.682, -0.681, -0.679])
    assert found == [("-0.6830 to -0.6817", 2), ("-0.6817 to -0.6803", 1), ("-0.6803 to -0.6790", 1)]


@pytest.mark.parametrize("count", [9, 100, 10_000])
def test_many_are_eight_bins_at_most_and_all_are_counted(count):
    found = bars(np.random.default_rng(0).normal(size=count).tolist())
    assert sum(number for _, number in found) == count
    assert len(found) <= 8


def test_none_and_one():
    assert bars([]) == []
    assert bars([2.5]) == [("2.5", 1)]


def test_why_there_is_no_score_is_said_once_if_all_say_it():
    broken, small = "not a readable picture", "needs 16 pixels"
    summary = {
        "jpeg": {"unscored": 3, "reasons": {broken: 3}},
        "brisque": {"unscored": 9, "reasons": {broken: 3, small: 5}},
    }
    assert unscored_lines(summary) == [
        "3 unscored by all: not a readable picture",
        "brisque: 5 unscored: needs 16 pixels",
        "brisque: 1 unscored for other reasons, which stand in the rows",
    ]
    many = {"jpeg": {"unscored": 6, "reasons": {f"reason {letter}": 1 for letter in "abcdef"}}}
    assert unscored_lines(many)[-1] == "jpeg: 1 unscored for other reasons, which stand in the rows"
    assert unscored_lines(many, most=None)[-1] == "jpeg: 1 unscored: reason f"  # there are no rows
    assert unscored_lines({"jpeg": summary["jpeg"]}) == ["jpeg: 3 unscored: not a readable picture"]
    assert unscored_lines({"jpeg": {"unscored": 0, "reasons": {}}}) == []


def test_a_reason_names_the_first_that_has_it():
    facts = {"unscored": 3, "reasons": {"is empty": 2, "b.glb is a mesh": 1}}
    facts["first_unscored"] = {"is empty": "a.glb", "b.glb is a mesh": "b.glb"}
    assert unscored_lines({"jpeg": facts}) == ["jpeg: 2 unscored: a.glb: is empty", "jpeg: 1 unscored: b.glb is a mesh"]
    assert unscored_lines({"jpeg": facts, "brisque": facts})[0] == "2 unscored by all: a.glb: is empty"
