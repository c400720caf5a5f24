"""A line of the before/after table, and reading its numbers from a summary that may hold anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffalign.reports.numbers import ABSENT, Scale, finite

Verdict = Literal["rose", "fell", "unclear", "unknown"]
TRAINED_ON = "trained on"  # the config's word: evaluation.trained_reward; records do not say what made them


@dataclass(frozen=True)
class Row:
    """One line of the before/after table; numbers that are missing are NaN, or None for counts."""

    name: str
    note: str  # TRAINED_ON, the same with "not", or what the line is
    unit: str
    base: float
    aligned: float
    difference: float
    low: float
    high: float
    scale: Scale
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    win_rate: float = math.nan
    win_rate_low: float = math.nan
    win_rate_high: float = math.nan
    scored: int | None = None
    unscored: int = 0
    reasons: tuple[tuple[str, int | None], ...] = ()
    told: str = ""  # the sentence, of lines that compare the two models with each other
    is_form: bool = False  # how samples look, not how good they are: neither side is the better one

    @property
    def colour(self) -> Verdict | Literal["form"]:
        """By what a change is coloured: the verdict of a reward; of form none is good or bad."""
        return "form" if self.is_form else self.verdict

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to say; without an interval, unknown."""
        if any(math.isnan(number) for number in (self.low, self.high, self.difference)):
            return "unknown"
        return "rose" if self.low > 0 else "fell" if self.high < 0 else "unclear"

    @property
    def tally(self) -> str:
        """Wins / ties / losses."""
        counts = (self.wins, self.ties, self.losses)
        return "" if counts == (None, None, None) else " / ".join(ABSENT if n is None else str(n) for n in counts)

    @property
    def win_rate_text(self) -> str:
        """`52.5 %`, or nothing on lines without one."""
        return "" if math.isnan(self.win_rate) else f"{100 * self.win_rate:.1f} %"

    @property
    def win_rate_interval(self) -> str:
        """`48.7 to 56.2`, or nothing."""
        if math.isnan(self.win_rate_low) or math.isnan(self.win_rate_high):
            return ""
        return f"{100 * self.win_rate_low:.1f} to {100 * self.win_rate_high:.1f}"


def means_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The five figures of a line, NaN where they are missing."""
    base, aligned = finite(entry.get("base_mean")), finite(entry.get("aligned_mean"))
    difference = finite(entry.get("difference"))
    return {
        "base": base,
        "aligned": aligned,
        "difference": aligned - base if math.isnan(difference) else difference,
        "low": finite(entry.get("low")),
        "high": finite(entry.get("high")),
    }


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}
