"""Malformed shapes: are a picture's objects whole and of proper form? On the zoo's scenes, or by your own detector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards._scene_checker import OBJECT_WIDTHS, Found, find_objects
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward, own_version

__all__ = ["DistortionReward", "shape_forms"]

# Of a picture that the zoo's renderer drew, at whatever size and place, every object reaches the second of each.
_OVERLAP = (0.5, 0.86)  # with the shape that it is most like; 0 up to the first, 1 from the second on
_ASPECT = (0.5, 0.9)  # short over long side


class DistortionReward(SampleReward):
    """How well-formed the objects of a picture are: 1 where each is a proper shape.

    Of a scene of the zoo: each object that is not background counts by how far it overlaps the circle, square, triangle
    or cross that it is most like, and by how square its box is; fragments, specks and colours off the palette count 0. A
    picture without objects is 0: there is nothing well-formed in it.

    Range: [0, 1]. Higher is better. Components: mean, worst (of the objects) and objects, their number. Differentiable: no.
    Source: diffalign's own.

    Example:
        `DistortionReward()(pictures)`, or `DistortionReward(detect=hands_of)(pictures)`
    """

    components = ("mean", "worst", "objects")

    def __init__(
        self,
        *,
        form: Literal["mean", "worst"] = "mean",
        detect: Callable[[Pixels], Sequence[float]] | None = None,
        detect_version: str | None = None,
    ) -> None:
        """Say what counts, and who looks.

        Args:
            form: the mean over the objects, or the worst of them.
            detect: in the place of the zoo's checker: from uint8 [height, width, 3] to how well-formed each object is that
                it finds, in [0, 1], for example one less the probability that a hand is malformed.
            detect_version: what kept scores know it by, to be changed with it; None: they end with this object.

        Raises:
            ConfigError: names the argument.
        """
        if form not in ("mean", "worst"):
            raise ConfigError(f"distortion.form: must be 'mean' or 'worst', got {form!r}")
        self.form, self._own = form, detect
        self.spec = RewardSpec(
            name="distortion",
            version=f"1-{'scene' if detect is None else own_version(detect_version)}-{form}",
            media="image",
            level="instance",
            unit="1",
            range=(0.0, 1.0),
            differentiable=False,
            licence="Apache-2.0" if detect is None else "Apache-2.0; the detector's own",
            needs=(),
            source="diffalign's own, with the scene checker's templates of shapes",
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        forms = shape_forms(pixels) if self._own is None else [float(each) for each in self._own(pixels)]
        if any(not 0 <= each <= 1 for each in forms):  # NaN is not either
            raise DataError(f"the detector must say how well-formed each object is, in [0, 1], got {forms}")
        mean, worst = (math.fsum(forms) / len(forms), min(forms)) if forms else (0.0, 0.0)
        parts = {"mean": mean, "worst": worst, "objects": float(len(forms))}
        return parts[self.form], parts


def shape_forms(pixels: Pixels) -> list[float]:
    """How well-formed each object of a scene is, in [0, 1], largest first; uint8 [height, width, 3], seen at 32x32."""
    return [_form(one) for one in find_objects(pixels)]


def _form(one: Found) -> float:
    left, top, right, bottom = one.box
    short, long = sorted((right - left, bottom - top))
    if not one.overlap or short < OBJECT_WIDTHS[0] or long > OBJECT_WIDTHS[1]:
        return 0.0
    return _share(max(one.overlap.values()), _OVERLAP) * _share(short / long, _ASPECT)


def _share(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return min(max((value - low) / (high - low), 0.0), 1.0)
