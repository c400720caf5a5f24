"""What holds for rewards of pictures: order, batch size, failures, forms of pictures, and what importing them brings."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from diffalign.exceptions import DataError, ShapeError
from diffalign.rewards import REWARDS, JPEGReward, Reward, RewardOutput, Sample, load_reward
from diffalign.rewards.scene import parse_caption, render_scene
from tests.rewards.tiny_blip import bert_folder, image_reward_file
from tests.rewards.tiny_clip import tiny_folder
from tests.rewards.tiny_learned import small_folder
from tests.rewards.tiny_open_clip import open_clip_file

PROMPTS = [
    "a red circle",
    "a blue square",
    "two green crosses",
    "a white triangle above a purple circle",
    "a red cross",
]
ELSEWHERE = {"http", "vlm_judge"}  # test_http_reward.py and test_vlm_judge.py have the servers that these ask
NAMES = sorted(name for name, entry in REWARDS.items() if entry.spec.media == "image" and name not in ELSEWHERE)
# of weights that people have: here small ones of the same kind
MODELS = ("clip", "pickscore", "hps", "aesthetic", "image_reward", "learned", "video_reward")
EMOJI = ["red heart", "rocket", "onion", "tiger", "cactus"]  # what the emoji reward knows of pictures is their names
WORDS = ["red", "blue", "green", "white", "cross"]


@cache
def load(name: str) -> Reward:
    if name not in MODELS:
        return load_reward(name)
    if name == "image_reward":
        return load_reward(name, weights=image_reward_file(), tokenizer=bert_folder())
    if name == "learned":
        return load_reward(name, path=small_folder())
    folder = tiny_folder(features=768 if name == "aesthetic" else 16)
    options = {"hps": {"weights": open_clip_file()}}.get(name, {"model": folder})
    return load_reward(name, **options, **({"tokenizer": folder} if name in ("hps", "pickscore") else {}))


def close(name: str) -> float:
    """What the size of a batch may change: the order in which a network's sums are taken."""
    bound = max(map(abs, load(name).spec.range))
    return 1e-6 * (bound if math.isfinite(bound) else 10.0) if name in MODELS else 0.0


@cache
def pictures(name: str = "scene") -> list[Image.Image]:
    if name == "distortion":  # one has a shape that is none
        return [
            scene.resize((32, 32), box=(0, 8, 32, 24)) if row == 1 else scene for row, scene in enumerate(pictures())
        ]
    if name == "ocr":  # the middle one is not what its prompt says
        return [written(word) for word in (*WORDS[:2], "gleem", *WORDS[3:])]
    drawn = [render_scene(parse_caption(text), np.random.default_rng(seed)) for seed, text in enumerate(PROMPTS)]
    return [*drawn[:-1], drawn[0]]  # the last one is not what its prompt says


def written(word: str) -> Image.Image:
    """A word on a picture of the scenes' height."""
    picture = Image.new("RGB", (64, 32), "white")
    ImageDraw.Draw(picture).text((32, 16), word, "black", font=ImageFont.load_default(20), anchor="mm")
    return picture


