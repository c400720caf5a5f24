"""The text that a prompt quotes: the distance by hand, what counts as wanted, and the recogniser on rendered words."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import random
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from diffalign.exceptions import ConfigError, MissingExtraError
from diffalign.rewards import OCRReward, Sample, load_reward
from diffalign.rewards import _text_reader as text_reader
from diffalign.rewards.functional import edit_distance, edit_reward
from diffalign.rewards.ocr import quoted_text


def written(*lines: str, side: int = 128, size: int = 20, ink: Any = "black", paper: Any = "white") -> Image.Image:
    picture = Image.new("RGB", (side, side), paper)
    for place, line in enumerate(lines, 1):
        centre = (side / 2, side * place / (len(lines) + 1))
        ImageDraw.Draw(picture).text(centre, line, ink, font=ImageFont.load_default(size), anchor="mm")
    return picture


# ---------------------------------------------------------------- the distance


@cache
def recursive(first: str, second: str) -> int:
    """The definition: the shortest way by one change at a time."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        recursive(first[1:], second) + 1,
        recursive(first, second[1:]) + 1,
        recursive(first[1:], second[1:]) + (first[0] != second[0]),
    )


def test_distance_is_levenshtein_s():
    draw = random.Random(0)
    texts = ["", "a", "kitten", "sitting", *("".join(draw.choices("abc", k=draw.randrange(8))) for _ in range(40))]
    for first, second in itertools.product(texts, repeat=2):
        assert edit_distance(first, second) == recursive(first, second), (first, second)
    assert edit_distance("kitten", "sitting") == 3


@pytest.mark.parametrize(
    ("recognised", "target", "reward"),
    [
        ("Hello World", "Hello World", 1.0),
        ("hello  WORLD", "He lloWorld", 1.0),  # spaces and case do not count
        ("HELL0 WORLD", "Hello World", 0.9),
        ("before Hello World and after", "Hello World", 1.0),  # garbage around it is free
        ("before Hell World and after", "Hello World", 0.0),  # ... but not around a word that is wrong
        ("", "sale", 0.0),
        ("sal", "sale", 0.75),
        ("xxxxxxxxxxxxxxxxxxxxxxxx", "sale", 0.0),  # never below 0
        ("sales and more of it", "cat", 0.0),
        ("ＳＡＬＥ　５０％", "sale 50%", 1.0),  # full-width
    ],
)
def test_rewards_by_hand(recognised, target, reward):
    assert edit_reward(recognised, target) == pytest.approx(reward)


def published(recognised: str, target: str) -> float:
    """Flow-GRPO's definition, written the long way."""
    recognised, target = (each.replace(" ", "").lower() for each in (recognised, target))
    distance = 0 if target in recognised else recursive(recognised, target)
    return 1 - min(distance, len(target)) / len(target)


def test_parity_with_the_published_form():
    draw = random.Random(1)
    for _ in range(300):
        recognised, target = ("".join(draw.choices("aBc ", k=draw.randrange(9))) for _ in range(2))
        if target.strip():
            assert edit_reward(recognised, target, nfkc=False) == pytest.approx(published(recognised, target))
    assert edit_reward("ＳＡＬＥ", "sale", nfkc=False) == 0 == published("ＳＡＬＥ", "sale")


def test_nothing_wanted_has_no_reward():
    with pytest.raises(ValueError, match="no letter in it"):
        edit_reward("anything", "  ")


# ---------------------------------------------------------------- what is wanted


class Said:
    """A recogniser that says what it is told, and notes what it was shown."""

    def __init__(self, *lines: tuple[str, float]) -> None:
        self.lines, self.seen = lines, 0

    def __call__(self, pixels: Any) -> Any:
        self.seen += 1
        return self.lines


def judged(prompt: str, *lines: tuple[str, float], **options: Any) -> tuple[float, str | None]:
    output = OCRReward(read=Said(*lines), **options).score([Sample(np.zeros((8, 8, 3), np.uint8), prompt, id="r")])
    return output.values.item(), output.reasons[0]


@pytest.mark.parametrize(
    ("prompt", "quoted"),
    [
        ('a sign "Hello" at night', "Hello"),
        ('"one" and "two"', "one"),
        ('a "" sign', ""),
        ("a sign", None),
        ('a 24" screen', None),
        ("a sign “Hello”", None),
    ],
)
def test_first_pair_of_double_quotes(prompt, quoted):
    assert quoted_text(prompt) == quoted


