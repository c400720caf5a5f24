"""The levels that an inversion climbs, sample by sample, and the times that the network is told on the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffalign.denoising import VP, Process
from diffalign.exceptions import ConfigError

Snap = Literal["exact", "floor", "ceil"]
_OFFSET = 1  # steps_offset of Stable Diffusion 1.5's and XL's schedulers: their first timestep is 1


@dataclass(frozen=True)
class Route:
    """Process times, ascending along the first axis; a sample whose level stays has arrived.

    Attributes:
        levels: [steps + 1, batch]; the first is what the clean sample counts as, the last is where the inversion ends.
        told: [steps, batch], the time that the network is told on the way to levels[1:].
    """

    levels: Float[Tensor, "levels batch"]
    told: Float[Tensor, "steps batch"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(from, to, told) of every step, each [batch]."""
        for (start, end), told in zip(itertools.pairwise(self.levels), self.told, strict=True):
            yield start, end, told


def route_along(times: Float[Tensor, " times"], batch: int) -> Route:
    """One route for all: a sampler's own times, ascending or descending; the smallest is what clean samples count as."""
    levels = times.sort().values[:, None].expand(-1, batch)
    return Route(levels, levels[1:])


def route_to(process: Process, t: Float[Tensor, " batch"], steps: int, snap: Snap) -> Route:
    """From the clean sample to each sample's own t, over a grid of `steps` equal steps of [0, 1].

    - `exact`: the levels are k / steps below t (rounded to the process's own grid, where it has one), and t at the last;
      the clean sample counts as t = 0 and the network is told the level that it is to help reach.
    - `floor`: what diffusers' DDIMInverseScheduler has done since 0.22: the levels are its timesteps below t's, the last of
      them up to a whole step short of t. The network is told the level that it is to help reach.
    - `ceil`: what it did in 0.20 and 0.21, on which SmPO's results rest: each step ends one level higher, so the last lies
      at or above t, but where the grid ends before it. The network is told the level that the step leaves from, which at
      the first step is a time below 0.

    On a process with a table (VP), `floor` and `ceil` have the timesteps of Stable Diffusion's schedulers ("leading",
    steps_offset 1, set_alpha_to_one false: the clean sample counts as the first entry of the table).

    Raises:
        ConfigError: fewer than 1 step, or more of them than a table has entries.
    """
    entries = process.entries if isinstance(process, VP) else None
    if steps < 1 or (entries is not None and snap != "exact" and steps > entries):
        raise ConfigError(f"steps: must be from 1 to the {entries or 'number of steps'} of the process, got {steps}")
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    return _exact(t, steps, entries) if snap == "exact" else _snapped(t, steps, entries, above=snap == "ceil")


def _exact(t: Tensor, steps: int, entries: int | None) -> Route:
    whole = torch.arange(steps + 1, dtype=t.dtype, device=t.device)
    grid = whole / steps if entries is None else (whole * entries / steps).round() / entries
    levels = torch.minimum(grid[:, None], t)
    return Route(levels, levels[1:])


def _snapped(t: Tensor, steps: int, entries: int | None, *, above: bool) -> Route:
    # in units of a stride that is whole on a table, so that times on the grid come out to the bit
    unit, stride, first = (steps, 1, 0) if entries is None else (entries, entries // steps, _OFFSET + 1)
    levels, told = [torch.full_like(t, min(first, 1) / unit)], []
    for now, after in itertools.pairwise(first + k * stride for k in range(-1, steps)):
        if after > unit:  # no such entry
            break
        asked = torch.full_like(t, now if above else after) / unit
        end = torch.full_like(t, after) / unit
        levels.append(torch.where(asked < t, torch.maximum(end, levels[-1]), levels[-1]))
        told.append(asked)
    return Route(torch.stack(levels), torch.stack(told))
