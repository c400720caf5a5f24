"""What the votes of a folder come to: per person, together, and whether anybody leans to one side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

from diffalign.annotation.agreement import Agreement, agreement
from diffalign.annotation.votes import CHOICES, Choice, Vote


@dataclass(frozen=True)
class Share:
    """A share of counted things with its 95 % interval; of nothing, all three are None."""

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Person:
    """One person's votes.

    Attributes:
        rater: who; "" stands for everybody together.
        votes: comparisons answered, skipped ones too.
        choices: how often each answer was given.
        left: of the votes for one of the two pictures, those for the one on the left: about half where nobody leans.
        seconds: median time of a vote; None without votes.
    """

    rater: str
    votes: int
    choices: dict[Choice, int]
    left: Share
    seconds: float | None


@dataclass(frozen=True)
class Summary:
    """A folder's votes: each person by name, everybody together, and how far they agree."""

    raters: tuple[Person, ...]
    all: Person
    agreement: Agreement
    comparisons: int  # with a vote


def summarise(votes: Sequence[Vote]) -> Summary:
    """Sum up votes as `read_votes` gives them."""
    names = sorted({vote.rater for vote in votes})
    return Summary(
        raters=tuple(_person(name, [vote for vote in votes if vote.rater == name]) for name in names),
        all=_person("", votes),
        agreement=agreement(votes),
        comparisons=len({vote.comparison for vote in votes}),
    )


def wilson(share: float, of: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share of `of` (> 0) independent cases, which holds for few of them and near 0 and 1 too.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    room = z**2 / of
    middle = (share + room / 2) / (1 + room)
    half = z * math.sqrt(share * (1 - share) / of + room / (4 * of)) / (1 + room)
    return max(0.0, middle - half), min(1.0, middle + half)


def _person(name: str, votes: Sequence[Vote]) -> Person:
    counts = Counter(vote.vote for vote in votes)
    sides = [vote.left for vote in votes if vote.left is not None]
    seconds = round(median(vote.seconds for vote in votes), 1) if votes else None
    left = Share(sum(sides), len(sides), *_rate(sum(sides), len(sides)))
    return Person(name, len(votes), {choice: counts[choice] for choice in CHOICES}, left, seconds)


def _rate(count: int, of: int) -> tuple[float | None, float | None, float | None]:
    return (count / of, *wilson(count / of, of)) if of else (None, None, None)
