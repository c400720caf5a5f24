"""The grammar, the renderer, the checker's verdict on true, false and damaged pictures, and the reward made of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from diffalign.exceptions import ConfigError
from diffalign.rewards import Sample, SceneReward
from diffalign.rewards.scene import (
    BACKGROUND,
    COLOURS,
    SHAPES,
    Scene,
    Thing,
    captions,
    check_scene,
    find_objects,
    held_out_captions,
    holds,
    is_held_out,
    parse_caption,
    render_scene,
    training_captions,
)

KINDS = ("single", "count", "both", "relation")
RELATION = Scene((Thing("red", "circle"), Thing("blue", "square")), "left of")


def draw(scene: Scene | str, seed: int = 0, size: int = 32) -> np.ndarray:
    scene = parse_caption(scene) if isinstance(scene, str) else scene
    return np.asarray(render_scene(scene, np.random.default_rng(seed), size))


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)))


def noisy(picture: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-most, most + 1, picture.shape)
    return (picture.astype(int) + noise).clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------- grammar


def test_number_of_captions():
    assert [len(captions(kind)) for kind in KINDS] == [24, 48, 552, 2208]


@pytest.mark.parametrize("kind", KINDS)
def test_every_caption_parses_to_its_kind(kind):
    assert all(parse_caption(text).kind == kind for text in captions(kind))


def test_captions_mean_different_scenes():
    scenes = {parse_caption(text) for kind in KINDS for text in captions(kind)}
    assert len(scenes) == 24 + 48 + 552 + 2208


@pytest.mark.parametrize(
    ("caption", "scene"),
    [
        ("A red  circle.", Scene((Thing("red", "circle"),))),
        ("two green crosses", Scene((Thing("green", "cross", 2),))),
        ("a red circle left of a blue square", RELATION),
        ("a red circle and a red circle", Scene((Thing("red", "circle", 2),))),
        ("a red circle left of a red circle", None),  # which of the two?
        ("a pink circle", None),
        ("four red circles", None),
        ("a photo of a red circle", None),
        ("", None),
    ],
)
def test_parse_caption(caption, scene):
    assert parse_caption(caption) == scene


def test_held_out_and_training_captions_share_none():
    held, training = held_out_captions(), training_captions()
    assert not set(held) & set(training)
    assert len(held) + len(training) == 24 + 48 + 552 + 2208
    assert 0.18 < len(held) / (552 + 2208) < 0.22
    assert not any(is_held_out(text) for kind in ("single", "count") for text in captions(kind))


def test_order_of_held_out_captions_is_fixed():
    """Evaluation prompts are heads of this list: a new order is another benchmark."""
    assert len(held_out_captions()) == 552
    assert held_out_captions()[:3] == [
        "a yellow circle left of a white cross",
        "a white cross right of a red square",
        "a blue triangle right of a purple square",
    ]


# ---------------------------------------------------------------- renderer


def test_render_is_a_function_of_the_generator():
    np.testing.assert_array_equal(draw(RELATION, 3), draw(RELATION, 3))
    assert (draw(RELATION, 3) != draw(RELATION, 4)).any()


def test_render_is_what_the_zoo_was_trained_on():
    picture = draw(RELATION, 0)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert tuple(picture[0, 0]) == BACKGROUND
    assert int(picture.sum()) == 149538


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_holds_exactly_one_way(relation):
    near, far = np.array([4.0, 16.0]), np.array([24.0, 16.0])
    assert holds(relation, near, far, margin=5.0, slant=1.0) == (relation == "left of")
    assert not holds(relation, near, near, margin=5.0, slant=1.0)


# ---------------------------------------------------------------- checker: true pictures


def sample_of_captions() -> list[str]:
    return captions("single") + captions("count") + captions("both")[::9] + captions("relation")[::23]


@pytest.mark.parametrize(
    ("damage", "share"),
    [
        (lambda picture: picture, 1.0),
        (lambda picture: blurred(picture, 0.5), 0.99),
        (lambda picture: noisy(picture, 6), 0.99),
        (lambda picture: noisy(blurred(picture, 0.5), 6), 0.99),
    ],
    ids=["as rendered", "blur", "noise", "blur and noise"],
)
def test_right_pictures_pass(damage, share):
    texts = sample_of_captions()
    passed = [check_scene(damage(draw(text, seed)), parse_caption(text)).strict for seed, text in enumerate(texts)]
    assert np.mean(passed) >= share


@pytest.mark.slow
def test_every_caption_passes():
    """All but about one in 3,000 renders: the renderer lets the corners of two squares touch, which is one blob."""
    texts = [text for kind in KINDS for text in captions(kind)]
    passed = [check_scene(draw(text, seed), parse_caption(text)).strict for seed, text in enumerate(texts)]
    assert np.mean(passed) > 0.998


@pytest.mark.parametrize("size", [64, 128])
def test_other_sizes_are_resized(size):
    assert check_scene(draw(RELATION, 0, size), RELATION).strict


def test_small_circles_are_not_squares():
    """On whole pixels an 8 pixel circle is a square without its four corner pixels."""
    found = [find_objects(draw("a white circle", seed))[0] for seed in range(60)]
    assert all(item.shape == "circle" for item in found)
    assert min(item.overlap["circle"] - item.overlap["square"] for item in found) > 0.1


def test_found_objects_are_where_they_were_drawn():
    first, second = sorted(find_objects(draw(RELATION)), key=lambda item: item.x)
    assert (first.colour, first.shape, second.colour, second.shape) == ("red", "circle", "blue", "square")


# ---------------------------------------------------------------- checker: false pictures


def merged() -> np.ndarray:
    picture = np.full((32, 32, 3), BACKGROUND, dtype=np.uint8)
    picture[10:20, 6:26] = COLOURS["red"]
    return picture


def with_corner(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    picture = picture.copy()
    corner = min(itertools.product((0, 25), repeat=2), key=lambda at: picture[at[0] :, at[1] :][:7, :7].sum())
    picture[corner[0] :, corner[1] :][:7, :7] = colour
    return picture


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((32, 32, 3), colour, dtype=np.uint8)


PAIR = (Thing("red", "circle"), Thing("blue", "square"))
FALSE = {
    "wrong colour": ("a red circle", draw("a blue circle")),
    "wrong shape": ("a red circle", draw("a red square")),
    "swapped": ("a red circle left of a blue square", draw(Scene(PAIR, "right of"))),
    "beside, not above": ("a red circle above a blue square", draw(RELATION)),
    "colours exchanged": ("a red circle left of a blue square", draw("a blue circle left of a red square")),
    "missing": ("a red circle and a blue square", draw("a red circle")),
    "extra": ("a red circle", draw("a red circle and a blue square")),
    "one too few": ("three red circles", draw("two red circles")),
    "one too many": ("two red circles", draw("three red circles")),
    "merged": ("two red squares", merged()),
    "blank": ("a red circle", plain(BACKGROUND)),
    "all white": ("a white square", plain(COLOURS["white"])),  # a square, but a backdrop and not an object
    "noise": ("a red circle", noisy(plain((128, 128, 128)), 128)),
    "inverted": ("a red circle", 255 - draw("a red circle")),
    "strange blob": ("a red circle", with_corner(draw("a red circle"), (0, 230, 230))),  # cyan is no palette colour
    "strange background": (
        "a red circle",
        np.where((draw("a red circle") == BACKGROUND).all(-1)[..., None], (0, 120, 120), draw("a red circle")),
    ),
}


@pytest.mark.parametrize("case", FALSE)
def test_wrong_pictures_fail(case):
    caption, picture = FALSE[case]
    verdict = check_scene(picture.astype(np.uint8), parse_caption(caption))
    assert not verdict.strict
    assert verdict.graded < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_passes_as_another_caption(kind):
    """Pictures of 20 captions against 20 captions: the verdicts are the identity matrix (pairs imply no count)."""
    texts = captions(kind)[:: len(captions(kind)) // 20][:20]
    pictures = [draw(text, seed) for seed, text in enumerate(texts)]
    verdicts = [[check_scene(picture, parse_caption(text)).strict for text in texts] for picture in pictures]
    np.testing.assert_array_equal(np.array(verdicts), np.eye(len(texts), dtype=bool))


# ---------------------------------------------------------------- reward


def test_graded_falls_with_what_is_missing():
    pictures = [draw(RELATION), draw(Scene(PAIR, "right of")), draw("a red circle"), plain(BACKGROUND)]
    scores = SceneReward(form="graded")(
        [Image.fromarray(p) for p in pictures], ["a red circle left of a blue square"] * 4
    )
    perfect, swapped, missing, blank = scores.tolist()
    assert 0.95 < perfect <= 1.0
    assert perfect > swapped + 0.1 > missing + 0.2 > blank + 0.3
    assert blank == pytest.approx(0.2)  # nothing is there, but nothing is wrong either


@pytest.mark.parametrize("form", ["strict", "graded"])
def test_values_are_the_chosen_component(form):
    batch = [Sample(draw("a red circle"), "a red circle"), Sample(draw("a red circle"), "a red square")]
    output = SceneReward(form=form).score(batch)
    torch.testing.assert_close(output.values, output.components[form])
    assert set(output.components) == {"strict", "graded", "objects", "arrangement", "clean"}
    assert output.components["strict"].tolist() == [1.0, 0.0]
    low, high = SceneReward(form=form).spec.range
    assert all(low <= value <= high for values in output.components.values() for value in values.tolist())


def test_graded_is_the_documented_sum():
    parts = SceneReward().score([Sample(draw("two red circles"), "three red circles")]).components
    expected = 0.5 * parts["objects"] + 0.3 * parts["arrangement"] + 0.2 * parts["clean"]
    torch.testing.assert_close(parts["graded"], expected)


def test_prompt_outside_the_grammar_is_unscored():
    output = SceneReward().score(
        [Sample(draw("a red circle"), "a happy dog"), Sample(draw("a red circle"), "a red circle")]
    )
    assert output.values.isnan().tolist() == [True, False]
    assert "a happy dog" in output.reasons[0] and "grammar" in output.reasons[0]
    assert output.reasons[1] is None
    assert all(values[0].isnan() for values in output.components.values())


def test_unknown_form(unchecked_types):
    with pytest.raises(ConfigError, match=r"scene\.form: must be 'strict' or 'graded', got 'soft'"):
        SceneReward(form="soft")


def test_every_shape_and_colour_is_its_own():
    for colour, shape in itertools.product(COLOURS, SHAPES):
        (found,) = find_objects(draw(Scene((Thing(colour, shape),)), 1))
        assert (found.colour, found.shape) == (colour, shape)
