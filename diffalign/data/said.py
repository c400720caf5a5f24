"""What many records say at once: for checks that look at all of them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Said(NamedTuple):
    """Of some records that follow each other.

    Attributes:
        first: number of the first.
        rewards: [records, longest], by falling reward; NaN where unscored, and beyond a shorter record's end. None where
            the records have none.
        labels: +1 good, -1 bad [records], or None.
        preferences: probability that member 0 is preferred [records].
    """

    first: int
    rewards: Tensor | None
    labels: Tensor | None
    preferences: Tensor
