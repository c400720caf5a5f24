"""PSNR and SSIM: numbers by hand, the formulas written the long way, gradients, and where references come from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.exceptions import ConfigError, DataError, ShapeError
from diffalign.rewards import PSNRReward, RewardEnsemble, Sample, SSIMReward, load_reward
from diffalign.rewards.functional import luma, psnr, ssim
from tests.data.pictures import picture_file


def noisy_pair(size: tuple[int, int] = (24, 31), spread: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture with smooth and rough places, and the same with noise."""
    draw = np.random.default_rng(seed)
    height, width = size
    clean = np.zeros((height, width, 3))
    clean[..., 0] = np.linspace(0, 255, width)[None]
    clean[..., 1] = np.linspace(255, 0, height)[:, None]
    clean[: height // 2, :, 2] = draw.integers(0, 256, (height // 2, width))
    noise = draw.integers(-spread, spread + 1, clean.shape)
    return (clean + noise).clip(0, 255).round().astype(np.uint8), clean.round().astype(np.uint8)


def tensor(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).double() / 255


def luma_by_pixel(picture: np.ndarray) -> np.ndarray:
    """Of uint8, 16 to 235."""
    red, green, blue = (picture[..., channel].astype(np.float64) for channel in range(3))
    return (65.481 * red + 128.553 * green + 24.966 * blue) / 255 + 16


def psnr_the_long_way(one: np.ndarray, other: np.ndarray, channel: str) -> float:
    values = [luma_by_pixel(each) if channel == "y" else each.astype(np.float64) for each in (one, other)]
    return 10 * math.log10(255**2 / np.mean((values[0] - values[1]) ** 2))


def ssim_the_long_way(one: np.ndarray, other: np.ndarray, channel: str) -> float:
    """Eq. 13 of Wang et al. at every place, with sums over the window around it, in the scale of 0 to 255."""
    if channel == "rgb":
        return float(np.mean([_ssim_of_plane(one[..., each] * 1.0, other[..., each] * 1.0) for each in range(3)]))
    return _ssim_of_plane(luma_by_pixel(one), luma_by_pixel(other))


def _ssim_of_plane(one: np.ndarray, other: np.ndarray) -> float:
    away = np.arange(11) - 5
    window = np.exp(-(away[:, None] ** 2 + away[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(one.shape[0] - 10):
        for left in range(one.shape[1] - 10):
            x, y = (each[top : top + 11, left : left + 11] for each in (one, other))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
            cov = (window * (x - mean_x) * (y - mean_y)).sum()
            values.append(
                (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
            )
    return float(np.mean(values))


# ---------------------------------------------------------------- the formulas


def test_luma_of_black_white_and_primaries():
    colours = torch.eye(3).reshape(3, 3, 1, 1)
    assert luma(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(16 / 255)
    assert luma(torch.ones(1, 3, 1, 1)).item() == pytest.approx(235 / 255)
    torch.testing.assert_close(luma(colours).flatten() * 255 - 16, torch.tensor([65.481, 128.553, 24.966]))


@pytest.mark.parametrize("channel", ["y", "rgb"])
@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("spread", [3, 60])
def test_parity_with_the_published_forms(channel, border, spread):
    one, other = noisy_pair(spread=spread)
    inner = slice(border, one.shape[0] - border), slice(border, one.shape[1] - border)
    options: Any = {"channel": channel, "crop_border": border}
    expected = (
        psnr_the_long_way(one[inner], other[inner], channel),
        ssim_the_long_way(one[inner], other[inner], channel),
    )
    assert psnr(tensor(one), tensor(other), **options).item() == pytest.approx(expected[0], abs=1e-6)
    assert ssim(tensor(one), tensor(other), **options).item() == pytest.approx(expected[1], abs=1e-8)
    facts = [{"reference": other}]
    assert load_reward("psnr", **options)([one], metadata=facts).item() == pytest.approx(expected[0], rel=1e-6)
    assert load_reward("ssim", **options)([one], metadata=facts).item() == pytest.approx(expected[1], rel=1e-6)


def test_by_hand():
    grey = np.full((12, 12, 3), 100, np.uint8)
    lighter = grey + 10
    assert PSNRReward(channel="rgb")([lighter], metadata=[{"reference": grey}]).item() == pytest.approx(
        20 * math.log10(255 / 10)
    )
    assert PSNRReward()([lighter], metadata=[{"reference": grey}]).item() == pytest.approx(
        20 * math.log10(255 / (10 * 219 / 255))
    )
    c1 = (0.01 * 255) ** 2  # without variance only the means are left
    assert SSIMReward(channel="rgb")([lighter], metadata=[{"reference": grey}]).item() == pytest.approx(
        (2 * 100 * 110 + c1) / (100**2 + 110**2 + c1)
    )


def test_equal_pictures_get_the_most_and_no_gradient():
    picture = tensor(*noisy_pair()).requires_grad_()
    decibels, likeness = psnr(picture, picture.detach()), ssim(picture, picture.detach())
    torch.testing.assert_close(decibels, torch.full((2,), 100.0, dtype=torch.float64))
    torch.testing.assert_close(likeness, torch.ones(2, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(decibels.sum(), picture)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    (gradient,) = torch.autograd.grad(likeness.sum(), picture)
    assert gradient.abs().max() < 1e-12


def test_opposite_pictures_are_unlike():
    picture = tensor(noisy_pair(spread=0)[0])
    assert ssim(picture, 1 - picture).item() < 0
    assert psnr(torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11)).item() == pytest.approx(
        20 * math.log10(255 / 219), abs=1e-4
    )
    assert psnr(torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11), channel="rgb").item() == 0


@pytest.mark.parametrize("channel", ["y", "rgb"])
@pytest.mark.parametrize("measure", [psnr, ssim])
def test_gradcheck(measure, channel):
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 2, 3, 14, 13, dtype=torch.float64, generator=generator)
    one.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: measure(x, other, channel=channel, crop_border=1), one)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_the_gradient_leads_to_the_reference(measure):
    one, other = tensor(*noisy_pair()).float()[:, None]
    (gradient,) = torch.autograd.grad(measure(one.requires_grad_(), other).sum(), one)
    step = 0.01 * gradient / gradient.norm()
    assert measure(one + step, other).item() > measure(one, other).item()


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_batches_precision_and_border(measure):
    pairs = [noisy_pair(seed=seed, spread=5 + seed) for seed in range(4)]
    ones, others = tensor(*(pair[0] for pair in pairs)), tensor(*(pair[1] for pair in pairs))
    values = measure(ones, others)
    apart = torch.cat([measure(ones[each : each + 1], others[each : each + 1]) for each in range(4)])
    torch.testing.assert_close(values, apart)
    torch.testing.assert_close(measure(ones.float(), others.float()).double(), values, rtol=1e-4, atol=1e-4)
    assert measure(ones.bfloat16(), others.bfloat16()).dtype == torch.float32
    spoilt = ones.clone()
    spoilt[..., :2, :] = 0.0
    assert not torch.allclose(measure(spoilt, others), values)
    torch.testing.assert_close(measure(spoilt, others, crop_border=2), measure(ones, others, crop_border=2))


@pytest.mark.parametrize(
    ("measure", "size", "other", "border", "message"),
    [
        (psnr, (8, 8), (8, 9), 0, r"\[1, 3, 8, 8\] and references \[1, 3, 8, 9\]; they must be of one size"),
        (psnr, (8, 8), (8, 8), 4, "8 x 8 pixels are too small: 1 x 1 must be left without 4 at each side"),
        (ssim, (11, 10), (11, 10), 0, "11 x 10 pixels are too small: 11 x 11 must be left without 0"),
    ],
)
def test_sizes_that_do_not_fit(measure, size, other, border, message, unchecked_types):
    with pytest.raises(ShapeError, match=message):
        measure(torch.rand(1, 3, *size), torch.rand(1, 3, *other), crop_border=border)


# ---------------------------------------------------------------- references


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_forms_of_references_agree(name, tmp_path):
    one, other = noisy_pair()
    Image.fromarray(other).save(tmp_path / "hr.png")
    forms = [other, Image.fromarray(other), tensor(other)[0].float(), tmp_path / "hr.png", str(tmp_path / "hr.png")]
    values = load_reward(name)([one] * 5, metadata=[{"reference": form} for form in forms])
    assert len(set(values.tolist())) == 1 and values.isfinite().all()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "no reference to compare with: metadata"),
        ({"reference": None}, "no reference to compare with"),
        ({"reference": "nowhere/hr.png"}, "the reference 'nowhere/hr.png' cannot be read: .*No such file"),
        ({"reference": np.zeros((9, 8, 3), np.uint8)}, "the picture has 12 x 12 pixels and its reference 9 x 8"),
        ({"reference": torch.full((3, 12, 12), 2.5)}, "the reference: float pictures must lie in"),
        ({"reference": 5}, "the reference: a picture must be PIL, a float tensor or an array, got int"),
    ],
)
@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_without_a_fitting_reference_it_is_nan_with_the_reason(name, metadata, reason):
    one, other = noisy_pair((12, 12))
    output = load_reward(name).score([Sample(one, metadata={"reference": other}), Sample(one, metadata=metadata)])
    assert output.values.isnan().tolist() == [False, True]
    with pytest.raises(DataError, match=reason):
        raise DataError(output.reasons[1])


def test_damaged_file_and_too_small_picture(tmp_path):
    (tmp_path / "hr.png").write_bytes(picture_file()[:60])
    small = np.zeros((8, 8, 3), np.uint8)
    samples = [Sample(small, metadata={"reference": each}) for each in (tmp_path / "hr.png", small)]
    reasons = load_reward("ssim").score(samples).reasons
    assert "cannot be read" in reasons[0] and "8 x 8 pixels are too small: 11 x 11" in reasons[1]


def test_settings_change_the_version_and_wrong_ones_are_refused(unchecked_types):
    versions = {
        PSNRReward(channel=channel, crop_border=border).spec.version for channel in ("y", "rgb") for border in (0, 4)
    }
    assert len(versions) == 4
    with pytest.raises(ConfigError, match=r"ssim\.channel: must be 'y' or 'rgb', got 'v'"):
        SSIMReward(channel="v")
    with pytest.raises(ConfigError, match=r"psnr\.crop_border: must be >= 0, got -1"):
        PSNRReward(crop_border=-1)
    with pytest.raises(ConfigError, match=r"psnr\.crop_border: must be >= 0, got -1"):
        load_reward("psnr", crop_border=-1)


def test_ensemble_hands_references_on():
    one, other = noisy_pair()
    both = RewardEnsemble([load_reward("psnr"), load_reward("ssim")])
    assert both([one], metadata=[{"reference": other}]).isfinite().all()
    with pytest.raises(DataError, match="needs a reference per picture"):
        both([one])
