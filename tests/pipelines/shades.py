"""A generator without a network: one shade per seed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from diffalign.pipelines import ImageGenerator
from diffalign.samplers import DDIM


class Shades(ImageGenerator):
    """Draws the shade `seed + offset`; notes what it draws."""

    drawn: list[int]
    offset: int

    def __call__(self, prompts: Any, seeds: Any, *, view: str = "policy") -> Any:
        for start in range(0, len(prompts), self.batch):
            chunk = list(seeds[start : start + self.batch])
            self.drawn.extend(chunk)
            shade = torch.tensor(chunk) + self.offset
            yield (shade[:, None, None, None] % 256).expand(-1, 3, 2, 2) / 255


def shades(offset: int = 0, batch: int = 2, backbone: Any = None) -> Shades:
    """A generator of its own; without a backbone it is what records say of one that has 2 x 2 pixels."""
    made = object.__new__(Shades)  # past the check of types, which asks for a whole backbone
    fields = {
        "backbone": backbone or SimpleNamespace(medium="image", resolution=2, dtype=torch.float32),
        "sampler": DDIM(),
        "times": torch.zeros(3),
        "guidance_scale": 1.0,
        "batch": batch,
        "resolution": None,
        "drawn": [],
        "offset": offset,
    }
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
