"""Numbers from files, which may hold anything, and how they are written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "-"  # written where a number is missing or not finite


def finite(value: Any) -> float:
    """The number as a float; NaN for whatever is no finite number (null, text, true, infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def count(value: Any) -> int | None:
    """The number as a whole number, or None."""
    number = finite(value)
    return None if math.isnan(number) else round(number)


def plain(value: Any, digits: int = 4) -> str:
    """A number by itself, to `digits` significant digits."""
    number = finite(value)
    return ABSENT if math.isnan(number) else f"{number:.{digits}g}"


def plural(number: int, noun: str, many: str | None = None) -> str:
    """`1 prompt`, `2 prompts`."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


@dataclass(frozen=True)
class Scale:
    """How the figures of one reward are written, all to the same number of decimals."""

    percent: bool
    decimals: int

    def level(self, value: float) -> str:
        """A score: `60.5 %` or `4.21`."""
        return self._write(value, "") + (" %" if self.percent and not math.isnan(value) else "")

    def bare(self, value: float) -> str:
        """A difference without its unit, always signed: `+10.5`."""
        return self._write(value, "+")

    def change(self, value: float) -> str:
        """A difference, always signed: `+10.5 points` or `-0.13`."""
        return self.bare(value) + (" points" if self.percent and not math.isnan(value) else "")

    def interval(self, low: float, high: float) -> str:
        """`+6.1 to +14.9`, or nothing where an end is missing."""
        return "" if math.isnan(low) or math.isnan(high) else f"{self.bare(low)} to {self.bare(high)}"

    def _write(self, value: float, sign: str) -> str:
        if math.isnan(value):
            return ABSENT
        shown = 100 * value if self.percent else value
        if abs(shown) >= 1e6:
            return f"{shown:{sign}.4g}"
        rounded = round(shown, self.decimals) + 0.0  # never -0.0
        return f"{rounded:{sign}.{self.decimals}f}"


def scale_for(percent: bool, low: float, high: float, others: Sequence[float] = ()) -> Scale:
    """Decimals that show the interval's half-width to two digits; without one, `others` to three."""
    factor = 100.0 if percent else 1.0
    size, digits = factor * abs(high - low) / 2, 2
    if math.isnan(size) or size == 0:
        size = factor * max((abs(other) for other in others if not math.isnan(other)), default=0.0)
        digits = 3
    if size == 0:
        return Scale(percent, 1)
    decimals = digits - 1 - math.floor(math.log10(size))
    return Scale(percent, min(max(decimals, 1 if percent else 0), 8))
