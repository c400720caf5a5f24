"""BRISQUE: the values and features that the package's own code gives, its trends, and what it cannot judge."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from diffalign.exceptions import MissingExtraError
from diffalign.rewards import BrisqueReward, Sample, load_reward
from diffalign.rewards.brisque import _half, _shape_of, brisque_features
from tests.rewards.photo_like import as_jpeg, blurred, noisy, photo_like

# Recorded from the code of brisque 0.2.0 (its fits made plain floats, which numpy 2 needs), OpenCV 5.0, libsvm 3.37.
RECORDED = {
    "clean": (photo_like(), 41.944197587268235),
    "odd sides": (photo_like(97, 63, seed=1), 33.16554670065099),
    "blur": (blurred(photo_like(), 2), 64.90928411079548),
    "noise": (noisy(photo_like(), 25), 54.57633308337799),
}
FEATURES = (2.6638448, 0.51057929, 0.92075811, 0.06034989, 0.1865092, 0.26944087)  # of "clean", the first six


@pytest.mark.parametrize("case", RECORDED)
def test_values_are_the_packages(case: str) -> None:
    picture, recorded = RECORDED[case]
    output = BrisqueReward().score([Sample(picture)])
    assert output.components["brisque"].item() == pytest.approx(recorded, abs=1e-4)  # float32 holds no more
    assert output.values.item() == -output.components["brisque"].item()


def test_features_are_the_packages() -> None:
    assert brisque_features(photo_like())[:6] == pytest.approx(FEATURES, abs=1e-7)
    assert brisque_features(photo_like()).shape == (36,)


def test_distortions_lower_it() -> None:
    clean = photo_like()
    spoilt = [clean, blurred(clean, 2), as_jpeg(clean, 10), noisy(clean, 25)]
    best, *rest = load_reward("brisque")(np.stack(spoilt)).tolist()
    assert best > max(rest) + 5


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 5.0])
def test_shape_of_a_distribution(shape: float) -> None:
    wanted = math.gamma(2 / shape) ** 2 / (math.gamma(1 / shape) * math.gamma(3 / shape))
    assert _shape_of(wanted) == pytest.approx(shape)
    assert _shape_of(0.99) == pytest.approx(10) and _shape_of(0.0) == pytest.approx(0.2)


def test_normal_numbers_have_shape_two() -> None:
    assert _shape_of(2 / math.pi) == pytest.approx(2)


def test_half_size_keeps_planes() -> None:
    ramp = np.arange(12.0)[None] * np.ones((6, 1))
    np.testing.assert_allclose(_half(ramp)[:, 1:-1], np.ones((3, 1)) * (2 * np.arange(1, 5) + 0.5))
    assert _half(np.zeros((5, 7))).shape == (2, 4)


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (np.zeros((32, 32, 3), np.uint8), "no structure"),
        (photo_like(15, 40), "needs 16 pixels a side, got 15 x 40"),
    ],
)
def test_what_it_cannot_judge(picture: np.ndarray, reason: str) -> None:
    output = BrisqueReward().score([Sample(picture)])
    assert output.values.isnan().all() and reason in str(output.reasons[0])


def test_missing_weights_are_said_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_WHEELS", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"diffalign rewards fetch brisque==0\.2\.0"):
        load_reward("brisque")
