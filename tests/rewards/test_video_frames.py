"""Which frames Qwen2-VL sees, how large and in which patches: by hand, by the authors' formula and by transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from diffalign.exceptions import DataError
from diffalign.rewards.squares import normalised
from diffalign.rewards.video_frames import LEAST_PIXELS, frame_places, frame_size, patches_of, scaled_frames


@pytest.mark.parametrize(
    ("frames", "fps", "wanted", "places"),
    [
        (81, 16.0, 2.0, [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]),  # 10.1 frames of 5.1 seconds
        (5, 8.0, 2.0, [0, 1, 3, 4]),  # four at least
        (3, 8.0, 2.0, [0, 2]),  # an even number of three
        (2, 30.0, 2.0, [0, 1]),
        (40, 16.0, 2.0, [0, 13, 26, 39]),  # 5 is as near to 4 as to 6, and 5/2 is rounded to the even
        (56, 16.0, 2.0, [0, 8, 16, 24, 31, 39, 47, 55]),  # 7 becomes 8
        (6, 2.0, 8.0, [0, 1, 2, 3, 4, 5]),  # no more than there are
    ],
)
def test_frames_by_hand(frames, fps, wanted, places):
    assert frame_places(frames, fps, wanted=wanted) == places


def test_long_videos_and_single_frames():
    assert len(frame_places(4000, 2.0, wanted=2.0)) == 768
    with pytest.raises(DataError, match="2 frames or more to be scored, got 1"):
        frame_places(1, 8.0, wanted=2.0)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ((480, 832), (336, 588)),  # 476 x 840 is too much: both over 1.4106, down to a multiple of 28
        ((256, 256), (336, 336)),  # 252 x 252 is too little: both times 1.2374, up
        ((448, 448), (448, 448)),
        ((320, 512), (308, 504)),  # the nearest multiples
    ],
)
def test_sizes_by_hand(given, size):
    assert frame_size(*given, most=200704) == size


def test_sizes_are_those_of_transformers():
    for height, width in np.random.default_rng(0).integers(30, 1500, (200, 2)).tolist():
        for most in (200704, 400000):
            expected = smart_resize(height, width, 28, LEAST_PIXELS, most)
            assert frame_size(height, width, most=most) == expected, (height, width)


def test_patches_are_by_the_authors_formula():
    """transformers 4.45, image_processing_qwen2_vl.py: what VideoReward was trained with."""
    frames = torch.rand(4, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    patches = normalised(frames).numpy().reshape(2, 2, 3, 2, 2, 14, 3, 2, 14)
    expected = patches.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(2 * 4 * 6, 3 * 2 * 14 * 14)
    torch.testing.assert_close(patches_of(frames), torch.from_numpy(expected), rtol=0, atol=0)


def test_a_still_is_as_transformers_takes_a_picture():
    picture = np.random.default_rng(0).integers(0, 256, (336, 308, 3), dtype=np.uint8)
    told = Qwen2VLImageProcessorPil(do_resize=False)(images=[picture], return_tensors="pt")
    found = patches_of(scaled_frames(torch.from_numpy(np.stack([picture, picture])), (336, 308)))
    assert told["image_grid_thw"].tolist() == [[1, 24, 22]]
    torch.testing.assert_close(found, told["pixel_values"], rtol=0, atol=1e-5)


def test_scaling_keeps_what_is_even_and_rounds():
    grey = torch.full((2, 40, 60, 3), 77, dtype=torch.uint8)
    torch.testing.assert_close(scaled_frames(grey, (56, 84)), torch.full((2, 3, 56, 84), 77 / 255))
    noise = torch.randint(0, 256, (1, 30, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    steps = scaled_frames(noise, (56, 56)) * 255
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert steps.min() >= 0 and steps.max() <= 255
