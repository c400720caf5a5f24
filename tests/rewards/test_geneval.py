"""GenEval's rules by hand, on lines of the published metadata, and the reward over detectors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from diffalign.exceptions import ConfigError, DataError
from diffalign.rewards import GenEvalReward, Sample, load_reward
from diffalign.rewards.geneval import detect_shapes, scene_requirements
from diffalign.rewards.geneval_rules import (
    Detection,
    keep_detections,
    read_requirements,
    relative_position,
    soft_score,
    strict_score,
)
from diffalign.rewards.scene import Thing, captions, parse_caption, render_scene

# As prompts/evaluation_metadata.jsonl of the benchmark has them.
LINES: dict[str, dict[str, Any]] = {
    line["tag"]: line
    for line in json.loads("""[
{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
{"tag": "two_object", "include": [{"class": "bench", "count": 1}, {"class": "sports ball", "count": 1}],
 "prompt": "a photo of a bench and a sports ball"},
{"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}],
 "prompt": "a photo of two clocks"},
{"tag": "colors", "include": [{"class": "car", "count": 1, "color": "pink"}], "prompt": "a photo of a pink car"},
{"tag": "position", "include": [{"class": "teddy bear", "count": 1},
 {"class": "dog", "count": 1, "position": ["right of", 0]}], "prompt": "a photo of a dog right of a teddy bear"},
{"tag": "color_attr", "include": [{"class": "bus", "count": 1, "color": "green"},
 {"class": "microwave", "count": 1, "color": "purple"}], "prompt": "a photo of a green bus and a purple microwave"}
]""")
}
LEFT, RIGHT = (0.0, 40.0, 20.0, 60.0), (80.0, 40.0, 100.0, 60.0)


def found(name: str, box: tuple[float, float, float, float] = LEFT, score: float = 0.95, colour: str = "") -> Detection:
    return Detection(name, score, box, colour)


def scores(tag: str, *detections: Detection) -> tuple[float, float, float]:
    """Strict, soft, and soft as Flow-GRPO's code counts."""
    wanted = read_requirements(LINES[tag])
    kept = keep_detections(detections, wanted.tag)
    soft = soft_score(wanted, kept)
    return strict_score(wanted, kept), soft, soft_score(wanted, kept, like_flow_grpo=True)


@pytest.mark.parametrize(
    ("tag", "detections", "expected"),
    [
        ("single_object", [found("bench")], (1, 1, 1)),
        ("single_object", [], (0, 0, 0)),
        ("single_object", [found("bench"), found("bench")], (1, 0, 0)),  # the benchmark lets more of them pass
        ("single_object", [found("bench")] * 4, (1, 0, -2)),  # the code falls below 0
        ("single_object", [found("bench", score=0.3)], (0, 0, 0)),  # must be above
        ("two_object", [found("bench")], (0, 0.5, 0.5)),
        ("counting", [found("clock"), found("clock")], (1, 1, 1)),
        ("counting", [found("clock")], (0, 0.5, 0.5)),
        ("counting", [found("clock")] * 3, (0, 0.5, 0.5)),  # excluded
        ("counting", [found("clock"), found("clock", score=0.85)], (0, 0.5, 0.5)),  # 0.9 where objects are counted
        ("colors", [found("car", colour="pink")], (1, 1, 1)),
        ("colors", [found("car", colour="red")], (0, 0.5, 0.5)),
        ("colors", [], (0, 0, 0)),
        (
            "colors",
            [found("car", score=0.5, colour="red"), found("car", colour="pink")],
            (1, 0, 0),
        ),  # the surest counts
        ("color_attr", [found("bus", colour="green"), found("microwave", colour="red")], (0, 0.75, 0.75)),
        ("position", [found("teddy bear"), found("dog", RIGHT)], (1, 1, 1)),
        ("position", [found("teddy bear", RIGHT), found("dog")], (0, 2 / 3, 0.75)),  # a missed position: 0, or 0 and 1
        ("position", [found("teddy bear")], (0, 1 / 3, 1 / 3)),
        ("position", [found("dog", RIGHT)], (0, 1 / 3, 1 / 3)),  # nothing to stand beside
    ],
)
def test_published_lines_by_hand(tag: str, detections: list[Detection], expected: tuple[float, float, float]) -> None:
    assert scores(tag, *detections) == pytest.approx(expected)


def test_colour_and_position_of_one_requirement() -> None:
    line = {
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "color": "red", "position": ["above", 0]},
        ]
    }
    wanted = read_requirements(line)
    cat, dog = found("cat", (0.0, 80.0, 20.0, 100.0)), found("dog", (0.0, 0.0, 20.0, 20.0), colour="blue")
    kept = keep_detections([cat, dog], "")
    assert strict_score(wanted, kept) == 0
    assert soft_score(wanted, kept) == pytest.approx(2 / 4)  # counts right, colour wrong, position not looked at
    assert soft_score(wanted, kept, like_flow_grpo=True) == pytest.approx(2 / 3)  # which the code leaves out
    kept = keep_detections([cat], "")
    assert soft_score(wanted, kept) == pytest.approx(1 / 4)
    assert soft_score(wanted, kept, like_flow_grpo=True) == pytest.approx(1 / 3)  # one 0 for both