@pytest.mark.parametrize("prompt", ["a red sign", 'a 24" screen', ""])
def test_prompt_without_quotes_is_refused_or_wanted_as_a_whole(prompt):
    read = Said((prompt, 1.0))
    output = OCRReward(read=read).score([Sample(np.zeros((8, 8, 3), np.uint8), prompt)])
    said = "no text between straight double quotes" if prompt else "it has no prompt, which ocr needs"
    assert output.values.isnan().all() and said in output.reasons[0]
    assert read.seen == 0
    value, reason = judged(prompt, (prompt, 1.0), without_quotes="whole_prompt")
    assert value == 1 if prompt else "it has no prompt" in reason


@pytest.mark.parametrize("prompt", ['a sign ""', 'a sign "   "'])
def test_empty_text_is_refused(prompt):
    value, reason = judged(prompt, ("anything", 1.0))
    assert np.isnan(value) and "asks for no text" in reason


def test_all_lines_are_one_text_and_unsure_ones_do_not_count():
    lines = (("Hello", 0.9), ("garbage", 0.0), ("World", 0.3))
    assert judged('"hello world"', *lines) == (1.0, None)
    assert judged('"hello world"', *lines, least_confidence=0.5) == (0.5, None)
    assert judged('"hello"', ("Hello", 0.5), least_confidence=0.5) == (1.0, None)


def test_full_width_letters_count_as_plain_ones_unless_told_otherwise():
    assert judged('"sale"', ("ＳＡＬＥ", 1.0)) == (1.0, None)
    assert judged('"sale"', ("ＳＡＬＥ", 1.0), nfkc=False) == (0.0, None)


def test_components_are_letters():
    output = OCRReward(read=Said(("He llo", 1.0), ("W0rld!", 1.0))).score(
        [Sample(np.zeros((8, 8, 3), np.uint8), '"hello world"')]
    )
    assert {name: part.item() for name, part in output.components.items()} == {
        "distance": 2.0,
        "target_length": 10.0,
        "recognised_length": 11.0,
    }


def test_settings_change_the_version():
    options = [
        {},
        {"nfkc": False},
        {"least_confidence": 0.5},
        {"detection_side": 640},
        {"without_quotes": "whole_prompt"},
    ]
    assert len({OCRReward(**each).spec.version for each in options}) == len(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without_quotes": "guess"}, r"ocr\.without_quotes: must be 'refuse' or 'whole_prompt', got 'guess'"),
        ({"least_confidence": 1.5}, r"ocr\.least_confidence: must lie in \[0, 1\], got 1.5"),
        ({"detection_side": 8}, "detection_side must be >= 64 and threads >= 1, got 8 and 1"),
        ({"threads": 0}, "got 320 and 0"),
    ],
)
def test_wrong_options(options, message, unchecked_types):
    with pytest.raises(ConfigError, match=message):
        OCRReward(**options)


# ---------------------------------------------------------------- the recogniser


@pytest.mark.parametrize(
    ("text", "side", "size"),
    [
        ("OPEN", 32, 10),
        ("Hello World", 64, 9),
        ("OPEN", 64, 18),
        ("NASA 2049", 128, 20),
        ("sale", 128, 48),
        ("50% off!", 256, 40),
    ],
)
def test_rendered_words_are_read(text, side, size):
    output = load_reward("ocr").score([Sample(written(text, side=side, size=size), f'a sign "{text}"')])
    assert output.reasons == (None,) and output.values.item() == 1, output.components


def test_other_words_and_none_are_not():
    pictures = [written("HOUSE"), written("OPEM"), Image.new("RGB", (128, 128), "white"), Image.new("RGB", (1, 1))]
    values = load_reward("ocr")(pictures, ['a sign "open"'] * 4)
    torch.testing.assert_close(values, torch.tensor([0.0, 0.75, 0.0, 0.0]))


def test_garbage_around_the_word_is_free():
    pictures = [written("xqz", "Hello World", "mkjw", size=16), written("Hello World", size=16)]
    output = load_reward("ocr").score([Sample(picture, '"hello world"') for picture in pictures])
    assert output.values.tolist() == [1.0, 1.0]
    assert output.components["recognised_length"].tolist() == [17.0, 10.0]


def test_lines_are_read_from_the_top():
    assert load_reward("ocr")([written("Hello", "World", size=24)], ['"hello world"']).tolist() == [1.0]


