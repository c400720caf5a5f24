"""Scores that are kept: equal to those that are not, and never of something else."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffalign.config.rewards import SceneParams
from diffalign.exceptions import ConfigError
from diffalign.rewards import CachedReward, RewardSpec, Sample, SampleReward, build_reward, cached, load_reward
from diffalign.rewards.cache import FILE, sample_key, score_key

PICTURES = [np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8) for seed in range(6)]


class Counting(SampleReward):
    """The brightness of pictures whose prompt is not "bad"; counts how often it is asked."""

    components, batch = ("half", "none"), 2

    def __init__(self, version: str = "1", needs=("prompt",), **spec) -> None:
        self.asked, self.sizes = [], []
        self.spec = RewardSpec(
            name="counting",
            version=version,
            media="image",
            level="instance",
            unit="1",
            range=(0.0, 255.0),
            differentiable=True,
            licence="Apache-2.0",
            needs=needs,
            source="these tests",
            **spec,
        )

    def judge_batch(self, media, samples):
        self.sizes.append(len(media))
        return super().judge_batch(media, samples)

    def judge(self, medium, sample):
        self.asked.append(sample.id)
        if sample.prompt == "bad":
            raise ValueError if sample.metadata.get("crash") else _reason()
        value = math.nan if sample.prompt == "nan" else float(medium.mean()) / 3
        return value, {"half": float(medium.mean()) / 2, "none": math.nan}


def _reason():
    from diffalign.exceptions import DataError

    return DataError("the prompt is bad")


def samples(prompt: str = "a", **facts) -> list[Sample]:
    return [Sample(picture, prompt, facts, id=str(place)) for place, picture in enumerate(PICTURES)]


def equal(output, other) -> None:
    torch.testing.assert_close(output.values, other.values, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(output.components, other.components, rtol=0, atol=0, equal_nan=True)
    assert output.reasons == other.reasons


def test_equal_with_and_without(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    plain, counting = Counting(), Counting()
    reward = cached(counting, tmp_path / "new" / "folder")
    odd = [Sample(None, "a"), Sample(PICTURES[0], "bad"), Sample(PICTURES[1], "nan")]
    for batch in (samples()[:3], [*samples(), *odd], samples()[::-1], [*samples()[:1] * 3, *odd]):
        equal(reward.score(batch), plain.score(batch))
    assert counting.asked == ["0", "1", "2", "3", "4", "5", "", "", "", ""]  # failures are asked again
    assert max(counting.sizes) == 2  # the reward's own batch
    assert (reward.asked, reward.known) == (22, 12)
    assert reward.spec == replace(plain.spec, differentiable=False) and reward.components == plain.components
    again = Counting()
    equal(cached(again, tmp_path / "new" / "folder").score(samples()), plain.score(samples()))
    assert again.asked == []
    del reward
    assert "counting: 12 of 22 scores came from the cache" in caplog.text


def test_what_makes_another_score_makes_another_key():
    spec = Counting(needs=("prompt", "metadata", "reference")).spec
    facts = {"reference": PICTURES[1], "tag": [1, {"b": 2, "a": 1}]}
    sample = Sample(PICTURES[0], "a", facts, id="x")

    def key(medium=PICTURES[0], prompt="a", spec=spec, **other) -> str:
        return sample_key(spec, medium, Sample(medium, prompt, facts | other, id="y"))

    assert key() == sample_key(spec, PICTURES[0], sample)
    assert key(tag=[1, {"a": 1, "b": 2}]) == key(reference=PICTURES[1] / 255) == key()
    others = [
        key(PICTURES[2]),
        key(PICTURES[0].reshape(6, 4, 3)),  # the same bytes
        key(prompt="b"),
        key(tag=[1]),
        key(reference=PICTURES[2]),
        key(spec=replace(spec, version="2")),
        key(spec=replace(spec, name="other")),
        key(spec=replace(spec, needs=("prompt", "metadata"))),
    ]
    assert len({key(), *others}) == 9
    free = replace(spec, needs=())
    assert key(spec=free) == key(spec=free, prompt="b") == key(spec=free, tag=object(), reference=None)


def test_keys_of_earlier_scores_stay_what_they_were():
    """Recorded: files that `score` has written hold digests by these keys."""
    assert score_key(load_reward("scene").spec, "a red circle", "0123") == "eab65ee06965b05ebcf691d8aae1b44c"
    assert score_key(load_reward("psnr").spec, "x", "0123", "45") == "3c312290e518600f16c4cc5bfce47b62"


def test_what_cannot_be_known_has_the_rewards_own_reason(tmp_path):
    plain = load_reward("psnr")
    batch = [Sample(PICTURES[0]), Sample(PICTURES[0], metadata={"reference": PICTURES[1]})]
    reward = load_reward("psnr", cache=str(tmp_path))
    for _ in range(2):
        equal(reward.score(batch), plain.score(batch))
    assert reward.known == 1


def test_the_option_of_every_reward(tmp_path):
    reward = build_reward(SceneParams(form="graded", cache=str(tmp_path)))
    assert isinstance(reward, CachedReward) and reward.reward.form == "graded"
    plain = load_reward("scene", form="graded")
    for _ in range(2):
        torch.testing.assert_close(reward(PICTURES, ["a red circle"] * 6), plain(PICTURES, ["a red circle"] * 6))
    assert reward.known == 6
    strict = load_reward("scene", cache=str(tmp_path))  # of another version, in the same folder
    strict(PICTURES, ["a red circle"] * 6)
    assert strict.known == 0


def test_of_what_is_not_deterministic_the_first_score_is_kept(tmp_path, caplog):
    class Drifting(Counting):
        """One more each time."""

        def judge(self, medium, sample):
            value, parts = super().judge(medium, sample)
            return value + len(self.asked), parts

    caplog.set_level(logging.INFO)
    reward = cached(Drifting(deterministic=False), tmp_path)
    first = reward.score(samples())
    equal(reward.score(samples()), first)
    equal(cached(Drifting(deterministic=False), tmp_path).score(samples()), first)
    assert not reward.spec.deterministic and "counting may score a sample otherwise the next time" in caplog.text


def test_an_error_of_the_reward_is_passed_on_and_nothing_is_kept(tmp_path):
    reward = cached(Counting(), tmp_path)
    with pytest.raises(ValueError):
        reward.score([Sample(PICTURES[0], "bad", {"crash": True})])
    assert reward.score(samples()).reasons == (None,) * 6


def test_threads_and_forks_share_a_folder(tmp_path):
    many = [Sample(np.full((2, 2, 3), shade, dtype=np.uint8), "a") for shade in range(60)]
    expected = Counting().score(many)
    rewards = [cached(Counting(), tmp_path) for _ in range(4)]
    outputs = [None] * 4

    def work(place: int) -> None:
        for first in range(0, 60, 10):
            rewards[place].score(many[first : first + 10])
        outputs[place] = rewards[place].score(many)

    child = os.fork()
    if child == 0:
        work(0)
        os._exit(0 if rewards[0].known >= 60 else 1)
    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for output in outputs:
        equal(output, expected)
    with sqlite3.connect(tmp_path / FILE) as file:
        assert file.execute("SELECT count(*) FROM scores").fetchone() == (60,)


def test_a_file_that_breaks_costs_time_alone(tmp_path, caplog):
    reward = cached(Counting(), tmp_path)
    reward.score(samples())
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    for _ in range(2):
        equal(reward.score(samples()), Counting().score(samples()))
    assert caplog.text.count("scores are not kept") == 1
    with pytest.raises(ConfigError, match=r"counting\.cache: .*scores.sqlite cannot be used: file is not a database"):
        cached(Counting(), tmp_path)
    with pytest.raises(ConfigError, match="cannot be used"):
        cached(Counting(), tmp_path / FILE / "below")


def test_what_a_reward_reads_without_needing_it_counts():
    """The notes that a sound is to hold stand in the prompt or in the metadata, where they are there."""
    spec = load_reward("notes").spec
    keys = [
        score_key(spec, prompt, "0123", metadata=told)
        for prompt, told in (("play A4", "1"), ("play C4", "1"), ("play A4", "2"))
    ]
    assert len(set(keys)) == 3
