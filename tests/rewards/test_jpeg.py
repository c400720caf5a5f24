"""JPEG size: hand-made pictures, recorded numbers within 1 %, and the sign."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.exceptions import ConfigError
from diffalign.rewards import JPEGReward, load_reward
from diffalign.rewards.functional import jpeg_kilobytes


def ramp() -> np.ndarray:
    row = np.linspace(0, 255, 256).astype(np.uint8)
    return np.stack([np.tile(row, (256, 1)), np.tile(row[:, None], (1, 256)), np.full((256, 256), 128, np.uint8)], -1)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)


def flat() -> np.ndarray:
    return np.full((256, 256, 3), 128, dtype=np.uint8)


@pytest.mark.parametrize(
    ("picture", "quality", "kilobytes"),  # Pillow 13.0.0, libjpeg-turbo 3.2.0
    [
        (flat(), 95, 1.649),
        (flat(), 50, 1.649),
        (ramp(), 95, 6.729),
        (ramp(), 50, 3.19),
        (noise(), 95, 77.481),
        (noise(), 50, 27.432),
    ],
)
def test_recorded_sizes(picture, quality, kilobytes):
    assert jpeg_kilobytes(picture, quality) == pytest.approx(kilobytes, rel=0.01)


def test_is_the_size_of_the_file_in_1000_bytes():
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, "JPEG", quality=95)
    assert jpeg_kilobytes(ramp()) == len(buffer.getvalue()) / 1000


def test_forms_agree_to_the_byte():
    tensor = torch.from_numpy(ramp()).permute(2, 0, 1).float() / 255
    assert jpeg_kilobytes(tensor) == jpeg_kilobytes(ramp()) == jpeg_kilobytes(Image.fromarray(ramp()))


def test_floats_are_rounded_not_cut():
    tensor = torch.from_numpy(ramp()).permute(2, 0, 1).float() / 255
    assert jpeg_kilobytes((tensor - 0.4 / 255).clamp(0, 1)) == jpeg_kilobytes(ramp())


def test_directions_are_opposite():
    pictures = [flat(), ramp(), noise()]
    small, large = JPEGReward(direction="compressible")(pictures), JPEGReward(direction="incompressible")(pictures)
    torch.testing.assert_close(small, -large)
    assert small[0] > small[1] > small[2]
    assert (small < 0).all()


def test_quality_reaches_the_encoder():
    rough, fine = load_reward("jpeg", quality=20), load_reward("jpeg", quality=95)
    assert rough([noise()]).item() > fine([noise()]).item()
    assert rough.spec.version != fine.spec.version


def test_score_has_kilobytes():
    reward = load_reward("jpeg")
    torch.testing.assert_close(reward([ramp()]), torch.tensor([-jpeg_kilobytes(ramp())]))


def test_unknown_direction(unchecked_types):
    with pytest.raises(ConfigError, match=r"jpeg\.direction: must be one of compressible, incompressible, got 'small'"):
        JPEGReward(direction="small")
