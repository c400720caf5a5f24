"""What VGG-16 sees: values that the file gives to another reader, trends, gradients, and the rewards made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.exceptions import ShapeError
from diffalign.rewards import PerceptualDistanceReward, PerceptualEncoder, Sample, load_encoder, load_reward
from diffalign.rewards.perceptual import perceptual_distance
from diffalign.rewards.scene import parse_caption, render_scene
from tests.rewards.photo_like import noisy, photo_like

# Recorded with the weights read by h5py and the network written as plain calls of torch's conv2d.
PLACES, RECORDED = [0, 1, 200, 500, 900, 1700], [0.01513, 16.48542, 0.0, 2.39611, 0.0, 4.03407]


def tensor(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def coarser(picture: np.ndarray, times: int) -> np.ndarray:
    height, width = picture.shape[:2]
    small = Image.fromarray(picture).resize((width // times, height // times), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def test_features_are_those_of_the_file() -> None:
    (row,) = PerceptualEncoder(side=64, device="cpu").encode([photo_like(64, 80)])
    assert isinstance(row, torch.Tensor) and row.shape == (1792,) and row.dtype == torch.float64
    assert row[PLACES].tolist() == pytest.approx(RECORDED, abs=2e-4)


def test_encoder_skips_what_is_no_picture_and_depends_on_no_neighbour() -> None:
    encoder, picture = PerceptualEncoder(side=32, device="cpu"), photo_like(40, 30)
    alone, reason, again = *encoder.encode([picture]), *encoder.encode(["x.png", picture])
    assert isinstance(reason, str) and "got str" in reason
    torch.testing.assert_close(alone, again, rtol=0, atol=0)


def test_gradients_reach_the_pictures() -> None:
    encoder, pictures = PerceptualEncoder(side=32, device="cpu"), tensor(photo_like(32, 32)).requires_grad_()
    (gradient,) = torch.autograd.grad(encoder.encode_tensor(pictures).sum(), pictures)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    (row,) = encoder.encode([photo_like(32, 32)])
    torch.testing.assert_close(encoder.encode_tensor(pictures)[0].double(), row, rtol=1e-3, atol=1e-3)


def test_vendi_by_what_is_shown() -> None:
    """Four places of one shape are nearly one picture; four things are more."""
    rng = np.random.default_rng(0)
    same = [render_scene(parse_caption("a red circle"), rng) for _ in range(4)]
    others = [render_scene(parse_caption(text), rng) for text in ("a red circle", "a blue cross", "a white square")]
    vendi = load_reward("vendi", encoder="perceptual", kernel="cosine")
    assert 1 <= vendi(same) < vendi([*others, same[0]]) <= 4
    assert load_encoder("perceptual").version.endswith("-128")


@pytest.mark.parametrize("spoil", [lambda p, n: noisy(p, 12.75 * n), lambda p, n: coarser(p, 2 * n)])
def test_distance_grows_with_the_damage(spoil) -> None:
    picture = photo_like(64, 80)
    distances = [perceptual_distance(tensor(spoil(picture, step)), tensor(picture)).item() for step in (1, 2, 4)]
    assert 0.01 < distances[0] < distances[1] < distances[2] < 2


def test_equal_pictures_have_none_and_order_does_not_matter() -> None:
    one, other = tensor(photo_like(16, 16)), tensor(photo_like(16, 16, seed=1))
    assert perceptual_distance(one, one).item() == 0
    assert perceptual_distance(one, other).item() == pytest.approx(perceptual_distance(other, one).item())


def test_distance_by_hand_of_unit_features() -> None:
    """Written the long way from the network's activations."""
    from diffalign.rewards._vgg import load_vgg

    one, other = tensor(photo_like(32, 32)), tensor(photo_like(32, 32, seed=1))
    net, total = load_vgg("cpu"), 0.0
    for a, b in zip(net(one), net(other), strict=True):
        unit = [x / x.square().sum(1, keepdim=True).sqrt().clamp(min=1e-10) for x in (a, b)]
        total += (unit[0] - unit[1]).square().sum(1).mean().item() / 5
    assert perceptual_distance(one, other).item() == pytest.approx(total, rel=1e-5)


def test_reward_is_minus_the_distance_and_has_gradients() -> None:
    reward, picture, other = PerceptualDistanceReward(device="cpu"), photo_like(32, 32), photo_like(32, 32, seed=1)
    values = reward([picture, picture], metadata=[{"reference": picture}, {"reference": other}])
    assert values[0] == 0 and -2 <= values[1] < -0.1
    pictures = tensor(picture).requires_grad_()
    score = reward.score_tensor(pictures, tensor(other))
    torch.testing.assert_close(score.detach(), values[1:])
    step = torch.autograd.grad(score.sum(), pictures)[0]
    with torch.no_grad():  # a step along the gradient comes nearer
        assert reward.score_tensor(pictures + 0.01 * step / step.abs().max(), tensor(other)) > score


def test_other_sizes_are_refused() -> None:
    output = PerceptualDistanceReward().score([Sample(photo_like(32, 32), metadata={"reference": photo_like(32, 40)})])
    assert output.values.isnan().all() and "they must be of one size" in str(output.reasons[0])
    with pytest.raises(ShapeError, match="16 pixels a side"):
        perceptual_distance(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