@pytest.mark.parametrize(
    ("box", "sides"),
    [
        ((80, 40, 100, 60), {"right of"}),
        ((-60, 40, -40, 60), {"left of"}),
        ((0, -60, 20, -40), {"above"}),
        ((80, 120, 100, 140), {"right of", "below"}),  # both directions have more than half of the distance
        ((3, 40, 23, 60), set()),  # 0.1 of both widths is 4
        ((0, 40, 20, 60), set()),
        ((8, 40, 28, 60), set()),  # 8 - 4 is half of 8, not more
        ((9, 40, 29, 60), {"right of"}),
    ],
)
def test_sides(box: tuple[float, float, float, float], sides: set[str]) -> None:
    assert relative_position(found("a", tuple(map(float, box))), found("b")) == sides


def test_sixteen_of_a_class_at_most_the_surest_first() -> None:
    many = [found("cup", score=0.4 + place / 100) for place in range(20)]
    kept = keep_detections([*many, found("fork", score=0.1)], "")["cup"]
    assert len(kept) == 16 and kept[0].score == pytest.approx(0.59) and kept[-1].score == pytest.approx(0.44)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({}, "include: must list what the picture has to show"),
        ({"include": "dog"}, "include: must be a list"),
        ({"include": [{"count": 1}]}, r"include\[0\]: must have a class"),
        ({"include": [{"class": "dog", "count": 0}]}, r"include\[0\].count: must be a whole number, 1 or more, got 0"),
        (
            {"include": [{"class": "dog", "count": 1, "color": "teal"}]},
            r"include\[0\].color: must be one of red, .*'teal'",
        ),
        ({"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}, "the first entry has no earlier one"),
        (
            {"include": [{"class": "a", "count": 1}, {"class": "b", "count": 1, "position": ["above", 1]}]},
            r"include\[1\].position: must name an earlier entry, 0 to 0, got 1",
        ),
        (
            {"include": [{"class": "a", "count": 1}, {"class": "b", "count": 1, "position": ["near", 0]}]},
            r"include\[1\].position: must be \[one of left of",
        ),
        ({"include": [{"class": "a", "count": 1}], "exclude": [{"class": "a"}]}, r"exclude\[0\].count: .* got None"),
    ],
)
def test_what_is_wrong_with_requirements(line: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_requirements(line)


# ---------------------------------------------------------------- the reward


def test_any_detector_serves() -> None:
    def detect(pixels: np.ndarray) -> list[Detection]:
        return [found("car", colour="pink" if pixels.mean() > 100 else "black")]

    pictures = [np.full((8, 8, 3), level, np.uint8) for level in (200, 0)]
    line = LINES["colors"]
    reward = GenEvalReward(detect=detect, form="soft")
    output = reward.score([*(Sample(picture, metadata=line) for picture in pictures), Sample(pictures[0])])
    assert output.values[:2].tolist() == [1.0, 0.5] and output.components["strict"][:2].tolist() == [1.0, 0.0]
    assert output.values[2].isnan() and "include: must list" in str(output.reasons[2])
    assert reward.spec.needs == ("metadata",)


def things(text: str) -> tuple[Thing, ...]:
    scene = parse_caption(text)
    assert scene is not None
    return scene.things


@pytest.mark.parametrize("form", ["strict", "soft", "flow_grpo"])
def test_scenes_that_are_right_get_one(form: str) -> None:
    rng, reward = np.random.default_rng(0), load_reward("geneval", form=form)
    texts = [text for kind in ("single", "count", "both", "relation") for text in captions(kind)[::97]]
    texts = [text for text in texts if len({thing.shape for thing in things(text)}) == len(things(text))]
    pictures = [render_scene(parse_caption(text), rng, size=64) for text in texts]
    assert reward(pictures, texts).tolist() == [1.0] * len(texts)


def test_scenes_that_are_wrong() -> None:
    rng = np.random.default_rng(0)
    picture = render_scene(parse_caption("a red circle left of a blue square"), rng)
    texts = ["a red circle right of a blue square", "a green circle left of a blue square"]
    texts += ["two red circles", "a red cross"]
    output = GenEvalReward(form="soft").score([Sample(picture, text) for text in texts])
    assert output.components["strict"].tolist() == [0.0] * 4
    # counts, colours, position: of 5; of a group without its colour no position is right
    assert output.values.tolist() == pytest.approx([4 / 5, 3 / 5, 1 / 4, 0.0])
    assert output.components["found"].tolist() == [2.0] * 4


def test_metadata_come_before_the_caption() -> None:
    picture = render_scene(parse_caption("a red circle"), np.random.default_rng(0))
    line = {"tag": "single_object", "include": [{"class": "circle", "count": 1}]}
    reward = GenEvalReward()
    assert reward([picture, picture], ["a cat", "a red circle"], [line, {}]).tolist() == [1.0, 1.0]
    output = reward.score([Sample(picture, "a cat")])
    assert "not of the scene grammar" in str(output.reasons[0])


def test_requirements_of_captions() -> None:
    assert scene_requirements(parse_caption("a red circle left of a blue square")) == {
        "tag": "position",
        "include": [
            {"class": "square", "count": 1, "color": "blue"},
            {"class": "circle", "count": 1, "color": "red", "position": ["left of", 0]},
        ],
        "exclude": [],
    }
    assert scene_requirements(parse_caption("two green crosses"))["exclude"] == [{"class": "cross", "count": 3}]
    with pytest.raises(DataError, match="cannot tell two things of one class apart"):
        scene_requirements(parse_caption("a red circle and a blue circle"))


def test_boxes_are_in_pixels_of_the_picture() -> None:
    picture = render_scene(parse_caption("a red square"), np.random.default_rng(0), size=128)
    (one,) = detect_shapes(np.asarray(picture))
    rows, columns = np.nonzero(np.asarray(picture)[..., 0] > 130)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert (one.name, one.colour, one.score) == ("square", "red", 1.0)
    assert one.box == pytest.approx(edges, abs=4)


def test_options_are_checked(unchecked_types: None) -> None:
    with pytest.raises(ConfigError, match=r"geneval\.form: must be 'strict', 'soft' or 'flow_grpo', got 'hard'"):
        GenEvalReward(form="hard")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"geneval\.detector: must be 'shapes', got 'mask2former'"):
        GenEvalReward(detector="mask2former")  # type: ignore[arg-type]


def test_a_detector_of_one_s_own_is_known_by_the_version_that_it_is_given():
    unnamed = {GenEvalReward(detect=lambda pixels: []).spec.version for _ in range(2)}
    named = {GenEvalReward(detect=lambda pixels: [], detect_version="mine-2").spec.version for _ in range(2)}
    assert len(unnamed) == 2 and len(named) == 1
