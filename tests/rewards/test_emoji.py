"""The emoji reward: likeness to the designers' pictures, by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from diffalign.data import read_prompts
from diffalign.exceptions import ConfigError
from diffalign.rewards import Sample, load_reward
from diffalign.rewards import emoji as module
from diffalign.rewards.emoji import describe_picture
from diffalign.zoo import locate

WHITE = np.full((32, 32, 3), 255, np.uint8)


def disc(colour: tuple[int, int, int], radius: float = 15.0, side: int = 32) -> np.ndarray:
    """A filled disc on white."""
    down, right = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.full((side, side, 3), 255, np.uint8)
    picture[np.hypot(down, right) < radius * side / 32] = colour
    return picture


def judged(picture, prompt: str) -> dict[str, float]:
    output = load_reward("emoji").score([Sample(picture, prompt)])
    assert output.reasons == (None,)
    return {name: values.item() for name, values in output.components.items()}


def test_description_of_a_plain_picture_is_its_colour_and_no_edges():
    described = describe_picture(np.full((8, 8, 3), (255, 0, 0), np.uint8))
    assert described.shape == (320,)
    luma, blue, red = described[:192].reshape(64, 3).T.astype(int)
    assert (abs(luma - 76) <= 1).all() and (abs(blue - 85) <= 1).all() and (red >= 254).all()  # of pure red in YCbCr
    assert not described[192:].any()


def test_edges_are_filed_by_their_direction_and_place():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 255  # one upright edge: the gradient points right, direction 0
    edges = describe_picture(picture)[192:].reshape(4, 4, 8)
    filed = np.argwhere(edges)
    assert {tuple(place[1:]) for place in filed} == {(1, 0), (2, 0)}  # columns 15 and 16
    assert np.square(edges.astype(float) / 255).sum() == pytest.approx(1, abs=0.01)
    turned = describe_picture(np.ascontiguousarray(picture.transpose(1, 0, 2)))[192:].reshape(4, 4, 8)
    assert {tuple(place[[0, 2]]) for place in np.argwhere(turned)} == {(1, 4), (2, 4)}


def test_a_picture_of_any_size_has_the_same_description():
    large = np.kron(disc((200, 30, 40)), np.ones((4, 4, 1), np.uint8))
    np.testing.assert_array_equal(describe_picture(large), describe_picture(disc((200, 30, 40))))


def test_a_large_picture_is_averaged_not_sampled():
    down, right = np.mgrid[:64, :64]
    chequered = np.repeat((255 * ((down + right) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    assert set(describe_picture(chequered)[:192:3]) <= {127, 128}


def test_five_names_of_all_are_among_the_five_most_alike():
    rows = module._read_atlas()[0]
    output = load_reward("emoji").score([Sample(disc((255, 204, 60)), name) for name in rows])
    assert output.components["top5"].sum() == 5
    assert output.components["strict"].sum() == 1
    assert output.components["reciprocal"].sort(descending=True).values[:6].tolist() == pytest.approx(
        [1 / place for place in range(1, 7)]
    )


def test_a_yellow_disc_is_liker_a_smile_than_a_tree():
    face, tree = judged(disc((255, 204, 60)), "smiling face"), judged(disc((255, 204, 60)), "evergreen tree")
    assert face["likeness"] > tree["likeness"] + 0.3
    assert face["reciprocal"] > tree["reciprocal"]


def test_the_value_is_the_form_and_parts_agree():
    pictures = [disc((230, 30, 40), radius) for radius in (5, 10, 15)]
    for picture in pictures:
        parts = judged(picture, "red heart")
        place = round(1 / parts["reciprocal"])
        assert parts["strict"] == (place == 1) and parts["top5"] == (place <= 5)
        assert -1 <= parts["likeness"] <= 1
        for form in ("strict", "reciprocal", "likeness"):
            assert load_reward("emoji", form=form)([picture], ["red heart"]).item() == pytest.approx(parts[form])


def test_what_is_drawn_is_found(monkeypatch):
    """With a book of two pictures, each is nearest to itself: place 1, likeness 1; to the other -1."""
    pictures = {"one": disc((255, 0, 0)), "two": WHITE}
    raw = np.stack([describe_picture(picture) for picture in pictures.values()]).astype(np.float32)
    mean, scale = raw.mean(0), raw.std(0) + 1
    book = ({name: row for row, name in enumerate(pictures)}, mean, scale, module._unit((raw - mean) / scale))
    monkeypatch.setattr(module, "_read_atlas", lambda: book)
    for name, picture in pictures.items():
        assert judged(picture, name) == pytest.approx(
            {"strict": 1, "top5": 1, "reciprocal": 1, "likeness": 1}, abs=1e-5
        )
    assert judged(WHITE, "one") == pytest.approx({"strict": 0, "top5": 1, "reciprocal": 0.5, "likeness": -1}, abs=1e-5)


def test_an_unknown_name_is_not_scored_and_the_nearest_is_named():
    output = load_reward("emoji").score([Sample(WHITE, "red hart"), Sample(WHITE, "red heart"), Sample(WHITE, "qqqq")])
    assert np.isnan(output.values.numpy()).tolist() == [True, False, True]
    assert "did you mean 'red heart'" in str(output.reasons[0])
    assert "'qqqq' is not the name of an emoji of the zoo; write for example 'red heart'" in str(output.reasons[2])


def test_wrong_form():
    with pytest.raises(ConfigError, match=r"emoji\.form: must be 'strict', 'reciprocal' or 'likeness'"):
        load_reward("emoji", form="graded")


def test_the_book_has_every_name_that_is_asked_for_and_says_whose_pictures_they_are():
    with safe_open(Path(module.__file__).with_name("emoji.safetensors"), framework="numpy") as file:
        about, described = file.metadata(), file.get_tensor("descriptions")
    names = json.loads(about["names"])
    assert described.shape == (len(names), 320) == (1141, 320)
    assert len(set(names)) == len(names)
    assert set(read_prompts(locate("zoo://emoji-sd3/held_out"))) <= set(names)
    assert "SIL Open Font License 1.1" in about["pictures"]


def test_the_designers_own_pictures_are_found():
    from makers.emoji_pictures import FONT, draw_emoji, emoji

    if not FONT.is_file():
        pytest.skip("needs Debian's fonts-noto-color-emoji")
    chosen = emoji()[::40]
    pictures = [Image.fromarray(picture) for picture in draw_emoji(chosen).permute(0, 2, 3, 1).numpy()]
    output = load_reward("emoji").score(
        [Sample(*pair) for pair in zip(pictures, (one.name for one in chosen), strict=True)]
    )
    assert output.values.tolist() == [1.0] * len(chosen)
    assert output.components["likeness"].min() > 0.999
