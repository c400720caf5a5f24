"""Geometry and damage: a picture file to a square tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.data.media_files import read_video
from diffalign.data.records import open_picture, picture_bytes
from diffalign.exceptions import DataError
from tests.data.pictures import encode, picture_file


def ramp(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("size", "left", "top"), [((16, 16), 0, 0), ((40, 16), 12, 0), ((16, 40), 0, 12), ((17, 16), 0, 0)]
)
def test_crop_is_the_centre_at_unchanged_scale(size, left, top):
    seen = open_picture(encode(ramp(*size)), "x", 16).pixels * 255
    assert seen.shape == (3, 16, 16)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen[0, 0], torch.arange(left, left + 16).float())
    torch.testing.assert_close(seen[1, :, 0], torch.arange(top, top + 16).float())


def test_shorter_side_is_resized():
    seen = open_picture(encode(ramp(200, 100)), "x", 10).pixels * 255
    assert seen.shape == (3, 10, 10)
    # columns 50..150 of the original, averaged ten by ten (antialiased, to one grey level)
    expected = torch.arange(10) * 10 + 54.5
    assert (seen[0, 5] - expected).abs().max() <= 1.0


@pytest.mark.parametrize("size", [(8, 8), (3, 5), (1, 1), (7, 500)])
@pytest.mark.parametrize("resolution", [8, 13])
def test_any_size_gives_the_square(size, resolution):
    seen = open_picture(picture_file(size=size), "x", resolution).pixels
    assert seen.shape == (3, resolution, resolution)
    assert 0 <= seen.min() <= seen.max() <= 1


def test_grey_of_16_bits_keeps_its_shades():
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for form in ("PNG", "TIFF"):
        seen = open_picture(encode(Image.fromarray(shades), form), "x", 8).pixels
        torch.testing.assert_close(seen[0], torch.from_numpy(shades / 65535).float(), rtol=0, atol=0.5 / 255)


def test_grey_of_32_bits_is_refused():
    with pytest.raises(DataError, match=r"record 'x': not a readable picture \(mode F: 32 bits without a known white"):
        open_picture(encode(Image.fromarray(np.ones((8, 8), dtype=np.float32)), "TIFF"), "x", 8)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_modes_become_rgb(mode):
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert open_picture(encode(ramp(8, 8).convert(mode), form), "x", 8).pixels.shape == (3, 8, 8)


def test_orientation_of_the_camera_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    sideways = encode(ramp(16, 16), "PNG", exif=exif)
    upright = open_picture(encode(ramp(16, 16).rotate(-90)), "x", 16)
    torch.testing.assert_close(open_picture(sideways, "x", 16).pixels, upright.pixels)


@pytest.mark.parametrize(
    ("size", "crop", "mirrored"),
    [
        ((16, 16), [16, 16, 0, 0, 16, 16], [16, 16, 0, 0, 16, 16]),
        ((40, 16), [16, 40, 0, 12, 16, 16], [16, 40, 0, 12, 16, 16]),
        (
            (41, 16),
            [16, 41, 0, 12, 16, 16],
            [16, 41, 0, 13, 16, 16],
        ),  # an odd rest: the mirror image has it at the left
        ((16, 41), [41, 16, 12, 0, 16, 16], [41, 16, 12, 0, 16, 16]),
        ((80, 32), [32, 80, 0, 12, 16, 16], [32, 80, 0, 12, 16, 16]),  # the corner is one of the resized picture
        ((4, 8), [8, 4, 8, 0, 16, 16], [8, 4, 8, 0, 16, 16]),  # a small picture says so: SDXL was trained on that, too
    ],
)
def test_crop_is_told_in_sdxl_s_order(size, crop, mirrored):
    """Height and width as it came, top and left of the square, height and width of the square."""
    seen = open_picture(encode(ramp(*size)), "x", 16)
    assert seen.crop.tolist() == crop
    assert seen.mirrored().crop.tolist() == mirrored
    assert torch.equal(seen.mirrored().pixels, seen.pixels.flip(-1))
    again = open_picture(encode(ramp(*size).transpose(Image.Transpose.FLIP_LEFT_RIGHT)), "x", 16)
    if size[0] % 2 == 0:  # else the centre of the mirror image lies a column further
        assert (again.pixels - seen.mirrored().pixels).abs().max() < 0.01
    assert seen.mirrored().mirrored().corner == seen.corner


def test_size_is_that_of_the_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_picture(encode(ramp(40, 16), "PNG", exif=exif), "x", 16).crop.tolist() == [40, 16, 12, 0, 16, 16]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a picture",
        picture_file(form="JPEG", size=(64, 64))[:-200],
        picture_file(form="PNG", size=(64, 64))[:-40],
        picture_file(form="PNG", size=(64, 64))[:60] + b"\x00" * 200,
        picture_file(form="GIF")[:30],
        b"GIF89a" + b"\xff" * 30,
    ],
)
def test_damaged_picture_names_the_record(content):
    with pytest.raises(DataError, match=f"record 'seven': not a readable picture .*; {len(content)} bytes"):
        open_picture(content, "seven", 8)


def test_missing_file_names_the_record(tmp_path):
    with pytest.raises(DataError, match=r"record 'seven': cannot read .*absent.png: No such file"):
        picture_bytes(tmp_path / "absent.png", "seven")
    with pytest.raises(DataError, match=r"record 'seven': cannot read .*: Is a directory"):
        picture_bytes(tmp_path, "seven")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_lies_on_white(form):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 0, 0, 255)  # the rest is black that is not seen
    options = {"lossless": True} if form == "WEBP" else {}
    seen = open_picture(encode(Image.fromarray(pixels), form, **options), "x", 8).pixels
    assert seen[:, :, :4].mean((1, 2)).tolist() == [1, 0, 0]
    assert seen[:, :, 4:].min() == 1


def test_a_transparent_colour_lies_on_white():
    for shade, kind in ((7, np.uint8), (700, np.uint16)):
        grey = Image.fromarray(np.full((8, 8), shade, kind))
        assert open_picture(encode(grey, transparency=shade), "x", 8).pixels.min() == 1
    moving = [Image.new("P", (8, 8), colour) for colour in (1, 2)]
    content = encode(moving[0], "GIF", save_all=True, append_images=moving[1:], transparency=1)
    assert open_picture(content, "x", 8).pixels.min() == 1
    assert read_video(content, "x")[0][0].min() == 255
