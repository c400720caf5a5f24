"""How far people agree: raw agreement, Cohen's kappa, Krippendorff's alpha for unordered answers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from diffalign.annotation.votes import Vote


@dataclass(frozen=True)
class TwoRaters:
    """Agreement of two people on the comparisons that both judged.

    Attributes:
        raters: who.
        common: comparisons that both judged.
        agreement: share of these with the same answer; None where there are none.
        kappa: Cohen's; None where it is undefined.
    """

    raters: tuple[str, str]
    common: int
    agreement: float | None
    kappa: float | None


@dataclass(frozen=True)
class Agreement:
    """Agreement of all: every two people, and alpha over all of them (None: undefined)."""

    pairs: tuple[TwoRaters, ...]
    alpha: float | None
    comparisons: int  # judged by two people or more


def agreement(votes: Iterable[Vote]) -> Agreement:
    """Agreement on the answers a, b, tie and bad; a skipped comparison is one that the person did not judge."""
    answers: dict[str, dict[str, str]] = {}  # rater -> comparison -> answer
    units: dict[str, list[str]] = {}
    for vote in votes:
        if vote.vote != "skip":
            answers.setdefault(vote.rater, {})[vote.comparison] = vote.vote
            units.setdefault(vote.comparison, []).append(vote.vote)
    pairs = []
    for one, other in itertools.combinations(sorted(answers), 2):
        common = sorted(answers[one].keys() & answers[other].keys())
        first, second = ([answers[rater][comparison] for comparison in common] for rater in (one, other))
        same = sum(map(str.__eq__, first, second)) / len(common) if common else None
        pairs.append(TwoRaters((one, other), len(common), same, cohen_kappa(first, second)))
    several = sum(len(unit) > 1 for unit in units.values())
    return Agreement(tuple(pairs), krippendorff_alpha(units.values()), several)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two people beyond what their habits alone would give: 1 whole, 0 none beyond chance.

    None, undefined: nothing in common, or both gave one and the same answer throughout, where chance agrees as well.

    Source: Cohen 1960, "A Coefficient of Agreement for Nominal Scales", equation 1.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} answers: they must be of the same comparisons, one by one")
    number = len(first)
    one, other = Counter(first), Counter(second)
    by_chance = sum(one[answer] * other[answer] for answer in one)  # times number²: whole numbers stay exact
    if by_chance == number**2:  # also of nothing
        return None
    same = sum(a == b for a, b in zip(first, second, strict=True))
    return (same * number - by_chance) / (number**2 - by_chance)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Agreement of any number of people, each of whom may have judged any part: 1 whole, 0 none beyond chance.

    Args:
        units: of every comparison the answers that it got; one with fewer than two takes no part.

    None, undefined: no comparison has two answers, or all answers are the same.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C (nominal data, any number of
    observers, missing data).
    """
    counted = [Counter(unit) for unit in units if len(unit) > 1]
    total = Counter[Hashable]()
    disagreement = 0.0  # observed: pairs of unlike answers within a unit, each unit weighted by 1 / (its answers - 1)
    for unit in counted:
        size = unit.total()
        total.update(unit)
        disagreement += (size**2 - sum(count**2 for count in unit.values())) / (size - 1)
    number = total.total()
    expected = number**2 - sum(count**2 for count in total.values())
    return None if expected == 0 else 1 - (number - 1) * disagreement / expected