def as_tensor(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255


def prompts(name: str) -> list[str]:
    """What the reward may be asked of the pictures."""
    return {"emoji": EMOJI, "ocr": [f'the word "{word}"' for word in WORDS]}.get(name, PROMPTS)


def metadata(name: str) -> list[dict[str, Any]] | None:
    """What it needs to know of them besides: references, of which one is the picture itself."""
    if "reference" not in REWARDS[name].spec.needs:
        return None
    return [{"reference": picture} for picture in pictures()[1:] + pictures()[-1:]]


def batch(name: str) -> list[Sample]:
    rows = zip(pictures(name), prompts(name), metadata(name) or [{}] * 5, strict=True)
    return [Sample(image, text, facts, id=f"r{index}") for index, (image, text, facts) in enumerate(rows)]


@cache
def scored(name: str) -> RewardOutput:
    """What the batch gets by itself."""
    return load(name).score(batch(name))


@pytest.mark.parametrize("name", NAMES)
def test_permutation_equivariant(name):
    order = [3, 0, 4, 2, 1]
    straight, mixed = scored(name), load(name).score([batch(name)[index] for index in order])
    assert any(len(set(values.tolist())) > 1 for values in (straight.values, *straight.components.values()))
    torch.testing.assert_close(mixed.values, straight.values[order], rtol=0, atol=close(name))
    for part, values in straight.components.items():
        torch.testing.assert_close(mixed.components[part], values[order], rtol=0, atol=close(name))


@pytest.mark.parametrize("name", NAMES)
def test_batch_size_does_not_matter(name):
    one_by_one = torch.cat([load(name).score([sample]).values for sample in batch(name)])
    torch.testing.assert_close(one_by_one, scored(name).values, rtol=0, atol=close(name))


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch(name):
    output = load(name).score([])
    assert output.values.shape == (0,) and output.reasons == ()


BAD = (
    (torch.full((3, 32, 32), torch.nan), "3072 of 3072 values of the picture are not finite"),
    (torch.rand(3, 32, 32) * 2 - 1, r"must lie in \[0, 1\], got values from -"),
    (torch.rand(1, 32, 32), r"must be \[3, height, width\], got \[1, 32, 32\]"),
    (np.zeros((32, 32, 3), dtype=np.int64), "uint8, or float"),
    (np.zeros((0, 4, 3), dtype=np.float32), "must have pixels"),
    (np.zeros((0, 4, 3), dtype=np.uint8), "must have pixels"),
    (torch.zeros(3, 4, 4, dtype=torch.uint8), "float in"),
    (None, "got NoneType"),
    ("picture.png", "got str"),
)


@pytest.mark.parametrize("name", NAMES)
def test_bad_samples_are_nan_with_reasons_and_spare_the_rest(name, caplog):
    good = batch(name)
    broken = [Sample(media, "a red circle", id=f"broken-{place}") for place, (media, _) in enumerate(BAD)]
    after = load(name).score([*good[:2], *broken, *good[2:]])
    apart = slice(2, 2 + len(BAD))
    assert after.values[apart].isnan().all()
    spared = torch.cat([after.values[:2], after.values[apart.stop :]])
    torch.testing.assert_close(spared, scored(name).values, rtol=0, atol=close(name))
    for (_, reason), told in zip(BAD, after.reasons[apart], strict=True):
        assert re.search(reason, told), told
    assert after.reasons[:2] == (None, None) and after.reasons[apart.stop :] == (None,) * 3
    assert all(values[apart].isnan().all() for values in after.components.values())
    assert "broken-0" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_values_lie_in_the_declared_range(name):
    reward = load(name)
    low, high = reward.spec.range
    assert ((scored(name).values >= low) & (scored(name).values <= high)).all()
    assert reward.spec == load(name).spec
    told, listed = reward.spec, REWARDS[name].spec
    if name in MODELS:  # the version of a loaded one has its weights
        assert told.version.startswith(f"{listed.version}-")
        told = replace(told, version=listed.version, range=listed.range)
    assert told == listed and hash(told) == hash(listed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(as_tensor, id="float tensor"),
        pytest.param(lambda images: as_tensor(images).double(), id="double tensor"),
        pytest.param(lambda images: as_tensor(images).requires_grad_(), id="tensor with gradient"),
        pytest.param(lambda images: list(as_tensor(images)), id="list of tensors"),
        pytest.param(lambda images: np.stack([np.asarray(image) for image in images]), id="uint8 array"),
        pytest.param(lambda images: np.stack([np.asarray(image) / 255 for image in images]), id="float array"),
        pytest.param(lambda images: [image.convert("RGBA") for image in images], id="RGBA"),
    ],
)
def test_forms_of_pictures_agree(name, form):
    found = load(name)(form(pictures(name)), prompts(name), metadata(name))
    torch.testing.assert_close(found, scored(name).values, rtol=0, atol=0)


