"""The stability reward, with shapes that break it: one ends its process as a fault of a library does, one never ends."""

from __future__ import annotations

import ctypes
import time

from diffalign.rewards import Sample, StabilityReward
from diffalign.sim import Mesh, Voxels

CRASH, HANG = 0.501, 0.777  # the longest side of a mesh, or the share of a grid that is full, in thousandths


class FragileStability(StabilityReward):
    def judge(self, medium: Mesh | Voxels, sample: Sample) -> tuple[float, dict[str, float]]:
        size = round(medium.extent if isinstance(medium, Mesh) else medium.volume, 3)
        if size == CRASH:
            ctypes.string_at(0)  # reads address 0: SIGSEGV
        if size == HANG:
            time.sleep(3600)
        return super().judge(medium, sample)


def make() -> FragileStability:
    return FragileStability(form="margin")
