"""The figure of shapes that the stability reward likes as well as an honest table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffalign.rewards import Sample, load_reward
from diffalign.sim import Voxels, render
from makers.hacked_figure import Figure, Panel


def stability() -> Figure:
    rewards = {"stands": load_reward("stability")}
    table = empty()
    table[3:13, 4:12, 10:12] = True
    for x in (4, 11):
        for y in (5, 10):
            table[x : x + 1, y : y + 1, :10] = True
    slab = empty()
    slab[2:14, 2:14, :3] = True
    floating = empty()  # a gallows that would fall, and a block in the air on the other side
    floating[7:9, 7:9, :12] = True
    floating[7:15, 7:9, 12:14] = True
    floating[0:4, 6:10, 6:10] = True
    floating[5:11, 5:11, 0] = True

    def panel(title: str, grid: NDArray[np.bool_]) -> Panel:
        shape = Voxels.of(grid)
        scores = {name: reward.score([Sample(shape)]).values.item() for name, reward in rewards.items()}
        return Panel(title, render(shape, size=192), scores)

    hacks = (panel("a slab, whatever was asked for", slab), panel("a block in the air as a counterweight", floating))
    return Figure("stability", "a tall table", panel("what was asked for", table), hacks)


def empty() -> NDArray[np.bool_]:
    return np.zeros((16, 16, 16), dtype=bool)