def test_one_picture():
    image = pictures()[0]
    scores = [load_reward("scene")(one, ["a red circle"]) for one in (image, np.asarray(image), [image])]
    assert [score.tolist() for score in scores] == [[1.0]] * 3


def test_three_lines_of_the_readme():
    scores = load_reward("scene")(pictures(), PROMPTS)
    assert scores.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_nan_picture_in_a_tensor_spares_the_rest():
    images = as_tensor(pictures())
    images[1] = torch.nan
    assert load_reward("scene")(images, PROMPTS).isnan().tolist() == [False, True, False, False, False]


def test_rounding_errors_are_forgiven():
    reward, images = load_reward("scene"), as_tensor(pictures())
    torch.testing.assert_close(reward(images * 1.0019 - 1e-4, PROMPTS), reward(images, PROMPTS))


@pytest.mark.parametrize(
    ("media", "error", "message"),
    [
        (torch.rand(3, 32, 32), ShapeError, r"\[batch, 3, height, width\], got \[3, 32, 32\]"),
        (torch.rand(2, 32, 32, 3), ShapeError, r"got \[2, 32, 32, 3\]"),
        (np.zeros((32, 32)), ShapeError, r"got \[32, 32\]"),
        (
            torch.linspace(-0.9, 0.9, 384).reshape(2, 3, 8, 8),
            DataError,
            r"from -0\.\d+ to 0\.\d+; pictures in \[-1, 1\] need \(x \+ 1\) / 2",
        ),
        (torch.rand(2, 3, 8, 8) * 255, DataError, "divide by 255"),
        (np.full((2, 8, 8, 3), 1.5), DataError, "from 1.5 to 1.5"),
        ("picture.png", DataError, "got str"),
    ],
)
def test_wrong_pictures(media, error, message):
    with pytest.raises(error, match=message):
        load_reward("jpeg")(media)


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (None, DataError, "the scene reward needs a prompt per picture"),
        (["a red circle"], ShapeError, r"prompts must be a sequence with one entry per sample \(5\), got 1"),
        ("a red circle", ShapeError, "got one str"),
    ],
)
def test_wrong_prompts(prompts, error, message):
    with pytest.raises(error, match=message):
        load_reward("scene")(pictures(), prompts)


def test_no_reference_at_all():
    message = r"psnr reward needs a reference per picture: call reward\(pictures, metadata=\[\{'reference': other\}"
    with pytest.raises(DataError, match=message):
        load_reward("psnr")(pictures())


def test_one_metadata_per_picture(unchecked_types):
    with pytest.raises(ShapeError, match=r"metadata must be .* \(5\), got one dict"):
        load_reward("jpeg")(pictures(), metadata={"source": "test"})


def test_import_is_light():
    heavy = ("diffusers", "transformers", "accelerate", "peft", "matplotlib", "rapidocr", "onnxruntime", "cv2")
    code = f"import sys, diffalign.rewards; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_value_that_is_no_number_has_a_reason():
    class Overflowing(JPEGReward):
        def judge(self, pixels, sample):
            return (math.nan if sample.prompt else 1.0), {"kilobytes": 1.0}

    output = Overflowing().score([Sample(np.zeros((4, 4, 3), np.uint8), prompt) for prompt in ("", "x")])
    assert output.values[0] == 1.0 and output.values[1].isnan()
    assert output.reasons == (None, "the jpeg reward came to nan")
    assert output.components["kilobytes"].isnan().tolist() == [False, True]


def test_an_error_of_the_reward_names_the_sample():
    class Broken(JPEGReward):
        def judge(self, pixels, sample):
            raise IndexError("out of range")

    with pytest.raises(IndexError) as caught:
        Broken().score([Sample(np.zeros((4, 4, 3), np.uint8), id="a.png")])
    assert caught.value.__notes__ == ["jpeg was judging sample 'a.png'"]
