"""Samples and judgements as bytes: they come back as they were, and whatever is no message is said to be none."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from diffalign.exceptions import DataError
from diffalign.rewards import REWARDS, Audio, JPEGReward, Sample, SceneReward, Video
from diffalign.rewards.wire import (
    MAGIC,
    pack,
    pack_judged,
    pack_sample,
    pack_samples,
    read_judged,
    read_samples,
    read_spec,
    spec_facts,
    unpack,
)

SPEC = replace(JPEGReward().spec, needs=("prompt", "metadata"))
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
MESSAGE = pack_samples([pack_sample(PIXELS, Sample(PIXELS, "a", id="x"), SPEC)], rewards=["jpeg"])


def changed(**facts) -> bytes:
    """The message of one sample, with something else in its header."""
    header = json.loads(MESSAGE[len(MAGIC) + 8 : -24])
    header["facts"]["samples"][0] |= facts.pop("sample", {})
    raw = json.dumps(header | facts).encode()
    return MAGIC + len(raw).to_bytes(8, "little") + raw + MESSAGE[-24:]


def test_media_prompts_and_metadata_come_back():
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 50)).astype(np.float32)
    media = [PIXELS, Audio(noise, 16000), Video(np.stack([PIXELS, PIXELS[::-1]]), 12.5), PIXELS[:, ::-1]]
    told = [{}, {"tag": ["é", None, 1.5]}, {}, {"reference": PIXELS.astype(float) / 255}]
    prompts = ["", 'a "sign" \n', "猫", "c"]
    samples = [Sample(*each, id=f"s{place}") for place, each in enumerate(zip(media, prompts, told, strict=True))]
    specs = [SPEC, SPEC, SPEC, replace(SPEC, needs=("reference",))]
    packed = [pack_sample(sample.media, sample, spec) for sample, spec in zip(samples, specs, strict=True)]
    facts, found = read_samples(pack_samples(packed, rewards=["jpeg"]))
    assert facts["rewards"] == ["jpeg"]
    assert [(each.prompt, each.id) for each in found] == [(each.prompt, each.id) for each in samples]
    np.testing.assert_array_equal(found[0].media, PIXELS)
    np.testing.assert_array_equal(found[1].media.waveform, noise)
    np.testing.assert_array_equal(found[2].media.frames, media[2].frames)
    np.testing.assert_array_equal(found[3].media, PIXELS[:, ::-1])
    np.testing.assert_array_equal(found[3].metadata["reference"], PIXELS)
    assert (found[1].media.rate, found[2].media.fps) == (16000, 12.5)
    assert found[1].metadata == told[1]


def test_metadata_go_only_where_they_are_needed():
    sample = Sample(PIXELS, "a", {"row": object()})
    assert read_samples(pack_samples([pack_sample(PIXELS, sample, JPEGReward().spec)]))[1][0].metadata == {}
    with pytest.raises(DataError, match="metadata 'row' cannot be sent or remembered, since it is not JSON"):
        pack_sample(PIXELS, sample, SPEC)


def test_judgements_come_back_to_the_bit():
    reward = SceneReward()
    third = {name: 1 / 3 for name in reward.components} | {reward.components[0]: math.nan}
    judged = [(0.1 + 0.2, third), "it is broken: é", (1e-300, {name: 0.0 for name in reward.components})]
    message = pack_judged({"a": judged[:1], "scene": judged}, {"a": JPEGReward(), "scene": reward})
    version, found = read_judged(message, "scene", 3)
    assert version == reward.spec.version and found[1:] == judged[1:]
    assert found[0][0] == 0.1 + 0.2 and repr(found[0][1]) == repr(third)
    with pytest.raises(DataError, match="does not speak of 2 samples"):
        read_judged(message, "scene", 2)
    with pytest.raises(DataError, match="KeyError: 'clip'"):
        read_judged(message, "clip", 3)


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_specs_come_back(name):
    class Told(JPEGReward):
        components, batch = ("a", "b"), 7

    reward = Told()
    reward.spec = REWARDS[name].spec
    text = json.dumps(spec_facts(reward), allow_nan=False)
    assert read_spec(json.loads(text)) == (reward.spec, ("a", "b"), 7)


@pytest.mark.parametrize("facts", [{}, {"spec": {}}, {"spec": {"name": "x", "range": [0, 1], "needs": []}}, [], None])
def test_what_is_no_spec(facts):
    with pytest.raises(DataError, match="spec"):
        read_spec(facts)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "not a message of diffalign"),
        (b"\x80\x04\x95 a pickle, of all things", "not a message of diffalign"),
        (MAGIC, "not a message"),
        (MESSAGE[:40], "its header should have"),
        (
            MAGIC + (2**63).to_bytes(8, "little") + b"{}",
            "should have 9223372036854775808 bytes, and 2 are",
        ),
        (MAGIC + (4).to_bytes(8, "little") + b"\xff\xff{}", "its header is not what it should be"),
        (MAGIC + (2).to_bytes(8, "little") + b"{}", "KeyError: 'facts'"),
        (MAGIC + (100_000).to_bytes(8, "little") + b"[" * 100_000, "RecursionError"),
        (MESSAGE[:-1], "its arrays should have more bytes than the 23 that are there"),
        (MESSAGE + b"x", "1 bytes stand behind its last array"),
        (changed(arrays=[{"dtype": "object", "shape": [1]}]), "KeyError: 'object'"),
        (changed(arrays=[{"dtype": "uint8", "shape": [-24]}]), "a shape must be a list of sizes"),
        (changed(arrays=[{"dtype": "uint8", "shape": [10**12, 10**12]}]), "its arrays should have more bytes"),
        (changed(arrays=[{"dtype": "uint8", "shape": [0, 10**30]}]), "an array cannot have the shape [0, 1000"),
        (changed(arrays=[{"dtype": "float64", "shape": [2**62, 0, 2**62]}]), "an array cannot have the shape"),
        (changed(arrays=[{"dtype": "uint8", "shape": [2, 4, True]}]), "a shape must be a list of sizes"),
        (changed(arrays=[{"dtype": "uint8", "shape": [1] * 7}]), "a shape must be a list of sizes"),
        (changed(arrays=[{"dtype": "uint8", "shape": [24]}]), "a picture array must be"),
        (changed(arrays=[{"dtype": "float32", "shape": [6]}]), "no medium of kind 'image' and float32"),
        (changed(facts=[]), "its facts must be a mapping"),
        (changed(facts={}), "KeyError: 'samples'"),
        (changed(sample={"media": []}), "IndexError"),
        (changed(sample={"media": [{"kind": "image", "arrays": [1]}]}), "IndexError"),
        (changed(sample={"media": [{"kind": "image", "arrays": [-1]}]}), "arrays are told by their places"),
        (changed(sample={"media": [{"kind": "mesh", "arrays": [0]}]}), "no medium of kind 'mesh'"),
        (changed(sample={"media": [{"kind": "video", "arrays": [0], "fps": "2"}]}), "a rate must be a number, got '2'"),
        (changed(sample={"prompt": 3}), "prompt and id must be text"),
        (changed(sample={"metadata": 3}), "TypeError"),
    ],
)
def test_what_is_no_message(message, reason):
    with pytest.raises(DataError) as caught:
        read_samples(message)
    assert reason in str(caught.value)


def test_only_plain_numbers_and_facts_are_packed():
    with pytest.raises(KeyError):
        pack({}, [np.array([object()])])
    with pytest.raises(ValueError):
        pack({"value": math.nan})
    facts, (array,) = unpack(pack({"a": 1}, [np.arange(6, dtype=">f8").reshape(2, 3).T]))
    assert facts == {"a": 1} and array.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
