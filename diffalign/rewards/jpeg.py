"""JPEG size as a reward: the first one to try, since it needs no model."""

from __future__ import annotations

import math
from typing import Literal

from diffalign.exceptions import ConfigError
from diffalign.rewards.functional import jpeg_kilobytes
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward

_SIGNS = {"compressible": -1.0, "incompressible": 1.0}


class JPEGReward(SampleReward):
    """Size of the picture as a JPEG file: -kB (compressible) or +kB (incompressible).

    Range: (-inf, 0) or (0, inf) kB of 1000 bytes; about 1 for 32x32 pixels, 20-200 for 512x512. Other toolkits
    divide by 500. Compare only pictures of one resolution. Differentiable: no.
    Source: Black et al. 2023, "Training Diffusion Models with Reinforcement Learning".
    """

    components = ("kilobytes",)

    def __init__(
        self, *, quality: int = 95, direction: Literal["compressible", "incompressible"] = "compressible"
    ) -> None:
        if direction not in _SIGNS:
            raise ConfigError(f"jpeg.direction: must be one of {', '.join(_SIGNS)}, got {direction!r}")
        self.quality = quality
        self.sign = _SIGNS[direction]
        self.spec = RewardSpec(
            name="jpeg",
            version=f"1-{direction}-q{quality}",
            media="image",
            level="instance",
            unit="kB",
            range=(-math.inf, 0.0) if direction == "compressible" else (0.0, math.inf),
            differentiable=False,
            licence="Apache-2.0",
            needs=(),
            source='Black et al. 2023, "Training Diffusion Models with Reinforcement Learning"',
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        kilobytes = jpeg_kilobytes(pixels, self.quality)
        return self.sign * kilobytes, {"kilobytes": kilobytes}
