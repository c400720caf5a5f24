"""Well-formed and malformed shapes: what the renderer draws, what is squeezed or cut, and own detectors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from diffalign.exceptions import ConfigError
from diffalign.rewards import DistortionReward, Sample, load_reward
from diffalign.rewards.distortion import shape_forms
from diffalign.rewards.scene import BACKGROUND, COLOURS, SHAPES, find_objects, parse_caption, render_scene


def drawn(caption: str, seed: int = 0, size: int = 32) -> np.ndarray:
    return np.asarray(render_scene(parse_caption(caption), np.random.default_rng(seed), size))


def page(*polygons: list[tuple[float, float]], colour: str = "red") -> np.ndarray:
    """A picture of polygons, in pixels of 32x32, antialiased."""
    canvas = Image.new("RGB", (128, 128), BACKGROUND)
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon([(4 * x, 4 * y) for x, y in polygon], fill=COLOURS[colour])
    return np.asarray(canvas.reduce(4))


SQUARE = [(10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0)]


@pytest.mark.parametrize(("colour", "shape"), list(itertools.product(COLOURS, SHAPES)))
def test_what_the_renderer_draws_is_well_formed(colour: str, shape: str) -> None:
    for seed in range(3):
        assert shape_forms(drawn(f"a {colour} {shape}", seed)) == [1.0]


def test_several_objects_and_larger_pictures() -> None:
    assert shape_forms(drawn("three blue crosses", seed=1)) == [1.0] * 3
    assert shape_forms(drawn("a red circle left of a white triangle", size=64)) == [1.0] * 2


@pytest.mark.parametrize(
    ("picture", "low", "high"),
    [
        pytest.param(page(SQUARE), 1.0, 1.0, id="square"),
        pytest.param(page([(8, 12), (24, 12), (24, 20), (8, 20)]), 0.0, 0.03, id="twice as wide as high"),
        pytest.param(page([(9, 12), (21, 12), (21, 21), (9, 21)]), 0.5, 0.75, id="a third wider than high"),
        pytest.param(page([(10, 10), (20, 10), (10, 20)]), 0.1, 0.9, id="half a square"),
        pytest.param(page([(10, 10), (20, 10), (20, 13), (13, 13), (13, 20), (10, 20)]), 0.0, 0.3, id="an angle"),
        pytest.param(page([(2, 2), (30, 2), (30, 30), (2, 30)]), 0.0, 0.0, id="a backdrop"),
        pytest.param(page([(10, 10), (13, 10), (13, 13), (10, 13)]), 0.0, 0.0, id="a speck"),
    ],
)
def test_malformed_shapes(picture: np.ndarray, low: float, high: float) -> None:
    (form,) = shape_forms(picture)
    assert low <= form <= high


def test_a_colour_off_the_palette_counts_nothing() -> None:
    picture = page(SQUARE).copy()
    picture[3:8, 3:8] = (120, 120, 120)
    assert sorted(shape_forms(picture)) == [0.0, 1.0]


def test_mean_worst_and_nothing_at_all() -> None:
    both = page(SQUARE, [(22.0, 24.0), (30.0, 24.0), (30.0, 28.0), (22.0, 28.0)])
    empty = page()
    output = DistortionReward().score([Sample(both), Sample(empty)])
    assert output.values.tolist() == pytest.approx([0.5, 0.0], abs=0.02)
    assert output.components["worst"].tolist() == pytest.approx([0.0, 0.0], abs=0.02)
    assert output.components["objects"].tolist() == [2.0, 0.0]
    assert load_reward("distortion", form="worst")([both]).item() == output.components["worst"][0].item()


def test_boxes_are_where_objects_are() -> None:
    (found,) = find_objects(page([(10.0, 8.0), (20.0, 8.0), (20.0, 19.0), (10.0, 19.0)]))
    assert found.box == pytest.approx((10, 8, 20, 19), abs=0.5)


def test_a_detector_of_your_own() -> None:
    reward = DistortionReward(detect=lambda pixels: [1.0, 0.5, float(pixels.mean() > 100)])
    dark, bright = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)
    assert reward([dark, bright]).tolist() == pytest.approx([0.5, 2.5 / 3])
    assert reward.spec.version != DistortionReward().spec.version
    output = DistortionReward(detect=lambda pixels: [2.0]).score([Sample(dark)])
    assert "in [0, 1], got [2.0]" in str(output.reasons[0])


def test_form_is_checked(unchecked_types: None) -> None:
    with pytest.raises(ConfigError, match=r"distortion\.form: must be 'mean' or 'worst', got 'least'"):
        DistortionReward(form="least")  # type: ignore[arg-type]


def test_a_detector_of_one_s_own_is_known_by_the_version_that_it_is_given():
    unnamed = {DistortionReward(detect=lambda pixels: []).spec.version for _ in range(2)}
    named = {DistortionReward(detect=lambda pixels: [], detect_version="mine-2").spec.version for _ in range(2)}
    assert len(unnamed) == 2 and len(named) == 1
