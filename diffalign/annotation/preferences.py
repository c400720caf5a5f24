"""What people preferred, for whoever learns from it: a training round that waits for its votes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffalign.annotation.comparisons import Plan, read_comparisons
from diffalign.annotation.votes import Choice, read_votes, tally


class Preference(NamedTuple):
    """A comparison and what came of it.

    Attributes:
        record: the row of metadata.jsonl that lists `a`.
        a, b: file names, as `Comparison` has them.
        probability: that a wins: the share of votes for a among those for a, b or tie, ties counted half; None: as many or
            more say that both are bad, or nobody says anything but "skip".
    """

    record: Mapping[str, Any]
    a: str
    b: str
    probability: float | None


def pending(folder: Path, plan: Plan | None = None) -> int:
    """How many comparisons nobody has answered yet; a "skip" is an answer, so that nobody waits for it for ever.

    Args:
        folder: what `diffalign annotate` was given.
        plan: which comparisons; None is the folder's own plan (`write_plan`).
    """
    answered = {vote.comparison for vote in read_votes(folder)}
    return sum(each.id not in answered for each in read_comparisons(folder, plan))


def preferences(folder: Path, plan: Plan | None = None) -> list[Preference]:
    """Every comparison of the folder with its votes, in the order in which people see them."""
    counts = tally(read_votes(folder))
    return [
        Preference(each.record, each.a, each.b, win_share(counts.get(each.id, {})))
        for each in read_comparisons(folder, plan)
    ]


def win_share(count: Mapping[Choice, int]) -> float | None:
    """The share of votes for a among those for a, b or tie, ties counted half; None where as many or more say "bad"."""
    a, b, tie, bad = (count.get(choice, 0) for choice in ("a", "b", "tie", "bad"))
    said = a + b + tie
    return None if bad >= said else (a + tie / 2) / said
