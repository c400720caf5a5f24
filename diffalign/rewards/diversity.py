"""How far apart the pictures or shapes of a set are: of different prompts, and of one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_ROWS = 256  # pictures that are compared with all others at a time


def picture_diversity(pictures: Float[Tensor, "batch *sample"], prompts: Sequence[str] | None = None) -> float:
    """Mean distance between two different pictures of a set: root mean square over pixels in [0, 1].

    Pictures are compared as their thumbnails. Of occupancy grids [batch, 1, x, y, z] the distance is 1 - IoU of the cells
    that they fill, in [0, 1], which does not grow with the volume as a distance over cells does; two empty grids are equal.
    Falls towards 0 when all pictures become alike. 0 for fewer than two.

    Args:
        pictures: in [0, 1].
        prompts: of each; then only pictures of different prompts are compared, unless all are of one. None: all are.
    """
    flat = thumbnails(pictures).flatten(1)
    count = len(flat)
    if count < 2:
        return 0.0
    group = torch.arange(count) if prompts is None else _numbers(prompts)
    if len(group.unique()) == 1:
        group = torch.arange(count)
    total, pairs = 0.0, 0
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        counted = (group[rows, None] != group[None, start:]).triu(1)  # each pair once
        apart = _apart(flat[rows], flat[start:], shapes=pictures.ndim == 5)
        total += (apart * counted.to(apart.device)).sum(dtype=torch.float64).item()
        pairs += int(counted.sum())
    return total / pairs


def diversity_within(pictures: Float[Tensor, "batch *sample"], prompts: Sequence[str]) -> Float[Tensor, " prompts"]:
    """Mean distance between the pictures of one prompt, of each prompt in the order in which they come first.

    The distance is that of `picture_diversity`. NaN for prompts with a single picture.
    """
    flat, group = thumbnails(pictures).flatten(1), _numbers(prompts)
    found = []
    for number in range(int(group.max()) + 1):
        members = flat[group == number]
        pairs = len(members) * (len(members) - 1) / 2
        apart = _apart(members, members, shapes=pictures.ndim == 5).triu(1)
        found.append(apart.sum(dtype=torch.float64) / pairs)  # 0 / 0 is NaN
    return torch.stack(found)


def thumbnails(pictures: Float[Tensor, "batch *sample"], longest: int = 64) -> Float[Tensor, "batch *thumbnail"]:
    """Pictures with their longest side reduced to `longest` pixels by averaging over boxes; smaller ones as they are.

    Of occupancy grids [batch, 1, x, y, z] it is 1 where a cell is filled, else 0.
    """
    if pictures.ndim == 5:
        return (pictures > 0.5).float()
    height, width = pictures.shape[-2:]
    if max(height, width) <= longest:
        return pictures.float()
    scale = longest / max(height, width)
    return F.adaptive_avg_pool2d(pictures.float(), (max(1, round(height * scale)), max(1, round(width * scale))))


def _apart(
    some: Float[Tensor, "rows cells"], others: Float[Tensor, "columns cells"], *, shapes: bool
) -> Float[Tensor, "rows columns"]:
    if not shapes:
        return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist") / some.shape[1] ** 0.5
    shared = some @ others.T
    either = some.sum(1)[:, None] + others.sum(1)[None] - shared
    return torch.where(either > 0, 1 - shared / either.clamp_min(1), 0)


def _numbers(prompts: Sequence[str]) -> Tensor:
    places: dict[str, int] = {}
    return torch.tensor([places.setdefault(prompt, len(places)) for prompt in prompts])