def test_coloured_text():
    pictures = [written("OPEN", ink=ink, paper=paper) for ink, paper in (("red", "blue"), ("yellow", "green"))]
    assert load_reward("ocr")(pictures, ['"open"'] * 2).tolist() == [1.0, 1.0]


class Recorder:
    """In RapidOCR's place: notes how it was made, and what it was shown."""

    def __init__(self, params: dict[str, Any]) -> None:
        Recorder.params, Recorder.shown = params, []

    def __call__(self, array: Any) -> Any:
        Recorder.shown.append(array)
        if array[0, 0, 0] == 7:
            raise RuntimeError("out of paper")
        return type("Output", (), {"txts": None, "scores": None})()


@pytest.fixture
def recorder(monkeypatch):
    import rapidocr

    monkeypatch.setattr(rapidocr, "RapidOCR", Recorder)
    text_reader.load_reader.cache_clear()
    yield Recorder
    text_reader.load_reader.cache_clear()


def test_engine_gets_bgr_its_own_models_and_the_settings(recorder):
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255
    load_reward("ocr", detection_side=640, threads=2)([red], ['"x"'])
    assert recorder.shown[0][3, 4].tolist() == [0, 0, 255]
    assert recorder.shown[0].flags["C_CONTIGUOUS"]
    params = recorder.params
    assert params["Det.limit_side_len"] == 640 and params["EngineConfig.onnxruntime.intra_op_num_threads"] == 2
    assert params["Global.text_score"] == 0 and params["Global.use_cls"] is False
    assert all("rapidocr" in params[f"{part}.model_path"] for part in ("Det", "Rec"))


def test_failing_engine_is_nan_with_reason_and_spares_the_rest(recorder):
    good, bad = np.full((2, 20, 30, 3), 5, np.uint8), np.full((20, 30, 3), 7, np.uint8)
    output = load_reward("ocr").score([Sample(each, '"x"') for each in (good[0], bad, good[1])])
    assert output.values.isnan().tolist() == [False, True, False]
    assert output.reasons[1] == "the text recogniser failed: RuntimeError: out of paper"


def test_picture_that_the_detector_would_lose_is_refused():
    output = load_reward("ocr").score([Sample(np.zeros((400, 20, 3), np.uint8), '"x"')])
    assert output.values.isnan().all() and "too narrow" in output.reasons[0]
    assert load_reward("ocr")(
        [np.zeros((20, 400, 3), np.uint8), np.zeros((300, 20, 3), np.uint8)], ['"x"'] * 2
    ).tolist() == [0, 0]


def test_one_engine_for_all_rewards_of_the_same_settings():
    assert text_reader.load_reader(320, 1) is text_reader.load_reader(320, 1)


def test_models_of_another_version_are_refused(recorder, monkeypatch):
    for name, digest in (("PP-OCRv9_det_huge.onnx", "0"), ("PP-OCRv6_det_small.onnx", "0" * 64)):
        monkeypatch.setattr(text_reader, "_MODELS", {name: digest})
        text_reader.load_reader.cache_clear()
        with pytest.raises(ConfigError, match=rf"rapidocr has not the {name}.*pip install -U"):
            load_reward("ocr")([written("x")], ['"x"'])


def test_version_names_the_reader():
    assert f"rapidocr-{importlib.metadata.version('rapidocr')}" in load_reward("ocr").spec.version
    versions = {OCRReward(read=lambda pixels: []).spec.version for _ in range(2)}
    assert len(versions) == 2  # nobody knows whether they read alike
    named = {OCRReward(read=lambda pixels: [], read_version="mine-1").spec.version for _ in range(2)}
    assert len(named) == 1


def test_extra_that_is_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "rapidocr" else find(name, *rest)
    )
    text_reader.load_reader.cache_clear()
    for use in (lambda: load_reward("ocr"), lambda: OCRReward()([written("x")], ['"x"'])):
        with pytest.raises(MissingExtraError, match=r'needs rapidocr; install with: pip install "diffalign\[ocr\]"'):
            use()


def test_no_network_and_nothing_printed(tmp_path):
    """In a fresh interpreter, with a home folder that is empty and sockets that cannot be opened."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from PIL import Image\n"
        "from diffalign.rewards import load_reward\n"
        "value = load_reward('ocr')([Image.new('RGB', (64, 64))], ['\"x\"'])\n"
        "assert value.tolist() == [0.0] and 'rapidocr' in sys.modules\n"
    )
    environment = {key: each for key, each in os.environ.items() if key != "HF_HUB_OFFLINE"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
