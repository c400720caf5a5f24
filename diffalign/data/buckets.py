"""Sizes of nearly one area and different ratios of sides: each group is trained at the nearest."""

from __future__ import annotations

import math
from collections.abc import Sequence

Size = tuple[int, int]  # height, width


def bucket_sizes(resolution: int, *, step: int, smallest: int, largest: int) -> tuple[Size, ...]:
    """All (height, width) with sides in multiples of `step`, of the largest area up to resolution^2.

    The square comes first, then the others by rising width: for each width from `smallest` to `largest` the largest height
    that keeps the area, as NovelAI's aspect ratio bucketing (2022) and kohya's scripts make them.
    """
    sizes = {(resolution, resolution)}
    for width in range(math.ceil(smallest / step) * step, largest + 1, step):
        height = min(largest, resolution * resolution // width // step * step)
        if height >= smallest:
            sizes |= {(height, width), (width, height)}
    return tuple(sorted(sizes, key=lambda size: (size[0] != size[1] or size[0] != resolution, size[1], size[0])))


def nearest_bucket(pictures: Sequence[Size], sizes: Sequence[Size]) -> int:
    """Which of the sizes has the ratio of sides nearest to the pictures' mean; the larger area where two are as near.

    Means and distances are those of the logarithm, to which 2:1 and 1:2 are as far from the square.
    """
    aspect = sum(math.log(width / height) for height, width in pictures) / len(pictures)
    return min(
        range(len(sizes)),
        key=lambda each: (
            abs(math.log(sizes[each][1] / sizes[each][0]) - aspect),
            -sizes[each][0] * sizes[each][1],
        ),
    )
